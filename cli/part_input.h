/* The parts of a trace on a command line: --train FROM:TO and --test FROM:TO. */
#ifndef CLI_PART_INPUT_H
#define CLI_PART_INPUT_H

#include "base/json.h"
#include "cli/options.h"
#include "sim/parts.h"

/* The options, for a command's table: where their texts go. */
#define TRAIN_OPTION(text)                                                                         \
    TEXT_OPTION("train", "FROM:TO",                                                                \
                "learn what the plan leaves to learn from these shares of the steps, as in 0:0.5", \
                text)
#define TEST_OPTION(text)                                                                          \
    TEXT_OPTION("test", "FROM:TO", "score these only; what --train leaves, where it is given", text)

/* What the options ask for; NULL: not given. */
Status part_input(const char *train, const char *test, PartsAsked *asked);
/* Adds "train" (null where nothing is learnt) and "test": the first step and the one after the
 * last, counted from 0. */
Status part_input_json(cJSON *json, const TraceParts *parts);
/* Says which steps of N_STEPS were scored, unless it is all, and START: who was resident before. */
void part_input_print(const TraceParts *parts, uint64_t n_steps, const char *start);

#endif
