#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/import_counts.h"
#include "traces/import_formats.h"
#include "traces/import_sink.h"
#include "traces/import_tokens.h"
#include "traces/pickle.h"
#include "traces/step_buffer.h"

/* What SGLang's expert distribution recorder dumps with torch.save()
 * (python/sglang/srt/eplb/expert_distribution.py):
 *
 *   mode stat, stat_approx   {"logical_count": int32 [step, layer, expert], ...}
 *   mode per_pass            {"records": [{"forward_pass_id", "rank", "global_physical_count":
 *                            [layer, physical expert], ...}], "last_physical_to_logical_map":
 *                            [layer, physical expert]}
 *   mode per_token           the same, each record also with "input_ids", "positions",
 *                            "extend_seq_lens", "forward_mode", "topk_ids_of_layer": int32 [layer,
 *                            token, slot] of physical experts, -1 where a layer or slot has none
 *
 * It does not keep which request a token is of. */

enum { FORWARD_EXTEND = 1, FORWARD_DECODE = 2, FORWARD_MIXED = 3 };

typedef struct {
    const ImportOptions *options;
    const PickleValue *records; /* list of dicts */
    Tensor map;                 /* [layers][physical]; rank 0: there is none */
    uint32_t n_layers;
    uint32_t slots;                   /* of topk_ids_of_layer */
    uint32_t physical;                /* experts, when there is a map */
    uint32_t experts;                 /* logical */
    uint32_t top_k[TRACE_MAX_LAYERS]; /* slots in use; 0: no MoE layer */
    TraceLayer layers[TRACE_MAX_LAYERS];
    uint32_t n_moe;
    ImportSink *sink;
    StepBuffer arrays;
    int64_t last_pass;
} Dump;

static Status record_fail(const Dump *dump, size_t record, const char *why)
{
    return fail(ERR_INPUT, "%s: records[%zu]: %s", dump->options->path, record, why);
}

static bool get_integer(const PickleValue *record, const char *key, int64_t *value)
{
    const PickleValue *found = pickle_get(record, key);
    if (found == NULL || found->kind != PICKLE_INTEGER)
        return false;
    *value = found->integer;
    return true;
}

/* A list of COUNT numbers that fit 32 bits, or NULL. */
static bool is_word_list(const PickleValue *list, size_t count)
{
    if (list == NULL || list->kind != PICKLE_LIST || list->count != count)
        return false;
    for (size_t i = 0; i < count; i++)
        if (list->items[i]->kind != PICKLE_INTEGER || list->items[i]->integer < 0 ||
            list->items[i]->integer >= UINT32_MAX)
            return false;
    return true;
}

static Status take_map(Dump *dump, const PickleValue *root)
{
    const PickleValue *map = pickle_get(root, "last_physical_to_logical_map");
    int64_t id = 0;
    if (map == NULL || map->kind == PICKLE_NONE)
        return OK;
    if (map->kind != PICKLE_TENSOR || map->tensor->rank != 2 || map->tensor->shape[0] < 1 ||
        map->tensor->shape[0] > TRACE_MAX_LAYERS || map->tensor->shape[1] < 1 ||
        map->tensor->shape[1] > TRACE_MAX_EXPERTS)
        return fail(ERR_INPUT,
                    "%s: last_physical_to_logical_map: a tensor [layer, expert] is wanted",
                    dump->options->path);
    dump->map = *map->tensor;
    dump->physical = (uint32_t)map->tensor->shape[1];
    for (size_t i = 0; i < dump->map.shape[0] * dump->map.shape[1]; i++) {
        if (!import_integer_at(&dump->map, i, &id) || id < 0 || id >= TRACE_MAX_EXPERTS)
            return fail(ERR_INPUT, "%s: last_physical_to_logical_map: entry %zu is no expert",
                        dump->options->path, i);
        dump->experts = id >= dump->experts ? (uint32_t)id + 1 : dump->experts;
    }
    return OK;
}

/* The logical expert of a physical one. */
static Status logical(const Dump *dump, size_t record, uint32_t layer, int64_t id, uint16_t *expert)
{
    int64_t mapped = id;
    uint32_t most = dump->map.rank > 0 ? dump->physical : TRACE_MAX_EXPERTS;
    if (id < -1 || id >= most)
        return fail(ERR_INPUT,
                    "%s: records[%zu]: topk_ids_of_layer: layer %u: expert %" PRId64
                    ", allowed is -1 to %u",
                    dump->options->path, record, layer, id, most - 1);
    if (id >= 0 && dump->map.rank > 0)
        import_integer_at(&dump->map, (size_t)layer * dump->physical + (size_t)id, &mapped);
    if (dump->options->experts > 0 && mapped >= dump->options->experts)
        return fail(ERR_INPUT, "%s: records[%zu]: layer %u: expert %" PRId64 ", --experts says %u",
                    dump->options->path, record, layer, mapped, dump->options->experts);
    *expert = mapped < 0 ? EXPERT_DROPPED : (uint16_t)mapped;
    return OK;
}

/* Checks the shape of a record and learns from it which layers and slots are in use. */
static Status scan_record(Dump *dump, size_t index)
{
    const PickleValue *record = dump->records->items[index];
    const PickleValue *ids = pickle_get(record, "topk_ids_of_layer");
    const PickleValue *input = pickle_get(record, "input_ids");
    if (ids == NULL || ids->kind != PICKLE_TENSOR || ids->tensor->rank != 3)
        return record_fail(dump, index,
                           "topk_ids_of_layer: a tensor [layer, token, slot] is wanted");
    const Tensor *tensor = ids->tensor;
    if (index == 0) {
        dump->n_layers = tensor->shape[0] <= TRACE_MAX_LAYERS ? (uint32_t)tensor->shape[0] : 0;
        dump->slots = tensor->shape[2] <= TRACE_MAX_TOP_K ? (uint32_t)tensor->shape[2] : 0;
        if (dump->n_layers == 0 || dump->slots == 0 ||
            (dump->map.rank > 0 && dump->map.shape[0] != dump->n_layers))
            return record_fail(dump, index, "topk_ids_of_layer: layers or slots out of range");
    }
    if (tensor->shape[0] != dump->n_layers || tensor->shape[2] != dump->slots)
        return record_fail(dump, index,
                           "topk_ids_of_layer: another shape than in the first record");
    if (tensor->shape[1] > TRACE_MAX_TOKENS || input == NULL ||
        !is_word_list(input, tensor->shape[1]) ||
        !is_word_list(pickle_get(record, "positions"), tensor->shape[1]))
        return record_fail(dump, index, "input_ids, positions and topk_ids_of_layer do not agree");
    size_t per_layer = (size_t)tensor->shape[1] * dump->slots;
    for (size_t i = 0; i < dump->n_layers * per_layer; i++) {
        int64_t id = -1;
        uint16_t expert = EXPERT_DROPPED;
        uint32_t layer = (uint32_t)(i / per_layer);
        uint32_t slot = (uint32_t)(i % dump->slots);
        if (!import_integer_at(tensor, i, &id))
            return record_fail(dump, index, "topk_ids_of_layer: integers are wanted");
        TRY(logical(dump, index, layer, id, &expert));
        if (expert == EXPERT_DROPPED)
            continue;
        dump->top_k[layer] = slot >= dump->top_k[layer] ? slot + 1 : dump->top_k[layer];
        dump->experts = expert >= dump->experts ? expert + 1u : dump->experts;
    }
    return OK;
}

static void fill_layers(Dump *dump)
{
    const ImportOptions *options = dump->options;
    for (uint32_t i = 0; i < dump->n_layers; i++) {
        if (dump->top_k[i] == 0)
            continue;
        TraceLayer *layer = &dump->layers[dump->n_moe++];
        *layer = (TraceLayer){.layer = i,
                              .experts = options->experts > 0 ? options->experts : dump->experts,
                              .top_k = dump->top_k[i],
                              .expert_bytes = options->expert_bytes};
        snprintf(layer->name, sizeof layer->name, "model.layers.%u.mlp", i);
    }
}

static Phase phase_of(const PickleValue *record)
{
    int64_t mode = 0;
    get_integer(record, "forward_mode", &mode);
    if (mode == FORWARD_EXTEND)
        return PHASE_PREFILL;
    return mode == FORWARD_DECODE ? PHASE_DECODE : PHASE_MIXED;
}

/* The place in the batch: by the lengths of the sequences, or one token each. */
static void fill_requests(const Dump *dump, const PickleValue *record, uint32_t tokens)
{
    const PickleValue *lengths = pickle_get(record, "extend_seq_lens");
    uint32_t *request = dump->arrays.request;
    uint32_t token = 0;
    if (lengths != NULL && lengths->kind == PICKLE_LIST && lengths->count > 0)
        for (uint32_t i = 0; i < lengths->count; i++) {
            int64_t length =
                lengths->items[i]->kind == PICKLE_INTEGER ? lengths->items[i]->integer : 0;
            for (; length > 0 && token < tokens; length--)
                request[token++] = i;
        }
    for (uint32_t i = token; i < tokens; i++)
        request[i] = i;
}

static Status fill_experts(Dump *dump, size_t index, const Tensor *ids)
{
    uint32_t tokens = (uint32_t)ids->shape[1];
    uint16_t *to = dump->arrays.experts;
    for (uint32_t layer = 0; layer < dump->n_layers; layer++)
        for (uint32_t token = 0; token < tokens; token++)
            for (uint32_t slot = 0; slot < dump->top_k[layer]; slot++) {
                int64_t id = -1;
                import_integer_at(ids, ((size_t)layer * tokens + token) * dump->slots + slot, &id);
                TRY(logical(dump, index, layer, id, to++));
            }
    return OK;
}

static Status write_record(Dump *dump, size_t index)
{
    const PickleValue *record = dump->records->items[index];
    const Tensor *ids = pickle_get(record, "topk_ids_of_layer")->tensor;
    const PickleValue *input = pickle_get(record, "input_ids");
    const PickleValue *positions = pickle_get(record, "positions");
    uint32_t tokens = (uint32_t)ids->shape[1];
    size_t per_token = 0;
    int64_t rank = 0;
    int64_t pass = 0;
    if (tokens == 0)
        return OK; /* an idle pass */
    for (uint32_t i = 0; i < dump->n_layers; i++)
        per_token += dump->top_k[i];
    TRY(step_buffer_fit(&dump->arrays, tokens, tokens * per_token, 0));
    for (uint32_t i = 0; i < tokens; i++) {
        dump->arrays.token[i] = (uint32_t)input->items[i]->integer;
        dump->arrays.position[i] = (uint32_t)positions->items[i]->integer;
    }
    fill_requests(dump, record, tokens);
    TRY(fill_experts(dump, index, ids));
    if (!get_integer(record, "rank", &rank) || rank < 0 || rank > UINT8_MAX)
        return record_fail(dump, index, "rank: 0 to 255 is wanted");
    memset(dump->arrays.rank, (int)rank, tokens);
    if (get_integer(record, "forward_pass_id", &pass) && pass > dump->last_pass &&
        pass < UINT32_MAX) {
        import_sink_number(dump->sink, (uint32_t)pass);
        dump->last_pass = pass;
    } else {
        dump->last_pass++;
    }
    TraceStep step = {.phase = phase_of(record),
                      .tokens = tokens,
                      .request = dump->arrays.request,
                      .position = dump->arrays.position,
                      .token = dump->arrays.token,
                      .rank = dump->arrays.rank,
                      .experts = dump->arrays.experts};
    return import_sink_step(dump->sink, &step, NULL, 0);
}

static Status write_records(Dump *dump, cJSON *notes)
{
    TRY(json_add_bool(notes, "requests_unknown", true));
    TRY(json_add_text(notes, "requests",
                      "not in the dump: the number is the sequence's place in its batch"));
    TRY(import_sink_open(dump->options, dump->layers, dump->n_moe, NULL, notes,
                         &(ImportSteps){.bytes = 1 << 20}, &dump->sink));
    Status status = OK;
    for (size_t i = 0; i < dump->records->count && status == OK; i++)
        status = write_record(dump, i);
    return status;
}

static Status take_records(Dump *dump, const PickleValue *root)
{
    const char *path = dump->options->path;
    dump->records = pickle_get(root, "records");
    if (dump->records == NULL || dump->records->kind != PICKLE_LIST || dump->records->count == 0)
        return fail(ERR_INPUT, "%s: records: a list of passes is wanted", path);
    for (size_t i = 0; i < dump->records->count; i++)
        if (dump->records->items[i]->kind != PICKLE_DICT)
            return record_fail(dump, i, "a dict is wanted");
    return take_map(dump, root);
}

static Status import_tokens_of(Dump *dump, const PickleValue *root, cJSON *notes,
                               ImportReport *report)
{
    const char *path = dump->options->path;
    if (pickle_get(root, "logical_count") != NULL)
        return fail(ERR_INPUT, "%s: holds counts, not tokens: use --from sglang-counts", path);
    TRY(take_records(dump, root));
    if (pickle_get(dump->records->items[0], "topk_ids_of_layer") == NULL)
        return fail(ERR_INPUT,
                    "%s: records[0]: no topk_ids_of_layer (recorded in mode per_pass?): use --from "
                    "sglang-counts",
                    path);
    for (size_t i = 0; i < dump->records->count; i++)
        TRY(scan_record(dump, i));
    fill_layers(dump);
    if (dump->n_moe == 0)
        return fail(ERR_INPUT, "%s: no layer has a chosen expert", path);
    Status status = write_records(dump, notes);
    if (status == OK)
        return import_sink_close(dump->sink, report);
    import_sink_abandon(dump->sink);
    return status;
}

/* Adds a pass's physical counts up to logical ones, [layers][experts]. */
static Status count_record(const Dump *dump, size_t index, uint64_t *counts)
{
    const PickleValue *found = pickle_get(dump->records->items[index], "global_physical_count");
    if (found == NULL || found->kind != PICKLE_TENSOR || found->tensor->rank != 2 ||
        found->tensor->shape[0] != dump->map.shape[0] ||
        found->tensor->shape[1] != dump->map.shape[1])
        return record_fail(dump, index,
                           "global_physical_count: a tensor of the map's shape is wanted");
    for (size_t i = 0; i < dump->map.shape[0] * dump->map.shape[1]; i++) {
        int64_t count = 0;
        int64_t expert = 0;
        if (!import_integer_at(found->tensor, i, &count) || count < 0)
            return record_fail(dump, index, "global_physical_count: counts are wanted");
        import_integer_at(&dump->map, i, &expert);
        counts[i / dump->physical * dump->experts + (size_t)expert] += (uint64_t)count;
    }
    return OK;
}

static Status import_pass_counts(Dump *dump, const PickleValue *root, cJSON *notes,
                                 ImportReport *report)
{
    const char *path = dump->options->path;
    uint64_t *counts = NULL;
    TRY(take_records(dump, root));
    if (dump->map.rank == 0)
        return fail(ERR_INPUT, "%s: last_physical_to_logical_map is missing", path);
    size_t passes = dump->records->count;
    size_t cells = (size_t)dump->map.shape[0] * dump->experts;
    TRY(mem_new(&counts, cells, passes * sizeof *counts, "import"));
    Status status = OK;
    for (size_t i = 0; i < passes && status == OK; i++)
        status = count_record(dump, i, counts + i * cells);
    if (status == OK) {
        const Tensor array = {.name = "global_physical_count",
                              .dtype = DTYPE_U64,
                              .rank = 3,
                              .shape = {passes, dump->map.shape[0], dump->experts},
                              .data = counts,
                              .bytes = passes * cells * sizeof *counts};
        status = import_counts_array(dump->options, &array, notes, report);
    }
    mem_free(counts);
    return status;
}

static Status import_counts_of(Dump *dump, const PickleValue *root, cJSON *notes,
                               ImportReport *report)
{
    const PickleValue *counts = pickle_get(root, "logical_count");
    if (counts == NULL)
        return import_pass_counts(dump, root, notes, report);
    if (counts->kind != PICKLE_TENSOR)
        return fail(ERR_INPUT, "%s: logical_count: a tensor is wanted", dump->options->path);
    return fail_in(import_counts_array(dump->options, counts->tensor, notes, report),
                   "logical_count");
}

static Status import_dump(const ImportOptions *options, ImportReport *report,
                          Status (*import)(Dump *dump, const PickleValue *root, cJSON *notes,
                                           ImportReport *report))
{
    FileMap map;
    Pickle *pickle = NULL;
    Dump *dump = NULL;
    cJSON *notes = NULL;
    TRY(file_map_open(options->path, &map));
    Status status = pickle_view(options->path, map.data, map.bytes, &pickle);
    if (status == OK)
        status = mem_new(&dump, 1, sizeof *dump, "import");
    if (status == OK && (notes = cJSON_CreateObject()) == NULL)
        status = fail_memory("run.notes", 0);
    if (status == OK) {
        dump->options = options;
        dump->last_pass = -1;
        status = import(dump, pickle_root(pickle), notes, report);
        step_buffer_free(&dump->arrays);
    }
    cJSON_Delete(notes);
    mem_free(dump);
    pickle_free(pickle);
    file_map_close(&map);
    return status;
}

Status import_sglang(const ImportOptions *options, ImportReport *report)
{
    return import_dump(options, report, import_tokens_of);
}

Status import_sglang_counts(const ImportOptions *options, ImportReport *report)
{
    return import_dump(options, report, import_counts_of);
}
