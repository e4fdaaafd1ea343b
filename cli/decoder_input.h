/* What the commands that run a model take for encoder-decoder models: ids around each source, and
 * what the decoder begins with or is scored on. */
#ifndef CLI_DECODER_INPUT_H
#define CLI_DECODER_INPUT_H

#include "cli/online.h"

typedef struct {
    const char *prepend; /* ids, "4" or "4,7"; NULL: none */
    const char *append;
    const char *prompt; /* ids that every decoder begins with */
    const char *file;   /* decoder tokens of each request */
    const char *key;
} DecoderInput;

/* The options' rows, for a table's list. */
#define DECODER_OPTIONS(input)                                                                     \
    TEXT_OPTION("prepend", "IDS", "token ids in front of every request, as 4 or 4,7",              \
                &(input)->prepend),                                                                \
        TEXT_OPTION("append", "IDS", "token ids behind every request", &(input)->append),          \
        TEXT_OPTION("decoder-prompt", "IDS", "encoder-decoder: what the decoder begins with",      \
                    &(input)->prompt),                                                             \
        TEXT_OPTION("decoder-tokens", "FILE",                                                      \
                    "encoder-decoder: the decoder's tokens of each request", &(input)->file),      \
        TEXT_OPTION("decoder-key", "K", "the stream of this name in that file", &(input)->key)

/* Fails with ERR_USAGE when the options contradict each other. */
Status decoder_input_check(const OptionTable *table, const DecoderInput *input);

/* Puts the ids around SET's requests. *TARGETS becomes what the decoders begin with when there are
 * any (the caller frees it), and *GIVEN tells whether there are. Fails with ERR_INPUT for ids
 * outside the vocabulary, and for decoder tokens that the model has no use for. */
Status decoder_input_apply(const DecoderInput *input, const ModelConfig *config, TokenSet *set,
                           TokenSet *targets, bool *given);

#endif
