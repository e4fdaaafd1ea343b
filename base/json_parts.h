/* What parsing JSON is made of. Only for base/json_*.c. */
#ifndef BASE_JSON_PARTS_H
#define BASE_JSON_PARTS_H

#include "base/json.h"

/* Reads the number of RFC 8259 at *AT, some place in a text that ends with 0, and moves *AT behind
 * it: the double that is nearest to it, infinite when it is too large, as strtod() would give.
 * False where none stands. */
bool json_number_read(const char **at, double *value);

/* Numbers one after the other; VALUES is freed with mem_free(). */
typedef struct {
    double *values;
    size_t n;
    size_t room;
} JsonNumbers;

/* Makes NODE the matrix that stands at the bracket *AT, and moves *AT behind it; where none stands,
 * nothing. NUMBERS is scratch. Fails with ERR_MEMORY. */
Status json_matrix_read(const char **at, JsonNumbers *numbers, cJSON *node);

/* Length of the valid UTF-8 sequence at TEXT, of BYTES from there on, 0 when there is none. RFC
 * 3629: no surrogates, no overlong forms. */
size_t json_utf8_length(const unsigned char *text, size_t bytes);

/* The tree of TEXT, whose byte BYTES is 0, as cJSON would make it, in what cJSON allocates with.
 * NULL when memory ends, or when TEXT is not JSON as base/json.h wants it; *END is where it was
 * left. *DOUBTFUL: there may be a key twice in an object. MATRICES: as json_load_matrices(). */
cJSON *json_tree(const char *text, size_t bytes, bool matrices, const char **end, bool *doubtful);

/* Says why TEXT cannot be read, of what is wrong besides its structure: bytes, strings, numbers and
 * nesting. FILE and LINE, of the first, begin the message; 0: FILE names the line. */
Status json_scan(const char *text, size_t bytes, const char *file, size_t line);
/* Record "FILE: line LINE: WHY". */
Status json_scan_fail(const char *file, size_t line, const char *why);

#endif
