#include "cli/decoder_input.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_IDS = 64 };

typedef struct {
    uint32_t ids[MOST_IDS];
    uint32_t n;
} IdList;

Status decoder_input_check(const OptionTable *table, const DecoderInput *input)
{
    if (input->prompt != NULL && input->file != NULL)
        return options_fail(table, "--decoder-prompt and --decoder-tokens do not go together");
    if (input->key != NULL && input->file == NULL)
        return options_fail(table, "--decoder-key needs --decoder-tokens");
    return OK;
}

/* "4,7" as option NAME gives it. */
static Status parse_ids(const char *name, const char *text, uint32_t vocabulary, IdList *list)
{
    *list = (IdList){0};
    for (const char *at = text; at != NULL && *at != '\0';) {
        char *end = NULL;
        unsigned long long id = strspn(at, "0123456789") > 0 ? strtoull(at, &end, 10) : 0;
        if (end == NULL || (*end != '\0' && *end != ',') || (*end == ',' && end[1] == '\0'))
            return fail(ERR_USAGE, "--%s: '%s', wanted token ids, as 4 or 4,7", name, text);
        if (id >= vocabulary)
            return fail(ERR_INPUT, "--%s: token %llu, the vocabulary has %" PRIu32, name, id,
                        vocabulary);
        if (list->n == MOST_IDS)
            return fail(ERR_INPUT, "--%s: more than %d token ids", name, MOST_IDS);
        list->ids[list->n++] = (uint32_t)id;
        at = *end == ',' ? end + 1 : end;
    }
    return OK;
}

static Status load_targets(const DecoderInput *input, const ModelConfig *config,
                           const TokenSet *set, TokenSet *targets)
{
    IdList prompt;
    if (input->file != NULL)
        return tokens_load(input->file, input->key, config->vocabulary, targets);
    TRY(parse_ids("decoder-prompt", input->prompt, config->vocabulary, &prompt));
    return tokens_repeat(prompt.ids, prompt.n, set->n_requests, targets);
}

Status decoder_input_apply(const DecoderInput *input, const ModelConfig *config, TokenSet *set,
                           TokenSet *targets, bool *given)
{
    IdList before;
    IdList after;
    *given = input->file != NULL || input->prompt != NULL;
    TRY(parse_ids("prepend", input->prepend, config->vocabulary, &before));
    TRY(parse_ids("append", input->append, config->vocabulary, &after));
    TRY(tokens_surround(set, before.ids, before.n, after.ids, after.n));
    if (!*given)
        return OK;
    if (!model_is_encoder_decoder(config))
        return fail(ERR_INPUT, "--decoder-%s: a %s model has no encoder",
                    input->file != NULL ? "tokens" : "prompt", config->architecture);
    return load_targets(input, config, set, targets);
}
