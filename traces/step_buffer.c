#include "traces/step_buffer.h"

#include "base/memory.h"

Status block_fit(void **block, size_t *capacity, size_t bytes, const char *what)
{
    if (bytes <= *capacity)
        return OK;
    size_t wanted = bytes + bytes / 8;
    mem_free(*block);
    *block = NULL;
    *capacity = 0;
    void *larger = mem_resize(NULL, wanted, 1); /* not zeroed: it is overwritten at once */
    if (larger == NULL)
        return fail_memory(what, wanted);
    *block = larger;
    *capacity = wanted;
    return OK;
}

/* Cuts BYTES off *AT, keeping the next piece aligned. */
static void *cut(unsigned char **at, size_t bytes)
{
    void *piece = *at;
    *at += (bytes + 7) / 8 * 8;
    return piece;
}

Status step_buffer_fit(StepBuffer *buffer, size_t tokens, size_t ids, size_t scores)
{
    size_t bytes = 13 * tokens + 6 * ids + 2 * scores + 7 * 8;
    TRY(block_fit(&buffer->block, &buffer->capacity, bytes, "step"));
    unsigned char *at = buffer->block;
    buffer->request = cut(&at, 4 * tokens);
    buffer->position = cut(&at, 4 * tokens);
    buffer->token = cut(&at, 4 * tokens);
    buffer->rank = cut(&at, tokens);
    buffer->experts = cut(&at, 2 * ids);
    buffer->weights = cut(&at, 4 * ids);
    buffer->scores = cut(&at, 2 * scores);
    return OK;
}

void step_buffer_free(StepBuffer *buffer)
{
    mem_free(buffer->block);
    *buffer = (StepBuffer){0};
}
