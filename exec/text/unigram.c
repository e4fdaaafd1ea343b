#include "exec/text/unigram.h"

#include "base/memory.h"
#include "exec/text/byte_pieces.h"
#include "exec/text/byte_trie.h"
#include "exec/text/component.h"
#include "exec/text/utf8.h"

/* What an unknown character costs below the worst piece (SentencePiece, kUnkPenalty). */
static const double UNKNOWN_PENALTY = 10;

/* The best segmentation that ends at a place of the text. */
typedef struct {
    double score;
    uint32_t start; /* of its last piece */
    uint32_t id;
    bool reached;
} Best;

typedef struct {
    uint32_t start;
    uint32_t end;
    uint32_t id;
} Cut;

struct Unigram {
    Vocabulary vocabulary;
    double *scores; /* [n_ids] */
    ByteTrie trie;
    double unknown_score;
    uint32_t unknown; /* NO_PIECE: none */
    bool byte_fallback;
    BytePieces fallback;
    Best *best; /* [bytes of the word + 1] */
    Cut *cuts;  /* of the word, last first */
    size_t room;
};

void unigram_free(Unigram *unigram)
{
    if (unigram == NULL)
        return;
    vocabulary_free(&unigram->vocabulary);
    mem_free(unigram->scores);
    byte_trie_free(&unigram->trie);
    mem_free(unigram->best);
    mem_free(unigram->cuts);
    mem_free(unigram);
}

const Vocabulary *unigram_vocabulary(const Unigram *unigram)
{
    return &unigram->vocabulary;
}

static Status build_trie(Unigram *unigram)
{
    const Vocabulary *vocabulary = &unigram->vocabulary;
    TrieKey *keys;
    size_t count = 0;
    TRY(mem_new(&keys, vocabulary->n_ids, sizeof *keys, "vocabulary"));
    for (uint32_t id = 0; id < vocabulary->n_ids; id++) {
        TrieKey key = {.key = vocabulary->pieces[id]};
        if (key.key.bytes > 0 && string_table_get(&vocabulary->ids, key.key, &key.value))
            keys[count++] = key;
    }
    Status status = byte_trie_build(&unigram->trie, keys, count);
    mem_free(keys);
    return status;
}

static Status read_unknown(const JsonAt *model, Unigram *unigram)
{
    JsonAt at;
    unigram->unknown = NO_PIECE;
    if (!json_given(model, "unk_id", &at))
        return OK;
    return json_u32(&at, 0, unigram->vocabulary.n_ids - 1, &unigram->unknown);
}

static Status load(const JsonAt *model, Unigram *unigram)
{
    static const char *const KEYS[] = {"type", "unk_id", "vocab", "byte_fallback", NULL};
    JsonAt at;
    TRY(json_only_keys(model, KEYS));
    TRY(json_need(model, "vocab", &at));
    TRY(vocabulary_load_scored(&at, &unigram->vocabulary, &unigram->scores));
    TRY(read_unknown(model, unigram));
    TRY(component_flag(model, "byte_fallback", &unigram->byte_fallback));
    unigram->unknown_score = unigram->scores[0];
    for (uint32_t id = 1; id < unigram->vocabulary.n_ids; id++)
        if (unigram->scores[id] < unigram->unknown_score)
            unigram->unknown_score = unigram->scores[id];
    unigram->unknown_score -= UNKNOWN_PENALTY;
    byte_pieces_find(&unigram->vocabulary, &unigram->fallback);
    return build_trie(unigram);
}

Status unigram_load(const JsonAt *model, Unigram **unigram)
{
    Unigram *made;
    *unigram = NULL;
    TRY(mem_new(&made, 1, sizeof *made, "Unigram model"));
    Status status = load(model, made);
    if (status == OK)
        *unigram = made;
    else
        unigram_free(made);
    return status;
}

static Status reserve(Unigram *unigram, size_t bytes)
{
    if (bytes < unigram->room)
        return OK;
    size_t room = 2 * bytes + 64;
    mem_free(unigram->best);
    mem_free(unigram->cuts);
    unigram->best = NULL;
    unigram->cuts = NULL;
    unigram->room = 0;
    TRY(mem_new(&unigram->best, room, sizeof *unigram->best, "word"));
    TRY(mem_new(&unigram->cuts, room, sizeof *unigram->cuts, "word"));
    unigram->room = room;
    return OK;
}

/* Offers the piece ID from START to END; the first of equal scores stays. */
static void offer(Best *best, size_t start, size_t end, uint32_t id, double score)
{
    double total = best[start].score + score;
    if (best[end].reached && total <= best[end].score)
        return;
    best[end] = (Best){.score = total, .start = (uint32_t)start, .id = id, .reached = true};
}

/* Offers every piece that begins at START, and the unknown one when none is the character there. */
static Status extend(Unigram *unigram, Span word, size_t start)
{
    size_t character = utf8_length(word.data[start]);
    bool known = false;
    uint32_t node = 0;
    for (size_t at = start; at < word.bytes; at++) {
        node = byte_trie_step(&unigram->trie, node, word.data[at]);
        if (node == TRIE_NONE)
            break;
        uint32_t id = unigram->trie.nodes[node].value;
        if (id == TRIE_NONE)
            continue;
        offer(unigram->best, start, at + 1, id, unigram->scores[id]);
        known = known || at + 1 - start == character;
    }
    if (known)
        return OK;
    if (unigram->unknown == NO_PIECE)
        return fail(ERR_INPUT,
                    "text: \"%.*s\" is not in the vocabulary, which has no unknown piece",
                    (int)character, (const char *)word.data + start);
    offer(unigram->best, start, start + character, unigram->unknown, unigram->unknown_score);
    return OK;
}

/* Collects the cuts from the end back; unknown ones in a row become one. */
static size_t trace_back(Unigram *unigram, size_t bytes)
{
    size_t count = 0;
    for (size_t end = bytes; end > 0; end = unigram->best[end].start) {
        const Best *best = &unigram->best[end];
        bool fuse = count > 0 && best->id == unigram->unknown &&
                    unigram->cuts[count - 1].id == unigram->unknown;
        if (fuse)
            unigram->cuts[count - 1].start = best->start;
        else
            unigram->cuts[count++] =
                (Cut){.start = best->start, .end = (uint32_t)end, .id = best->id};
    }
    return count;
}

/* An unknown stretch may be a piece as a whole; else its bytes are, or it is the unknown piece. */
static Status append_unknown(const Unigram *unigram, Span text, IdBuffer *ids)
{
    uint32_t id;
    if (string_table_get(&unigram->vocabulary.ids, text, &id))
        return ids_push(ids, id);
    if (!unigram->byte_fallback || !byte_pieces_cover(&unigram->fallback, text))
        return ids_push(ids, unigram->unknown);
    for (size_t i = 0; i < text.bytes; i++)
        TRY(ids_push(ids, unigram->fallback.ids[text.data[i]]));
    return OK;
}

Status unigram_encode(Unigram *unigram, Span word, IdBuffer *ids)
{
    if (word.bytes >= UINT32_MAX / 4)
        return fail(ERR_INPUT, "text: a word of %zu bytes is too long", word.bytes);
    TRY(reserve(unigram, word.bytes));
    for (size_t at = 0; at <= word.bytes; at++)
        unigram->best[at].reached = false;
    unigram->best[0] = (Best){.reached = true};
    for (size_t at = 0; at < word.bytes; at += utf8_length(word.data[at]))
        TRY(extend(unigram, word, at));
    for (size_t i = trace_back(unigram, word.bytes); i > 0; i--) {
        const Cut *cut = &unigram->cuts[i - 1];
        Span text = {.data = word.data + cut->start, .bytes = cut->end - cut->start};
        if (cut->id == unigram->unknown)
            TRY(append_unknown(unigram, text, ids));
        else
            TRY(ids_push(ids, cut->id));
    }
    return OK;
}
