/* What cJSON does not check of a text. Inside base/ only. */
#ifndef BASE_JSON_SCAN_H
#define BASE_JSON_SCAN_H

#include <stddef.h>

#include "base/json_numbers.h"
#include "base/status.h"

/* Checks bytes, escapes and nesting of TEXT[bytes], behind which there is a 0, and that its numbers
 * have the grammar of RFC 8259 and are finite. Fails with ERR_INPUT, as json_scan_fail() does. */
Status json_scan(const char *text, size_t bytes, const char *file, size_t line);

/* The same, and takes lists of lists of numbers out of TEXT into NUMBERS: in their place stand
 * empty ones, with their line ends. *BYTES becomes what is left. Fails with ERR_MEMORY as well. */
Status json_scan_numbers(char *text, size_t *bytes, const char *file, JsonNumbers *numbers);

/* ERR_INPUT: FILE, the line unless 0, and WHY. 0: the text is a line, which FILE names. */
Status json_scan_fail(const char *file, size_t line, const char *why);

#endif
