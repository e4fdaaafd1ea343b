#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "traces/import_formats.h"
#include "traces/import_tokens.h"
#include "traces/npy.h"

/* What vLLM returns with --enable-return-routed-experts. Either a .npy array, as for --from npy, or
 * the responses of its completions API, one JSON document a line:
 *
 *   {"id": ..., "prompt_routed_experts": A, "choices": [{"routed_experts": A}, ...],
 *    "usage": {"prompt_tokens": N}}
 *
 * where A is a nested list [token][layer][k] (0.21), or the base64 text of a .npy of that shape;
 * such a text in a choice holds prompt and output together (later versions), which usage tells
 * apart. Each choice is a request; the prompt is counted with the first. */

static const size_t MAX_FILE_BYTES = (size_t)16 << 30;

typedef struct {
    const ImportOptions *options;
    uint32_t line;
    uint64_t layers; /* of the first array */
    uint64_t top_k;
    int32_t *ids;
    size_t n_ids;
    size_t ids_room;
    ImportSequences sequences;
    size_t sequences_room;
    uint64_t tokens;
} Responses;

static Status line_fail(const Responses *responses, const char *place, const char *why)
{
    return fail(ERR_INPUT, "%s: line %u: %s: %s", responses->options->path, responses->line, place,
                why);
}

static Status fit_ids(Responses *responses, size_t count)
{
    return mem_reserve(&responses->ids, &responses->ids_room, responses->n_ids, count,
                       sizeof *responses->ids, "routed experts");
}

/* The first array's shape is every array's. */
static Status check_shape(Responses *responses, const char *place, uint64_t layers, uint64_t top_k)
{
    if (responses->layers == 0) {
        responses->layers = layers;
        responses->top_k = top_k;
    }
    if (layers < 1 || layers > TRACE_MAX_LAYERS || top_k < 1 || top_k > TRACE_MAX_TOP_K)
        return line_fail(responses, place, "layers or experts per token are out of range");
    if (layers != responses->layers || top_k != responses->top_k)
        return fail(ERR_INPUT,
                    "%s: line %u: %s: %" PRIu64 " layers, top-%" PRIu64 "; the first array has "
                    "%" PRIu64 ", top-%" PRIu64,
                    responses->options->path, responses->line, place, layers, top_k,
                    responses->layers, responses->top_k);
    return OK;
}

/* The K numbers of one token in one layer. */
static Status take_choice(Responses *responses, const char *place, const cJSON *list)
{
    TRY(fit_ids(responses, responses->top_k));
    for (const cJSON *id = list->child; id != NULL; id = id->next) {
        if (!cJSON_IsNumber(id) || id->valuedouble < -1 || id->valuedouble >= TRACE_MAX_EXPERTS ||
            id->valuedouble != (double)(int32_t)id->valuedouble)
            return line_fail(responses, place, "what is no expert id");
        responses->ids[responses->n_ids++] = (int32_t)id->valuedouble;
    }
    return OK;
}

static Status take_nested(Responses *responses, const char *place, const cJSON *array,
                          uint64_t *tokens)
{
    for (const cJSON *token = array->child; token != NULL; token = token->next, ++*tokens) {
        if (!cJSON_IsArray(token) || !cJSON_IsArray(token->child))
            return line_fail(responses, place, "lists [token][layer][k] are wanted");
        TRY(check_shape(responses, place, (uint64_t)cJSON_GetArraySize(token),
                        (uint64_t)cJSON_GetArraySize(token->child)));
        for (const cJSON *layer = token->child; layer != NULL; layer = layer->next) {
            if (!cJSON_IsArray(layer) || (uint64_t)cJSON_GetArraySize(layer) != responses->top_k)
                return line_fail(responses, place, "ragged: not every layer has equally many");
            TRY(take_choice(responses, place, layer));
        }
    }
    return OK;
}

static Status take_npy(Responses *responses, const char *place, char *text, uint64_t skip,
                       uint64_t *tokens)
{
    size_t bytes;
    Tensor array;
    uint32_t largest;
    char name[256];
    snprintf(name, sizeof name, "%.160s: line %u: %s", responses->options->path, responses->line,
             place);
    if (!base64_decode(text, strlen(text), (unsigned char *)text, &bytes))
        return line_fail(responses, place, "a nested list or base64 is wanted");
    TRY(npy_view(name, text, bytes, &array));
    TRY(import_ids_check(name, &array, 0, &largest));
    TRY(check_shape(responses, place, array.shape[1], array.shape[2]));
    size_t per_token = (size_t)(array.shape[1] * array.shape[2]);
    skip = skip < array.shape[0] ? skip : array.shape[0];
    *tokens = array.shape[0] - skip;
    TRY(fit_ids(responses, (size_t)*tokens * per_token));
    for (size_t i = 0; i < *tokens * per_token; i++) {
        int64_t id = 0;
        import_integer_at(&array, skip * per_token + i, &id);
        responses->ids[responses->n_ids++] = (int32_t)id;
    }
    return OK;
}

static Status add_sequence(Responses *responses, uint64_t tokens, uint64_t prompt_here,
                           uint64_t prompt)
{
    ImportSequences *sequences = &responses->sequences;
    if (tokens == 0)
        return OK;
    TRY(mem_grow(&sequences->items, &responses->sequences_room, sequences->count,
                 sizeof *sequences->items, "sequences"));
    if (tokens + prompt > UINT32_MAX || sequences->count == UINT32_MAX)
        return line_fail(responses, "choices", "too long");
    sequences->items[sequences->count] =
        (ImportSequence){.first_token = responses->tokens,
                         .tokens = tokens,
                         .request = (uint32_t)sequences->count,
                         .first_position = (uint32_t)(prompt_here > 0 ? 0 : prompt),
                         .prompt_here = (uint32_t)prompt_here,
                         .prompt_tokens = (uint32_t)prompt,
                         .output_tokens = (uint32_t)(tokens - prompt_here)};
    sequences->count++;
    responses->tokens += tokens;
    return OK;
}

/* A choice whose array is of its output alone, behind PROMPT_HERE tokens already taken. */
static Status take_output(Responses *responses, const cJSON *array, uint64_t prompt_here,
                          uint64_t prompt)
{
    uint64_t tokens = 0;
    TRY(take_nested(responses, "routed_experts", array, &tokens));
    return add_sequence(responses, prompt_here + tokens, prompt_here, prompt);
}

/* A choice whose array begins with the prompt; only the first keeps it. */
static Status take_whole(Responses *responses, const cJSON *array, const cJSON *root, bool first)
{
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(root, "usage");
    const cJSON *given = cJSON_GetObjectItemCaseSensitive(usage, "prompt_tokens");
    uint64_t tokens = 0;
    if (!cJSON_IsNumber(given) || given->valuedouble < 0 || given->valuedouble >= UINT32_MAX)
        return line_fail(responses, "usage.prompt_tokens",
                         "is wanted, to tell the prompt from the output");
    uint64_t prompt = (uint64_t)given->valuedouble;
    TRY(take_npy(responses, "routed_experts", array->valuestring, first ? 0 : prompt, &tokens));
    uint64_t here = !first ? 0 : tokens < prompt ? tokens : prompt;
    return add_sequence(responses, tokens, here, prompt);
}

static Status take_response(Responses *responses, const cJSON *root)
{
    const cJSON *prompt = cJSON_GetObjectItemCaseSensitive(root, "prompt_routed_experts");
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(root, "choices");
    uint64_t prompt_tokens = 0;
    if (!cJSON_IsArray(choices) || choices->child == NULL)
        return line_fail(responses, "choices", "a list is wanted");
    if (cJSON_IsArray(prompt))
        TRY(take_nested(responses, "prompt_routed_experts", prompt, &prompt_tokens));
    else if (cJSON_IsString(prompt))
        TRY(take_npy(responses, "prompt_routed_experts", prompt->valuestring, 0, &prompt_tokens));
    bool first = true;
    for (const cJSON *choice = choices->child; choice != NULL; choice = choice->next) {
        const cJSON *array = cJSON_GetObjectItemCaseSensitive(choice, "routed_experts");
        if (cJSON_IsArray(array))
            TRY(take_output(responses, array, first ? prompt_tokens : 0, prompt_tokens));
        else if (cJSON_IsString(array) && prompt_tokens == 0)
            TRY(take_whole(responses, array, root, first));
        else
            return line_fail(responses, "choices",
                             "no routed_experts (was --enable-return-routed-experts on?)");
        first = false;
    }
    return OK;
}

static Status take_line(Responses *responses, char *line, size_t length)
{
    char name[256];
    cJSON *root;
    char saved = line[length];
    snprintf(name, sizeof name, "%.200s: line %u", responses->options->path, responses->line);
    line[length] = '\0';
    Status status = json_parse_line(line, length, name, &root);
    line[length] = saved;
    TRY(status);
    status = take_response(responses, root);
    cJSON_Delete(root);
    return status;
}

static Status take_lines(Responses *responses, char *text, size_t bytes)
{
    char *end = text + bytes;
    for (char *at = text; at < end;) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop != NULL ? stop : end;
        responses->line++;
        if (strspn(at, " \t\r") < (size_t)(stop - at))
            TRY(take_line(responses, at, (size_t)(stop - at)));
        at = stop < end ? stop + 1 : end;
    }
    if (responses->tokens == 0)
        return fail(ERR_INPUT, "%s: holds no token", responses->options->path);
    return OK;
}

static Status write_responses(const Responses *responses, ImportReport *report)
{
    ImportOptions options = *responses->options;
    const ImportTokens tokens = {
        .ids = {.name = "routed_experts",
                .dtype = DTYPE_I32,
                .rank = 3,
                .shape = {responses->tokens, responses->layers, responses->top_k},
                .data = responses->ids,
                .bytes = responses->n_ids * sizeof *responses->ids},
        .sequences = responses->sequences,
    };
    if (!options.step_given) {
        options.step_given = true;
        options.step = IMPORT_STEP_REQUEST;
    }
    cJSON *notes = cJSON_CreateObject();
    Status status = notes != NULL ? import_tokens_write(&options, &tokens, NULL, notes, report)
                                  : fail_memory("run.notes", 0);
    cJSON_Delete(notes);
    return status;
}

static Status import_responses(const ImportOptions *options, ImportReport *report)
{
    char *text;
    size_t bytes;
    Responses responses = {.options = options};
    if (options->sequences != NULL)
        return fail(ERR_USAGE, "--sequences goes with a .npy array; responses say it themselves");
    TRY(file_read_all(options->path, MAX_FILE_BYTES, &text, &bytes));
    Status status = take_lines(&responses, text, bytes);
    mem_free(text);
    if (status == OK)
        status = write_responses(&responses, report);
    mem_free(responses.ids);
    import_sequences_free(&responses.sequences);
    return status;
}

Status import_vllm(const ImportOptions *options, ImportReport *report)
{
    FileMap map;
    TRY(file_map_open(options->path, &map));
    bool is_npy = map.bytes >= 6 && memcmp(map.data, "\x93NUMPY", 6) == 0;
    file_map_close(&map);
    return is_npy ? import_npy(options, report) : import_responses(options, report);
}
