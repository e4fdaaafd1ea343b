/* The special tokens around a text: "post_processor" of a tokenizer.json.
 *
 * For one text every supported processor comes down to ids before it and ids behind it. Templates
 * for pairs of texts are checked and not used: nothing here encodes pairs. */
#ifndef EXEC_TEXT_POST_PROCESSOR_H
#define EXEC_TEXT_POST_PROCESSOR_H

#include "base/json.h"
#include "exec/text/buffers.h"

typedef struct {
    IdBuffer before;
    IdBuffer behind;
} PostProcessor;

/* AT may be null. Ids must be below N_IDS. */
Status post_processor_load(const JsonAt *at, uint32_t n_ids, PostProcessor *processor);
void post_processor_free(PostProcessor *processor);

#endif
