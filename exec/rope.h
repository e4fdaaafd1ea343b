/* The tables of rotary embeddings: every kind of scaling is table contents. */
#ifndef EXEC_ROPE_H
#define EXEC_ROPE_H

#include "base/status.h"
#include "exec/model.h"

/* True when requests longer than rope->original_positions turn by a table of their own. */
bool rope_has_long_table(const RopeConfig *rope);

/* Frequencies of the DIMS / 2 pairs and *SCALE of cosine and sine, for long requests when LONGER
 * (and there is such a table). Single precision at each operation, as frameworks do, so that far
 * positions agree with them. */
void rope_frequencies(const RopeConfig *rope, uint32_t dims, bool longer, float *frequencies,
                      float *scale);

/* The row of POSITION: cosine and sine [dims / 2]. */
void rope_row(const float *frequencies, uint32_t dims, float scale, uint32_t position,
              float *cosine, float *sine);

#endif
