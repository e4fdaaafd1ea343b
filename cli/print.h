/* What commands share in saying their result. */
#ifndef CLI_PRINT_H
#define CLI_PRINT_H

#include "base/json.h"
#include "exec/text/buffers.h"

/* Makes the empty object that a command's one JSON document begins as. */
Status print_json_begin(cJSON **json);
/* Prints JSON on stdout, indented, unless FILLED, what became of filling it, is a failure; deletes
 * it in any case. Numbers are printed so that they read back unchanged. Returns the failure. */
Status print_json_end(cJSON *json, Status filled);
/* Adds TEXT, any bytes, as a string: U+FFFD stands for what is no UTF-8, and for zero bytes, which
 * cJSON cannot hold. */
Status print_add_bytes(cJSON *object, const char *key, Span text);
Status print_push_bytes(cJSON *array, Span text);

#endif
