#include "exec/text/added_tokens.h"

#include "base/memory.h"
#include "exec/text/component.h"

void added_tokens_free(AddedTokens *added)
{
    byte_trie_free(&added->plain);
    byte_trie_free(&added->normalized);
    bytes_free(&added->pool);
    mem_free(added->tokens);
    mem_free(added->index_of);
    *added = (AddedTokens){0};
}

const AddedToken *added_tokens_of(const AddedTokens *added, uint32_t id)
{
    if (id >= added->n_ids || added->index_of[id] == 0)
        return NULL;
    return &added->tokens[added->index_of[id] - 1];
}

static Status load_token(const JsonAt *at, const Vocabulary *vocabulary, AddedToken *token)
{
    static const char *const KEYS[] = {"id",     "content",    "single_word", "lstrip",
                                       "rstrip", "normalized", "special",     NULL};
    JsonAt id;
    uint32_t known;
    TRY(json_only_keys(at, KEYS));
    TRY(json_need(at, "id", &id));
    TRY(json_u32(&id, 0, VOCABULARY_MAX - 1, &token->id));
    TRY(component_need_text(at, "content", &token->content));
    TRY(component_need_flag(at, "single_word", &token->single_word));
    TRY(component_need_flag(at, "lstrip", &token->lstrip));
    TRY(component_need_flag(at, "rstrip", &token->rstrip));
    TRY(component_need_flag(at, "normalized", &token->normalized));
    TRY(component_need_flag(at, "special", &token->special));
    if (token->content.bytes == 0)
        return json_fail(at, "the content is empty");
    if (string_table_get(&vocabulary->ids, token->content, &known)) {
        if (known != token->id)
            return json_fail(&id, "%u, and the vocabulary has \"%.*s\" as %u", token->id,
                             (int)token->content.bytes, (const char *)token->content.data, known);
    } else if (token->id < vocabulary->n_ids && vocabulary->pieces[token->id].data != NULL) {
        return json_fail(&id, "%u is also the id of \"%.*s\" in the vocabulary", token->id,
                         (int)vocabulary->pieces[token->id].bytes,
                         (const char *)vocabulary->pieces[token->id].data);
    }
    return OK;
}

static Status load_tokens(const JsonAt *at, const Vocabulary *vocabulary, AddedTokens *added)
{
    if (!cJSON_IsArray(at->node))
        return json_fail(at, "must be an array");
    for (const cJSON *node = at->node->child; node != NULL; node = node->next)
        added->count++;
    TRY(mem_new(&added->tokens, added->count + 1, sizeof *added->tokens, "added tokens"));
    size_t index = 0;
    for (const cJSON *node = at->node->child; node != NULL; node = node->next, index++) {
        JsonAt item = json_item(at, node, index);
        TRY(load_token(&item, vocabulary, &added->tokens[index]));
        if (added->tokens[index].id >= added->n_ids)
            added->n_ids = added->tokens[index].id + 1;
    }
    return OK;
}

/* Puts the special tokens first: of tokens that normalize to the same text they win. */
static Status order_tokens(AddedTokens *added)
{
    AddedToken *ordered;
    size_t next = 0;
    TRY(mem_new(&ordered, added->count + 1, sizeof *ordered, "added tokens"));
    for (int special = 1; special >= 0; special--)
        for (size_t i = 0; i < added->count; i++)
            if (added->tokens[i].special == (special == 1))
                ordered[next++] = added->tokens[i];
    mem_free(added->tokens);
    added->tokens = ordered;
    return OK;
}

/* Fills index_of. No two tokens may share an id or a content. */
static Status index_tokens(const JsonAt *at, AddedTokens *added)
{
    StringTable contents;
    TRY(mem_new(&added->index_of, (size_t)added->n_ids + 1, sizeof(uint32_t), "added tokens"));
    TRY(string_table_new(&contents, added->count));
    Status status = OK;
    for (size_t i = 0; i < added->count && status == OK; i++) {
        const AddedToken *token = &added->tokens[i];
        if (added->index_of[token->id] != 0 || string_table_put(&contents, token->content, 0))
            status = json_fail(at, "the id %u or the content \"%.*s\" stands twice", token->id,
                               (int)token->content.bytes, (const char *)token->content.data);
        added->index_of[token->id] = (uint32_t)i + 1;
    }
    string_table_free(&contents);
    return status;
}

/* Copies the contents, and what the normalizer makes of them, into the pool. KEYS[count] are the
 * normalized ones; those that are empty match nothing. */
static Status fill_pool(AddedTokens *added, Normalizer *normalizer, Span *keys)
{
    size_t total = 0;
    bool at_start = true;
    Span made;
    for (size_t i = 0; i < added->count; i++)
        total += added->tokens[i].content.bytes;
    for (size_t i = 0; i < added->count; i++) {
        TRY(normalizer_run(normalizer, added->tokens[i].content, &made, &at_start));
        total += made.bytes;
    }
    TRY(bytes_reserve(&added->pool, total + 1)); /* once: spans point into it */
    for (size_t i = 0; i < added->count; i++) {
        AddedToken *token = &added->tokens[i];
        size_t from = added->pool.bytes;
        TRY(bytes_append(&added->pool, token->content.data, token->content.bytes));
        token->content = bytes_span(&added->pool, from);
        from = added->pool.bytes;
        TRY(normalizer_run(normalizer, token->content, &made, &at_start));
        TRY(bytes_append(&added->pool, made.data, made.bytes));
        keys[i] = bytes_span(&added->pool, from);
    }
    return OK;
}

static Status build_trie(const AddedTokens *added, const Span *keys, bool normalized,
                         ByteTrie *trie)
{
    TrieKey *found;
    size_t count = 0;
    TRY(mem_new(&found, added->count + 1, sizeof *found, "added tokens"));
    for (size_t i = 0; i < added->count; i++) {
        const AddedToken *token = &added->tokens[i];
        Span key = normalized ? keys[i] : token->content;
        if (token->normalized == normalized && key.bytes > 0)
            found[count++] = (TrieKey){.key = key, .value = (uint32_t)i};
    }
    Status status = byte_trie_build(trie, found, count);
    mem_free(found);
    return status;
}

static Status load(const JsonAt *at, const Vocabulary *vocabulary, Normalizer *normalizer,
                   AddedTokens *added)
{
    Span *keys;
    TRY(load_tokens(at, vocabulary, added));
    TRY(order_tokens(added));
    TRY(index_tokens(at, added));
    TRY(mem_new(&keys, added->count + 1, sizeof *keys, "added tokens"));
    Status status = fill_pool(added, normalizer, keys);
    if (status == OK)
        status = build_trie(added, keys, false, &added->plain);
    if (status == OK)
        status = build_trie(added, keys, true, &added->normalized);
    mem_free(keys);
    return status;
}

Status added_tokens_load(const JsonAt *at, const Vocabulary *vocabulary, Normalizer *normalizer,
                         AddedTokens *added)
{
    *added = (AddedTokens){0};
    Status status = load(at, vocabulary, normalizer, added);
    if (status != OK)
        added_tokens_free(added);
    return status;
}
