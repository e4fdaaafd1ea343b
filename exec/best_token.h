/* The greedy choice among logits. */
#ifndef EXEC_BEST_TOKEN_H
#define EXEC_BEST_TOKEN_H

#include <stdint.h>

/* The id of the largest of LOGITS[n], n at least 1, none of them NaN; the lowest of equals. About
 * as fast as they can be read: between two steps of a large batch it is all that a GPU waits for.
 */
uint32_t best_token(const float *logits, uint32_t n);

#endif
