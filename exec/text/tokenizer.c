#include "exec/text/tokenizer.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/text.h"
#include "exec/text/sentencepiece.h"
#include "exec/text/tokenizer_json.h"
#include "exec/text/utf8.h"

struct Tokenizer {
    char *path;
    SentencePiece *sentencepiece; /* or, when NULL: */
    JsonTokenizer json;
    ByteBuffer mended; /* text that was not valid UTF-8 */
};

static const char *const FILE_NAMES[] = {"tokenizer.json", "tokenizer.model", "spiece.model",
                                         "sentencepiece.bpe.model"};

enum { N_FILE_NAMES = sizeof FILE_NAMES / sizeof FILE_NAMES[0] };

/* Writes the tokenizer's file in the folder PATH to FOUND [ROOM]. */
static Status find_file(const char *path, char *found, size_t room)
{
    for (size_t i = 0; i < N_FILE_NAMES; i++) {
        snprintf(found, room, "%s/%s", path, FILE_NAMES[i]);
        if (file_exists(found))
            return OK;
    }
    return fail(ERR_INPUT,
                "%s: holds no tokenizer: tokenizer.json, tokenizer.model, spiece.model or "
                "sentencepiece.bpe.model",
                path);
}

static Status choose_file(const char *path, Tokenizer *tokenizer)
{
    struct stat info;
    size_t room = strlen(path) + 32;
    TRY(mem_new(&tokenizer->path, room, 1, "tokenizer"));
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return find_file(path, tokenizer->path, room);
    memcpy(tokenizer->path, path, strlen(path) + 1);
    if (text_ends_in(path, ".json") || text_ends_in(path, ".model"))
        return OK;
    return fail(ERR_INPUT, "%s: no tokenizer: wanted a folder, a .json or a .model file", path);
}

static Status load(const char *path, Tokenizer *tokenizer)
{
    TRY(choose_file(path, tokenizer));
    if (text_ends_in(tokenizer->path, ".model"))
        return sentencepiece_open(tokenizer->path, &tokenizer->sentencepiece);
    return json_tokenizer_load(tokenizer->path, &tokenizer->json);
}

Status tokenizer_open(const char *path, Tokenizer **tokenizer)
{
    Tokenizer *made;
    *tokenizer = NULL;
    TRY(mem_new(&made, 1, sizeof *made, "tokenizer"));
    Status status = load(path, made);
    if (status == OK)
        *tokenizer = made;
    else
        tokenizer_close(made);
    return status;
}

void tokenizer_close(Tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    if (tokenizer->sentencepiece != NULL)
        sentencepiece_close(tokenizer->sentencepiece);
    json_tokenizer_free(&tokenizer->json);
    bytes_free(&tokenizer->mended);
    mem_free(tokenizer->path);
    mem_free(tokenizer);
}

const char *tokenizer_path(const Tokenizer *tokenizer)
{
    return tokenizer->path;
}

const char *tokenizer_kind(const Tokenizer *tokenizer)
{
    if (tokenizer->sentencepiece != NULL)
        return "SentencePiece";
    if (tokenizer->json.unigram != NULL)
        return "Unigram";
    return pretokenizer_is_byte_level(tokenizer->json.pretokenizer) ? "byte-level BPE" : "BPE";
}

uint32_t tokenizer_n_ids(const Tokenizer *tokenizer)
{
    if (tokenizer->sentencepiece != NULL)
        return sentencepiece_count(tokenizer->sentencepiece);
    return tokenizer->json.n_ids;
}

Span tokenizer_piece(const Tokenizer *tokenizer, uint32_t id)
{
    if (id >= tokenizer_n_ids(tokenizer))
        return (Span){0};
    if (tokenizer->sentencepiece != NULL)
        return sentencepiece_piece(tokenizer->sentencepiece, id);
    return json_tokenizer_piece(&tokenizer->json, id);
}

bool tokenizer_is_special(const Tokenizer *tokenizer, uint32_t id)
{
    if (id >= tokenizer_n_ids(tokenizer))
        return false;
    if (tokenizer->sentencepiece != NULL)
        return sentencepiece_is_control(tokenizer->sentencepiece, id);
    const AddedToken *token = added_tokens_of(&tokenizer->json.added, id);
    return token != NULL && token->special;
}

Status tokenizer_encode(Tokenizer *tokenizer, Span text, bool add_special, IdBuffer *ids)
{
    if (utf8_valid_prefix(text) < text.bytes) {
        tokenizer->mended.bytes = 0;
        TRY(utf8_append_mended(&tokenizer->mended, text));
        text = bytes_span(&tokenizer->mended, 0);
    }
    if (tokenizer->sentencepiece != NULL)
        return sentencepiece_encode(tokenizer->sentencepiece, text, ids);
    return json_tokenizer_encode(&tokenizer->json, text, add_special, ids);
}

/* SentencePiece takes all ids at once, so that those to leave out are taken out first. */
static Status decode_sentencepiece(const Tokenizer *tokenizer, const uint32_t *ids, size_t count,
                                   bool leave_out_special, ByteBuffer *text)
{
    IdBuffer kept = {0};
    Status status = ids_reserve(&kept, count);
    for (size_t i = 0; i < count && status == OK; i++)
        if (!leave_out_special || !tokenizer_is_special(tokenizer, ids[i]))
            status = ids_push(&kept, ids[i]);
    if (status == OK)
        status = sentencepiece_decode(tokenizer->sentencepiece, kept.ids, kept.count, text);
    ids_free(&kept);
    return status;
}

Status tokenizer_decode(Tokenizer *tokenizer, const uint32_t *ids, size_t count,
                        bool leave_out_special, ByteBuffer *text)
{
    for (size_t i = 0; i < count; i++)
        if (tokenizer_piece(tokenizer, ids[i]).data == NULL)
            return fail(ERR_INPUT, "%s: position %zu: token %u has no piece", tokenizer->path, i,
                        ids[i]);
    if (tokenizer->sentencepiece != NULL)
        return decode_sentencepiece(tokenizer, ids, count, leave_out_special, text);
    return json_tokenizer_decode(&tokenizer->json, ids, count, leave_out_special, text);
}
