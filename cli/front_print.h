/* The Pareto front of a study, for people and as JSON. */
#ifndef CLI_FRONT_PRINT_H
#define CLI_FRONT_PRINT_H

#include "base/json.h"
#include "sim/study_front.h"

Status front_print(const StudyFront *front);
/* Adds "pareto", a list by memory, to JSON. */
Status front_json(const StudyFront *front, cJSON *json);

#endif
