#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/table.h"
#include "exec/text/text_requests.h"

typedef struct {
    const char *model;
    const char *text;
    bool lines;
    const char *tokens;
    const char *key;
    bool no_special;
    const char *out;
    bool json;
} Arguments;

/* Either direction gives requests, with their text when they are decoded. */
typedef struct {
    const Arguments *arguments;
    Tokenizer *tokenizer;
    TokenSet set;
    ByteBuffer decoded; /* all requests' texts, one after the other */
    IdBuffer ends;      /* [n_requests] */
    uint64_t bytes;     /* of text */
    uint64_t load_ns;
    uint64_t work_ns;
} Tokenizing;

static Status check(const OptionTable *table, const Arguments *arguments)
{
    if ((arguments->text == NULL) == (arguments->tokens == NULL))
        return options_fail(table, "wanted one of --text and --tokens");
    if (arguments->lines && arguments->text == NULL)
        return options_fail(table, "--lines needs --text");
    if (arguments->key != NULL && arguments->tokens == NULL)
        return options_fail(table, "--key needs --tokens");
    return OK;
}

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        TEXT_OPTION("model", "DIR", "checkpoint, tokenizer.json or SentencePiece .model",
                    &arguments->model, .required = true),
        TEXT_OPTION("text", "FILE", "text to encode; .jsonl: {\"text\": ...} per line",
                    &arguments->text),
        FLAG_OPTION("lines", "each line of the text is a request", &arguments->lines),
        TEXT_OPTION("tokens", "FILE", "tokens to decode: .npy, .safetensors or .jsonl",
                    &arguments->tokens),
        TEXT_OPTION("key", "K", "only the stream of this name", &arguments->key),
        FLAG_OPTION("no-special", "add no special tokens, show none", &arguments->no_special),
        TEXT_OPTION("out", "FILE", "write the tokens as JSON lines, or the decoded text",
                    &arguments->out, .writes = true),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "tokenize",
        .summary =
            "Turns text into a model's tokens, or tokens into text. Prints ids and pieces, or the "
            "text. Bytes that are no UTF-8 are read as U+FFFD; the decoded text of a byte-level "
            "model is written byte for byte, but U+FFFD stands for what is no UTF-8 under --json.",
        .example = "moebius tokenize --model models/tiny-32x4 --text README.md --json",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    return check(&table, arguments);
}

static Status encode(Tokenizing *work)
{
    const Arguments *arguments = work->arguments;
    TextOptions options = {.lines = arguments->lines,
                           .add_special = !arguments->no_special,
                           .allow_empty = true,
                           .vocabulary = tokenizer_n_ids(work->tokenizer)};
    return text_requests_load(arguments->text, &options, work->tokenizer, &work->set, &work->bytes);
}

static Status decode(Tokenizing *work)
{
    const Arguments *arguments = work->arguments;
    TRY(tokens_load(arguments->tokens, arguments->key, tokenizer_n_ids(work->tokenizer),
                    &work->set));
    for (uint32_t i = 0; i < work->set.n_requests; i++) {
        const TokenRequest *request = &work->set.requests[i];
        TRY(tokenizer_decode(work->tokenizer, request->tokens, request->n_tokens,
                             arguments->no_special, &work->decoded));
        if (work->decoded.bytes > UINT32_MAX)
            return fail(ERR_INPUT, "%s: more than 4 GiB of text", arguments->tokens);
        TRY(ids_push(&work->ends, (uint32_t)work->decoded.bytes));
    }
    work->bytes = work->decoded.bytes;
    return OK;
}

static Span decoded_text(const Tokenizing *work, uint32_t request)
{
    size_t from = request > 0 ? work->ends.ids[request - 1] : 0;
    return (Span){.data = work->decoded.data + from, .bytes = work->ends.ids[request] - from};
}

static uint64_t count_tokens(const Tokenizing *work)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < work->set.n_requests; i++)
        total += work->set.requests[i].n_tokens;
    return total;
}

static void write_json_string(FILE *stream, const char *text)
{
    fputc('"', stream);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            fprintf(stream, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            fprintf(stream, "\\u%04x", (unsigned char)*text);
        else
            fputc(*text, stream);
    }
    fputc('"', stream);
}

/* Lines as `record --tokens` reads them. */
static void write_tokens(FILE *stream, const TokenSet *set)
{
    for (uint32_t i = 0; i < set->n_requests; i++) {
        const TokenRequest *request = &set->requests[i];
        fputs("{\"label\": ", stream);
        write_json_string(stream, request->label);
        fputs(", \"tokens\": [", stream);
        for (uint32_t t = 0; t < request->n_tokens; t++)
            fprintf(stream, "%s%" PRIu32, t > 0 ? ", " : "", request->tokens[t]);
        fputs("]}\n", stream);
    }
}

static Status write_out(const Tokenizing *work)
{
    const Arguments *arguments = work->arguments;
    if (arguments->tokens != NULL)
        return file_write_all(arguments->out, work->decoded.data, work->decoded.bytes);
    OutputFile output;
    TRY(output_open(arguments->out, &output));
    write_tokens(output.stream, &work->set);
    return output_commit(&output);
}

static Status fill_request(cJSON *json, const Tokenizing *work, uint32_t i)
{
    const TokenRequest *request = &work->set.requests[i];
    cJSON *ids;
    cJSON *pieces;
    TRY(json_add_text(json, "label", request->label));
    if (work->arguments->tokens != NULL)
        TRY(print_add_bytes(json, "text", decoded_text(work, i)));
    TRY(json_add_array(json, "ids", &ids));
    TRY(json_add_array(json, "pieces", &pieces));
    for (uint32_t t = 0; t < request->n_tokens; t++) {
        TRY(json_push(ids, cJSON_CreateNumber(request->tokens[t])));
        TRY(print_push_bytes(pieces, tokenizer_piece(work->tokenizer, request->tokens[t])));
    }
    return OK;
}

static Status fill_json(cJSON *json, const Tokenizing *work)
{
    cJSON *requests;
    TRY(json_add_text(json, "tokenizer", tokenizer_path(work->tokenizer)));
    TRY(json_add_text(json, "kind", tokenizer_kind(work->tokenizer)));
    TRY(json_add_u64(json, "vocabulary", tokenizer_n_ids(work->tokenizer)));
    TRY(json_add_u64(json, "bytes", work->bytes));
    TRY(json_add_u64(json, "tokens", count_tokens(work)));
    TRY(json_add_u64(json, "load_ns", work->load_ns));
    TRY(json_add_u64(json, "duration_ns", work->work_ns));
    TRY(json_add_array(json, "requests", &requests));
    for (uint32_t i = 0; i < work->set.n_requests; i++) {
        cJSON *request = cJSON_CreateObject();
        TRY(json_push(requests, request));
        TRY(fill_request(request, work, i));
    }
    return OK;
}

static Status print_tokenizing_json(const Tokenizing *work)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, work));
}

static void print_summary(const Tokenizing *work)
{
    char tokens[NUMBER_BYTES];
    char bytes[NUMBER_BYTES];
    char duration[NUMBER_BYTES];
    printf("%s (%s): %s tokens, %s bytes of text, %s\n", tokenizer_path(work->tokenizer),
           tokenizer_kind(work->tokenizer), number_text(count_tokens(work), tokens),
           number_text(work->bytes, bytes), duration_text(work->work_ns, duration));
}

/* Pieces may hold line ends and other control characters. */
static void print_piece(Span piece)
{
    for (size_t i = 0; i < piece.bytes; i++) {
        if (piece.data[i] < 0x20 || piece.data[i] == 0x7F)
            printf("\\x%02X", piece.data[i]);
        else
            putchar(piece.data[i]);
    }
}

static void print_requests(const Tokenizing *work)
{
    for (uint32_t i = 0; i < work->set.n_requests; i++) {
        const TokenRequest *request = &work->set.requests[i];
        printf("%s\n", request->label);
        for (uint32_t t = 0; t < request->n_tokens; t++) {
            printf("  %8" PRIu32 "  %8" PRIu32 "  ", t, request->tokens[t]);
            print_piece(tokenizer_piece(work->tokenizer, request->tokens[t]));
            putchar('\n');
        }
    }
}

static void print_texts(const Tokenizing *work)
{
    for (uint32_t i = 0; i < work->set.n_requests; i++) {
        Span text = decoded_text(work, i);
        fwrite(text.data, 1, text.bytes, stdout);
        if (text.bytes == 0 || text.data[text.bytes - 1] != '\n')
            putchar('\n');
    }
}

static Status show(const Tokenizing *work)
{
    if (work->arguments->out != NULL)
        TRY(write_out(work));
    if (work->arguments->json)
        return print_tokenizing_json(work);
    if (work->arguments->out != NULL || work->arguments->text != NULL)
        print_summary(work);
    if (work->arguments->out == NULL && work->arguments->text != NULL)
        print_requests(work);
    else if (work->arguments->out == NULL)
        print_texts(work);
    return OK;
}

static Status tokenize(Tokenizing *work)
{
    uint64_t start = clock_ns();
    TRY(tokenizer_open(work->arguments->model, &work->tokenizer));
    work->load_ns = clock_ns() - start;
    start = clock_ns();
    TRY(work->arguments->text != NULL ? encode(work) : decode(work));
    work->work_ns = clock_ns() - start;
    return show(work);
}

Status command_tokenize(int argc, char **argv)
{
    Arguments arguments = {0};
    Tokenizing work = {.arguments = &arguments};
    TRY(parse(argc, argv, &arguments));
    Status status = tokenize(&work);
    ids_free(&work.ends);
    bytes_free(&work.decoded);
    tokens_free(&work.set);
    tokenizer_close(work.tokenizer);
    return status;
}
