#include "cli/generated.h"

#include <stdio.h>

#include "base/memory.h"
#include "cli/print.h"

Status generated_open(Generated *generated, uint32_t n_requests, uint32_t room, const char *model)
{
    if (model != NULL)
        TRY(tokenizer_open(model, &generated->tokenizer));
    TRY(mem_new(&generated->tokens, n_requests, sizeof *generated->tokens, "generated tokens"));
    TRY(mem_new(&generated->n_tokens, n_requests, sizeof(uint32_t), "generated tokens"));
    TRY(mem_new(&generated->pool, (size_t)n_requests * room, sizeof(uint32_t), "generated tokens"));
    generated->n_requests = n_requests;
    for (uint32_t i = 0; i < n_requests; i++)
        generated->tokens[i] = generated->pool + (size_t)i * room;
    return OK;
}

void generated_close(Generated *generated)
{
    mem_free(generated->tokens);
    mem_free(generated->n_tokens);
    mem_free(generated->pool);
    tokenizer_close(generated->tokenizer);
    *generated = (Generated){0};
}

static Status text_of(const Generated *generated, uint32_t request, ByteBuffer *text)
{
    text->bytes = 0;
    return tokenizer_decode(generated->tokenizer, generated->tokens[request],
                            generated->n_tokens[request], true, text);
}

Status generated_print(const Generated *generated, const TokenSet *set)
{
    ByteBuffer text = {0};
    Status status = OK;
    for (uint32_t i = 0; i < generated->n_requests && status == OK; i++) {
        status = text_of(generated, i, &text);
        if (status != OK)
            break;
        printf("--- request %u%s%s\n", i, set->requests[i].label[0] != '\0' ? ": " : "",
               set->requests[i].label);
        if (text.bytes > 0)
            fwrite(text.data, 1, text.bytes, stdout);
        putchar('\n');
    }
    bytes_free(&text);
    return status;
}

static Status fill_request(const Generated *generated, const TokenSet *set, uint32_t i, cJSON *json)
{
    cJSON *ids;
    ByteBuffer text = {0};
    TRY(json_add_text(json, "label", set->requests[i].label));
    TRY(json_add_array(json, "ids", &ids));
    for (uint32_t t = 0; t < generated->n_tokens[i]; t++)
        TRY(json_push(ids, cJSON_CreateNumber(generated->tokens[i][t])));
    Status status = text_of(generated, i, &text);
    if (status == OK)
        status = print_add_bytes(json, "text", bytes_span(&text, 0));
    bytes_free(&text);
    return status;
}

Status generated_add_json(const Generated *generated, const TokenSet *set, cJSON *json)
{
    cJSON *list;
    TRY(json_add_array(json, "generated_text", &list));
    for (uint32_t i = 0; i < generated->n_requests; i++) {
        cJSON *request = cJSON_CreateObject();
        TRY(json_push(list, request));
        TRY(fill_request(generated, set, i, request));
    }
    return OK;
}

static Status fill_line(const Generated *generated, const TokenSet *set, uint32_t i, cJSON *line)
{
    cJSON *tokens;
    if (set->requests[i].label[0] != '\0')
        TRY(json_add_text(line, "label", set->requests[i].label));
    TRY(json_add_array(line, "tokens", &tokens));
    for (uint32_t t = 0; t < generated->n_tokens[i]; t++)
        TRY(json_push(tokens, cJSON_CreateNumber(generated->tokens[i][t])));
    return OK;
}

static Status write_line(const Generated *generated, const TokenSet *set, uint32_t i,
                         const OutputFile *file)
{
    char *text = NULL;
    cJSON *line = cJSON_CreateObject();
    if (line == NULL)
        return fail_memory("generated tokens", 0);
    Status status = fill_line(generated, set, i, line);
    if (status == OK)
        status = json_print(line, false, &text);
    if (status == OK && fprintf(file->stream, "%s\n", text) < 0)
        status = fail(ERR_IO, "%s: writing failed", file->path);
    mem_free(text);
    cJSON_Delete(line);
    return status;
}

Status generated_write(const Generated *generated, const TokenSet *set, OutputFile *file)
{
    for (uint32_t i = 0; i < generated->n_requests; i++)
        TRY(write_line(generated, set, i, file));
    return output_commit(file);
}
