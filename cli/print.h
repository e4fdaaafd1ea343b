/* What commands share in saying their result. */
#ifndef CLI_PRINT_H
#define CLI_PRINT_H

#include "base/json.h"
#include "exec/text/buffers.h"

/* Prints JSON on stdout, indented, as the command's one document. Numbers are printed so that they
 * read back unchanged. */
Status print_json(const cJSON *json);
/* Adds TEXT, any bytes, as a string: U+FFFD stands for what is no UTF-8, and for zero bytes, which
 * cJSON cannot hold. */
Status print_add_bytes(cJSON *object, const char *key, Span text);
Status print_push_bytes(cJSON *array, Span text);

#endif
