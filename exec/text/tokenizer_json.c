#include "exec/text/tokenizer_json.h"

#include "exec/text/component.h"

void json_tokenizer_free(JsonTokenizer *tokenizer)
{
    added_tokens_free(&tokenizer->added);
    normalizer_free(tokenizer->normalizer);
    pretokenizer_free(tokenizer->pretokenizer);
    bpe_free(tokenizer->bpe);
    unigram_free(tokenizer->unigram);
    post_processor_free(&tokenizer->around);
    decoder_free(tokenizer->decoder);
    text_list_free(&tokenizer->pieces);
    *tokenizer = (JsonTokenizer){0};
}

/* The member KEY, which stands for null when it is absent. */
static JsonAt part(const JsonAt *root, const char *key)
{
    static const cJSON NOTHING = {.type = cJSON_NULL};
    JsonAt at = json_root(&NOTHING, root->file);
    json_find(root, key, &at);
    return at;
}

/* Hugging Face's library cuts and pads as the file says; transformers does as its caller says. A
 * file that asks for it is refused rather than read one way or the other. */
static Status need_null(const JsonAt *root, const char *key)
{
    JsonAt at = part(root, key);
    return json_is_null(&at) ? OK : json_fail(&at, "is not supported, only null is");
}

/* Older files do not name the type of a BPE model. */
static Status load_model(const JsonAt *root, JsonTokenizer *tokenizer)
{
    static const char *const TYPES[] = {"BPE", "Unigram", NULL};
    enum { MODEL_BPE, MODEL_UNIGRAM };
    bool byte_level = pretokenizer_is_byte_level(tokenizer->pretokenizer);
    JsonAt model;
    JsonAt value;
    int type = MODEL_BPE;
    TRY(json_need(root, "model", &model));
    if (json_find(&model, "type", &value) || !json_find(&model, "merges", &value))
        TRY(component_type(&model, TYPES, &type));
    if (type == MODEL_BPE) {
        TRY(bpe_load(&model, byte_level, &tokenizer->bpe));
        tokenizer->vocabulary = bpe_vocabulary(tokenizer->bpe);
        return OK;
    }
    if (byte_level)
        return json_fail(&model, "a Unigram model after the ByteLevel pre-tokenizer is not "
                                 "supported");
    TRY(unigram_load(&model, &tokenizer->unigram));
    tokenizer->vocabulary = unigram_vocabulary(tokenizer->unigram);
    return OK;
}

static Status load_added(const JsonAt *root, JsonTokenizer *tokenizer)
{
    JsonAt added = part(root, "added_tokens");
    cJSON empty = {.type = cJSON_Array};
    if (json_is_null(&added))
        added.node = &empty;
    TRY(added_tokens_load(&added, tokenizer->vocabulary, tokenizer->normalizer, &tokenizer->added));
    tokenizer->n_ids = tokenizer->vocabulary->n_ids;
    if (tokenizer->added.n_ids > tokenizer->n_ids)
        tokenizer->n_ids = tokenizer->added.n_ids;
    return OK;
}

static Status load(const JsonAt *root, JsonTokenizer *tokenizer)
{
    static const char *const KEYS[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    static const char *const VERSIONS[] = {"1.0", NULL};
    int version = 0;
    TRY(json_only_keys(root, KEYS));
    JsonAt at = part(root, "version");
    if (!json_is_null(&at))
        TRY(json_choice(&at, VERSIONS, &version));
    TRY(need_null(root, "truncation"));
    TRY(need_null(root, "padding"));
    at = part(root, "normalizer");
    TRY(normalizer_load(&at, &tokenizer->normalizer));
    at = part(root, "pre_tokenizer");
    TRY(pretokenizer_load(&at, &tokenizer->pretokenizer));
    TRY(load_model(root, tokenizer));
    TRY(load_added(root, tokenizer));
    at = part(root, "post_processor");
    TRY(post_processor_load(&at, tokenizer->n_ids, &tokenizer->around));
    at = part(root, "decoder");
    return decoder_load(&at, &tokenizer->decoder);
}

Status json_tokenizer_load(const char *path, JsonTokenizer *tokenizer)
{
    cJSON *json = NULL;
    *tokenizer = (JsonTokenizer){0};
    TRY(json_load(path, TOKENIZER_JSON_BYTES, &json));
    JsonAt root = json_root(json, path);
    Status status = load(&root, tokenizer);
    cJSON_Delete(json);
    if (status != OK)
        json_tokenizer_free(tokenizer);
    return status;
}

Span json_tokenizer_piece(const JsonTokenizer *tokenizer, uint32_t id)
{
    const AddedToken *token = added_tokens_of(&tokenizer->added, id);
    if (token != NULL)
        return token->content;
    return id < tokenizer->vocabulary->n_ids ? tokenizer->vocabulary->pieces[id] : (Span){0};
}

static Status encode_word(void *argument, Span word)
{
    JsonTokenizer *tokenizer = argument;
    if (tokenizer->bpe != NULL)
        return bpe_encode(tokenizer->bpe, word, tokenizer->ids);
    return unigram_encode(tokenizer->unigram, word, tokenizer->ids);
}

/* TEXT lies between tokens that are found as they are. */
static Status encode_between(JsonTokenizer *tokenizer, Span text, bool at_start)
{
    Span normalized;
    AddedSearch search;
    AddedSpan span;
    TRY(normalizer_run(tokenizer->normalizer, text, &normalized, &at_start));
    added_search_start(&search, &tokenizer->added, &tokenizer->added.normalized, normalized);
    while (added_search_next(&search, &span)) {
        Span inside = {.data = normalized.data + span.start, .bytes = span.end - span.start};
        if (span.token != NULL)
            TRY(ids_push(tokenizer->ids, span.token->id));
        else
            TRY(pretokenizer_run(tokenizer->pretokenizer, inside, at_start && span.start == 0,
                                 encode_word, tokenizer));
    }
    return OK;
}

static Status encode_text(JsonTokenizer *tokenizer, Span text)
{
    AddedSearch search;
    AddedSpan span;
    added_search_start(&search, &tokenizer->added, &tokenizer->added.plain, text);
    while (added_search_next(&search, &span)) {
        Span inside = {.data = text.data + span.start, .bytes = span.end - span.start};
        if (span.token != NULL)
            TRY(ids_push(tokenizer->ids, span.token->id));
        else
            TRY(encode_between(tokenizer, inside, span.start == 0));
    }
    return OK;
}

Status json_tokenizer_encode(JsonTokenizer *tokenizer, Span text, bool add_special, IdBuffer *ids)
{
    const PostProcessor *around = &tokenizer->around;
    tokenizer->ids = ids;
    if (add_special)
        TRY(ids_append(ids, around->before.ids, around->before.count));
    TRY(encode_text(tokenizer, text));
    return add_special ? ids_append(ids, around->behind.ids, around->behind.count) : OK;
}

Status json_tokenizer_decode(JsonTokenizer *tokenizer, const uint32_t *ids, size_t count,
                             bool leave_out_special, ByteBuffer *text)
{
    text_list_clear(&tokenizer->pieces);
    for (size_t i = 0; i < count; i++) {
        const AddedToken *token = added_tokens_of(&tokenizer->added, ids[i]);
        if (leave_out_special && token != NULL && token->special)
            continue;
        Span piece = json_tokenizer_piece(tokenizer, ids[i]);
        TRY(bytes_append(&tokenizer->pieces.bytes, piece.data, piece.bytes));
        TRY(text_list_end(&tokenizer->pieces));
    }
    return decoder_run(tokenizer->decoder, &tokenizer->pieces, text);
}
