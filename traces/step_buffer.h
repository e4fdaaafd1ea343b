/* Growing memory for the arrays of one step: the recorder's ring slots and the reader's decoder. */
#ifndef TRACES_STEP_BUFFER_H
#define TRACES_STEP_BUFFER_H

#include "traces/trace.h"

/* Makes *BLOCK at least BYTES large (an eighth more than asked for, so that slow growth is rare).
 * What was in it is lost when it grows. Free with mem_free. */
Status block_fit(void **block, size_t *capacity, size_t bytes, const char *what);

/* One block, cut into the arrays below by the last step_buffer_fit(). */
typedef struct {
    void *block;
    size_t capacity;
    uint32_t *request;  /* [tokens] */
    uint32_t *position; /* [tokens] */
    uint32_t *token;    /* [tokens] */
    uint8_t *rank;      /* [tokens] */
    uint16_t *experts;  /* [ids] */
    float *weights;     /* [ids] */
    uint16_t *scores;   /* [scores] */
} StepBuffer;

/* Makes room for all arrays. Each size must be below 2^32. Allocates only when the block is too
 * small. */
Status step_buffer_fit(StepBuffer *buffer, size_t tokens, size_t ids, size_t scores);
void step_buffer_free(StepBuffer *buffer);

#endif
