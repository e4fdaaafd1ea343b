/* A run of tokens whose routing lies in one array, as steps of a trace. */
#ifndef TRACES_IMPORT_TOKENS_H
#define TRACES_IMPORT_TOKENS_H

#include "base/json.h"
#include "traces/import.h"
#include "traces/import_sequences.h"
#include "traces/safetensors.h"

typedef struct {
    /* [tokens][layers][top_k], DTYPE_U8 to DTYPE_I64; -1 in a signed type: routed nowhere */
    Tensor ids;
    const float *weights;   /* same shape, or NULL */
    const uint32_t *layers; /* the model's layer numbers, or NULL: they count from first_layer */
    ImportSequences sequences;
} ImportTokens;

/* Checks that IDS has three dimensions of integers with sizes that a trace can have, and that every
 * id is below EXPERTS (0: the limit of a trace). *LARGEST is the largest id + 1, at least top_k.
 * Fails with ERR_INPUT or ERR_UNSUPPORTED, naming token, layer and slot. FILE begins the message.
 */
Status import_ids_check(const char *file, const Tensor *ids, uint32_t experts, uint32_t *largest);

/* Element I of an array of integers; false when it holds something else. */
bool import_integer_at(const Tensor *array, size_t i, int64_t *value);

/* Widens COUNT ids from element FIRST on. They must have been checked. */
void import_ids_read(const Tensor *ids, size_t first, size_t count, uint16_t *experts);

/* Fills TOKENS->sequences from the CSV of OPTIONS, or with the one sequence there is without it;
 * TOKENS->ids must be there. Freed with import_sequences_free(), also after a failure. */
Status import_tokens_sequences(const ImportOptions *options, ImportTokens *tokens, cJSON *notes);

/* Checks the ids of TOKENS and writes the whole trace that OPTIONS asks for. NOTES, an object, gets
 * what is worth knowing of it. */
Status import_tokens_write(const ImportOptions *options, const ImportTokens *tokens,
                           const char *model, cJSON *notes, ImportReport *report);

#endif
