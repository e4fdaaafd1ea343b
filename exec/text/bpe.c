#include "exec/text/bpe.h"

#include "base/memory.h"
#include "exec/text/byte_alphabet.h"
#include "exec/text/byte_pieces.h"
#include "exec/text/component.h"
#include "exec/text/merge_table.h"
#include "exec/text/utf8.h"
#include "exec/text/word_cache.h"

struct Bpe {
    Vocabulary vocabulary;
    MergeTable merges;
    bool byte_level;
    bool byte_fallback;
    bool fuse_unknown;
    bool ignore_merges; /* a word that is a piece stays whole */
    bool has_unknown;
    uint32_t unknown;
    BytePieces fallback;       /* ids of <0x00> to <0xFF> */
    ByteAlphabet alphabet;     /* byte-level: */
    StringTable words;         /* raw bytes -> id */
    unsigned char *words_pool; /* their keys */
    uint32_t byte_ids[256];    /* NO_PIECE: the byte is not in the vocabulary */
    WordCache cache;
    Symbol *symbols;
    size_t n_symbols;
    size_t symbols_room;
    MergeScratch scratch;
};

void bpe_free(Bpe *bpe)
{
    if (bpe == NULL)
        return;
    vocabulary_free(&bpe->vocabulary);
    merge_table_free(&bpe->merges);
    string_table_free(&bpe->words);
    mem_free(bpe->words_pool);
    word_cache_free(&bpe->cache);
    mem_free(bpe->symbols);
    merge_scratch_free(&bpe->scratch);
    mem_free(bpe);
}

const Vocabulary *bpe_vocabulary(const Bpe *bpe)
{
    return &bpe->vocabulary;
}

/* KEY must be absent, null or "". */
static Status refuse_affix(const JsonAt *model, const char *key)
{
    JsonAt at;
    const char *text;
    if (!json_given(model, key, &at))
        return OK;
    TRY(json_text(&at, &text));
    if (text[0] != '\0')
        return json_fail(&at, "\"%.64s\" is not supported, only null and \"\" are", text);
    return OK;
}

static Status read_unknown(const JsonAt *model, Bpe *bpe)
{
    JsonAt at;
    const char *text;
    if (!json_given(model, "unk_token", &at))
        return OK;
    TRY(json_text(&at, &text));
    if (!string_table_get(&bpe->vocabulary.ids, span_of(text), &bpe->unknown))
        return json_fail(&at, "\"%.64s\" is not in the vocabulary", text);
    bpe->has_unknown = true;
    return OK;
}

static Status read_options(const JsonAt *model, Bpe *bpe)
{
    JsonAt at;
    double dropout = 0;
    TRY(refuse_affix(model, "continuing_subword_prefix"));
    TRY(refuse_affix(model, "end_of_word_suffix"));
    TRY(component_flag(model, "fuse_unk", &bpe->fuse_unknown));
    TRY(component_flag(model, "byte_fallback", &bpe->byte_fallback));
    TRY(component_flag(model, "ignore_merges", &bpe->ignore_merges));
    if (json_given(model, "dropout", &at)) {
        TRY(json_f64(&at, 0, 1, &dropout));
        if (dropout != 0)
            return json_fail(&at, "%g: encoding at random is not supported, only null and 0 are",
                             dropout);
    }
    return read_unknown(model, bpe);
}

/* Byte-level: a second table of the pieces by the bytes they stand for. Pieces with other
 * characters stand for no text and are left out. */
static Status make_words(Bpe *bpe)
{
    ByteBuffer pool = {0};
    size_t total = 0;
    byte_alphabet_init(&bpe->alphabet);
    for (uint32_t id = 0; id < bpe->vocabulary.n_ids; id++)
        total += bpe->vocabulary.pieces[id].bytes;
    TRY(bytes_reserve(&pool, total + 1));
    bpe->words_pool = pool.data; /* large enough: it never moves */
    TRY(string_table_new(&bpe->words, bpe->vocabulary.n_pieces));
    for (uint32_t byte = 0; byte < 256; byte++)
        bpe->byte_ids[byte] = NO_PIECE;
    for (uint32_t id = 0; id < bpe->vocabulary.n_ids; id++) {
        Status status;
        size_t from = pool.bytes;
        if (bpe->vocabulary.pieces[id].bytes == 0 ||
            !byte_alphabet_append_bytes(&bpe->alphabet, bpe->vocabulary.pieces[id], &pool, &status))
            continue;
        Span word = bytes_span(&pool, from);
        string_table_put(&bpe->words, word, id);
        if (word.bytes == 1)
            bpe->byte_ids[word.data[0]] = id;
    }
    return OK;
}

static Status load(const JsonAt *model, Bpe *bpe)
{
    static const char *const KEYS[] = {"type",
                                       "dropout",
                                       "unk_token",
                                       "continuing_subword_prefix",
                                       "end_of_word_suffix",
                                       "fuse_unk",
                                       "byte_fallback",
                                       "ignore_merges",
                                       "vocab",
                                       "merges",
                                       NULL};
    JsonAt at;
    TRY(json_only_keys(model, KEYS));
    TRY(json_need(model, "vocab", &at));
    TRY(vocabulary_load_object(&at, &bpe->vocabulary));
    TRY(json_need(model, "merges", &at));
    TRY(merge_table_load(&at, &bpe->vocabulary, &bpe->merges));
    TRY(read_options(model, bpe));
    byte_pieces_find(&bpe->vocabulary, &bpe->fallback);
    if (bpe->byte_level)
        TRY(make_words(bpe));
    return word_cache_new(&bpe->cache);
}

Status bpe_load(const JsonAt *model, bool byte_level, Bpe **bpe)
{
    Bpe *made;
    *bpe = NULL;
    TRY(mem_new(&made, 1, sizeof *made, "BPE model"));
    made->byte_level = byte_level;
    Status status = load(model, made);
    if (status == OK)
        *bpe = made;
    else
        bpe_free(made);
    return status;
}

static Status reserve_symbols(Bpe *bpe, size_t count)
{
    if (count <= bpe->symbols_room)
        return OK;
    mem_free(bpe->symbols);
    bpe->symbols = NULL;
    bpe->symbols_room = 0;
    TRY(mem_new(&bpe->symbols, 2 * count, sizeof *bpe->symbols, "word"));
    bpe->symbols_room = 2 * count;
    return OK;
}

static void add_symbol(Bpe *bpe, uint32_t id)
{
    bpe->symbols[bpe->n_symbols++].id = id;
}

/* CHARACTER is not in the vocabulary. An unknown symbol waits in *PENDING until the next known
 * character, so that it can be fused; bytes of a fallback do not wait for it (Hugging Face's order,
 * which shows only when part of the 256 bytes is missing). */
static void add_missing(Bpe *bpe, Span character, bool *pending)
{
    if (bpe->byte_fallback && byte_pieces_cover(&bpe->fallback, character)) {
        for (size_t i = 0; i < character.bytes; i++)
            add_symbol(bpe, bpe->fallback.ids[character.data[i]]);
    } else if (bpe->has_unknown) {
        if (*pending && !bpe->fuse_unknown)
            add_symbol(bpe, bpe->unknown);
        *pending = true;
    }
}

static void add_known(Bpe *bpe, uint32_t id, bool *pending)
{
    if (*pending)
        add_symbol(bpe, bpe->unknown);
    *pending = false;
    add_symbol(bpe, id);
}

static void cut_bytes(Bpe *bpe, Span word, bool *pending)
{
    for (size_t i = 0; i < word.bytes; i++) {
        unsigned char text[4];
        uint32_t id = bpe->byte_ids[word.data[i]];
        if (id != NO_PIECE)
            add_known(bpe, id, pending);
        else
            add_missing(bpe, (Span){text, utf8_write(bpe->alphabet.code_point[word.data[i]], text)},
                        pending);
    }
}

static void cut_characters(Bpe *bpe, Span word, bool *pending)
{
    for (size_t at = 0; at < word.bytes;) {
        Span character = {.data = word.data + at, .bytes = utf8_length(word.data[at])};
        uint32_t id;
        if (string_table_get(&bpe->vocabulary.ids, character, &id))
            add_known(bpe, id, pending);
        else
            add_missing(bpe, character, pending);
        at += character.bytes;
    }
}

static Status encode_new(Bpe *bpe, Span word, IdBuffer *ids)
{
    bool pending = false;
    uint32_t whole;
    if (bpe->ignore_merges &&
        string_table_get(bpe->byte_level ? &bpe->words : &bpe->vocabulary.ids, word, &whole))
        return ids_push(ids, whole);
    if (word.bytes >= UINT32_MAX / 4)
        return fail(ERR_INPUT, "text: a word of %zu bytes is too long", word.bytes);
    TRY(reserve_symbols(bpe, 2 * word.bytes + 1)); /* a missing byte's character has two bytes */
    bpe->n_symbols = 0;
    if (bpe->byte_level)
        cut_bytes(bpe, word, &pending);
    else
        cut_characters(bpe, word, &pending);
    if (pending)
        add_symbol(bpe, bpe->unknown);
    TRY(merge_symbols(&bpe->merges, bpe->symbols, &bpe->n_symbols, &bpe->scratch));
    TRY(ids_reserve(ids, bpe->n_symbols));
    for (size_t i = 0; i < bpe->n_symbols; i++)
        ids->ids[ids->count++] = bpe->symbols[i].id;
    return OK;
}

Status bpe_encode(Bpe *bpe, Span word, IdBuffer *ids)
{
    CachedWord *place = word_cache_find(&bpe->cache, word);
    if (place != NULL && place->bytes != 0)
        return ids_append(ids, place->ids, place->n_ids);
    size_t before = ids->count;
    TRY(encode_new(bpe, word, ids));
    if (place != NULL)
        word_cache_put(place, word, ids->ids + before, ids->count - before);
    return OK;
}
