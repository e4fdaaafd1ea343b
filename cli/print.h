/* What commands share in saying their result. */
#ifndef CLI_PRINT_H
#define CLI_PRINT_H

#include "base/json.h"

/* Prints JSON on stdout, indented, as the command's one document. Numbers are printed so that they
 * read back unchanged. */
Status print_json(const cJSON *json);

#endif
