#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/statistics.h"
#include "traces/import_counts.h"
#include "traces/import_formats.h"
#include "traces/import_sink.h"
#include "traces/import_tokens.h"
#include "traces/step_buffer.h"

/* TensorRT-LLM's expert statistics (EXPERT_STATISTIC_PATH; its ExpertStatistic and
 * examples/wide_ep/ep_load_balancer): a folder with
 *
 *   meta_info.json           {"num_experts": E, "num_experts_per_token": K}
 *   rank<r>.safetensors      keys "<iteration>_<layer>": how often each expert was chosen, [E]
 *   rank<r>_raw.safetensors  the same keys: the chosen experts, [tokens, K]
 *
 * Where there are raw files they are read, else the counts, summed over the ranks as that project's
 * tools do. Which request or phase a token is of is not in them. */

enum { MAX_RANKS = 256, MAX_PATH = 4096 };

typedef struct {
    uint32_t iteration;
    uint32_t layer;
    uint32_t rank;
    const Tensor *tensor;
} Entry;

typedef struct {
    const ImportOptions *options;
    uint32_t experts; /* of meta_info.json */
    uint32_t top_k;
    SafeTensors *files[MAX_RANKS]; /* by rank */
    bool raw;
    Entry *entries; /* [n] by iteration, layer, rank */
    size_t n;
    uint32_t layers[TRACE_MAX_LAYERS]; /* ascending */
    uint32_t n_layers;
    StepBuffer arrays;
} Statistics;

static Status read_meta(Statistics *statistics)
{
    char path[MAX_PATH];
    cJSON *json;
    JsonAt value;
    snprintf(path, sizeof path, "%s/meta_info.json", statistics->options->path);
    TRY(json_load(path, 1 << 20, &json));
    JsonAt root = json_root(json, path);
    Status status = json_need(&root, "num_experts", &value);
    if (status == OK)
        status = json_u32(&value, 1, TRACE_MAX_EXPERTS, &statistics->experts);
    if (status == OK)
        status = json_need(&root, "num_experts_per_token", &value);
    if (status == OK)
        status = json_u32(&value, 1, TRACE_MAX_TOP_K, &statistics->top_k);
    cJSON_Delete(json);
    if (status == OK && statistics->options->experts != 0 &&
        statistics->options->experts != statistics->experts)
        status = fail(ERR_INPUT, "%s: num_experts: %u, --experts says %u", path,
                      statistics->experts, statistics->options->experts);
    return status;
}

/* "rank12_raw.safetensors": its rank, or -1 when NAME ends otherwise than SUFFIX. */
static int rank_of(const char *name, const char *suffix)
{
    char *end;
    if (strncmp(name, "rank", 4) != 0 || name[4] < '0' || name[4] > '9')
        return -1;
    unsigned long rank = strtoul(name + 4, &end, 10);
    return strcmp(end, suffix) == 0 && rank < MAX_RANKS ? (int)rank : -1;
}

static Status open_files(Statistics *statistics, const char *suffix, size_t *found)
{
    const char *folder = statistics->options->path;
    DIR *directory = opendir(folder);
    Status status = OK;
    *found = 0;
    if (directory == NULL)
        return fail(ERR_INPUT, "%s: not a folder of expert statistics", folder);
    for (const struct dirent *entry; status == OK && (entry = readdir(directory)) != NULL;) {
        char path[MAX_PATH];
        int rank = rank_of(entry->d_name, suffix);
        if (rank < 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        status = safetensors_open(path, &statistics->files[rank]);
        ++*found;
    }
    closedir(directory);
    return status;
}

/* "<iteration>_<layer>" */
static bool parse_key(const char *name, Entry *entry)
{
    char *end;
    if (name[0] < '0' || name[0] > '9')
        return false;
    unsigned long long iteration = strtoull(name, &end, 10);
    if (*end != '_' || end[1] < '0' || end[1] > '9' || iteration >= UINT32_MAX)
        return false;
    unsigned long long layer = strtoull(end + 1, &end, 10);
    if (*end != '\0' || layer >= UINT32_MAX)
        return false;
    entry->iteration = (uint32_t)iteration;
    entry->layer = (uint32_t)layer;
    return true;
}

static Status check_tensor(const Statistics *statistics, const Entry *entry)
{
    const Tensor *tensor = entry->tensor;
    uint32_t rank = statistics->raw ? 2 : 1;
    uint64_t last = statistics->raw ? statistics->top_k : statistics->experts;
    if (tensor->rank != rank || tensor->shape[rank - 1] != last ||
        tensor->shape[0] > TRACE_MAX_TOKENS)
        return fail(ERR_INPUT, "%s: rank%u: %s: its shape does not go with meta_info.json",
                    statistics->options->path, entry->rank, tensor->name);
    for (size_t i = 0; i < tensor->bytes / dtype_bytes(tensor->dtype); i++) {
        int64_t value;
        if (!import_integer_at(tensor, i, &value))
            return fail(ERR_INPUT, "%s: rank%u: %s: dtype: %s, integers are wanted",
                        statistics->options->path, entry->rank, tensor->name,
                        dtype_name(tensor->dtype));
        if (value < (statistics->raw ? -1 : 0) || (statistics->raw && value >= statistics->experts))
            return fail(ERR_INPUT, "%s: rank%u: %s: element %zu: %" PRId64 " is out of range",
                        statistics->options->path, entry->rank, tensor->name, i, value);
    }
    return OK;
}

static int compare_entries(const void *left, const void *right)
{
    const Entry *a = left;
    const Entry *b = right;
    if (a->iteration != b->iteration)
        return a->iteration < b->iteration ? -1 : 1;
    if (a->layer != b->layer)
        return a->layer < b->layer ? -1 : 1;
    return a->rank < b->rank ? -1 : a->rank > b->rank;
}

static Status list_entries(Statistics *statistics)
{
    size_t total = 0;
    for (uint32_t rank = 0; rank < MAX_RANKS; rank++)
        if (statistics->files[rank] != NULL)
            total += safetensors_count(statistics->files[rank]);
    TRY(mem_new(&statistics->entries, total + 1, sizeof *statistics->entries, "import"));
    for (uint32_t rank = 0; rank < MAX_RANKS; rank++) {
        const SafeTensors *file = statistics->files[rank];
        for (size_t i = 0; file != NULL && i < safetensors_count(file); i++) {
            Entry *entry = &statistics->entries[statistics->n++];
            *entry = (Entry){.rank = rank, .tensor = safetensors_at(file, i)};
            if (!parse_key(entry->tensor->name, entry))
                return fail(ERR_INPUT, "%s: rank%u: tensor %s: its name is not \"iteration_layer\"",
                            statistics->options->path, rank, entry->tensor->name);
            TRY(check_tensor(statistics, entry));
        }
    }
    if (statistics->n == 0)
        return fail(ERR_INPUT, "%s: holds no statistics", statistics->options->path);
    qsort(statistics->entries, statistics->n, sizeof *statistics->entries, compare_entries);
    return OK;
}

static size_t layer_index(const Statistics *statistics, uint32_t layer)
{
    const uint32_t *found =
        bsearch(&layer, statistics->layers, statistics->n_layers, sizeof layer, compare_u32);
    return found == NULL ? SIZE_MAX : (size_t)(found - statistics->layers);
}

static Status list_layers(Statistics *statistics)
{
    for (size_t i = 0; i < statistics->n; i++) {
        uint32_t layer = statistics->entries[i].layer;
        if (layer_index(statistics, layer) != SIZE_MAX)
            continue;
        if (statistics->n_layers == TRACE_MAX_LAYERS)
            return fail(ERR_INPUT, "%s: more than %d layers", statistics->options->path,
                        TRACE_MAX_LAYERS);
        statistics->layers[statistics->n_layers++] = layer;
        qsort(statistics->layers, statistics->n_layers, sizeof layer, compare_u32);
    }
    return OK;
}

/* Entries FIRST to the first of the next iteration. */
static size_t iteration_end(const Statistics *statistics, size_t first)
{
    size_t end = first;
    while (end < statistics->n &&
           statistics->entries[end].iteration == statistics->entries[first].iteration)
        end++;
    return end;
}

static Status write_counts(const Statistics *statistics, CountsWriter *writer)
{
    size_t cells = (size_t)statistics->n_layers * statistics->experts;
    uint64_t *counts;
    TRY(mem_new(&counts, cells, sizeof *counts, "import"));
    Status status = OK;
    for (size_t i = 0; i < statistics->n && status == OK;) {
        size_t end = iteration_end(statistics, i);
        uint32_t iteration = statistics->entries[i].iteration;
        memset(counts, 0, cells * sizeof *counts);
        for (; i < end; i++) {
            const Entry *entry = &statistics->entries[i];
            uint64_t *row = counts + layer_index(statistics, entry->layer) * statistics->experts;
            for (size_t expert = 0; expert < statistics->experts; expert++) {
                int64_t count = 0;
                import_integer_at(entry->tensor, expert, &count);
                row[expert] += (uint64_t)count;
            }
        }
        status = counts_writer_step(writer, iteration, counts);
    }
    mem_free(counts);
    return status;
}

static Status import_counts_of(const Statistics *statistics, cJSON *notes, ImportReport *report)
{
    CountsWriter *writer;
    TRY(counts_writer_open(statistics->options, statistics->layers, statistics->n_layers,
                           statistics->experts, notes, &writer));
    Status status = write_counts(statistics, writer);
    if (status == OK)
        return counts_writer_close(writer, report);
    counts_writer_abandon(writer);
    return status;
}

/* Ranks and tokens of the iteration, from its first layer; every layer must have the same. */
static Status find_tokens(Statistics *statistics, size_t first, size_t end, uint32_t *tokens)
{
    const Entry *entries = statistics->entries;
    size_t ranks = first;
    uint64_t sum = 0;
    for (; ranks < end && entries[ranks].layer == entries[first].layer; ranks++)
        sum += entries[ranks].tensor->shape[0];
    ranks -= first;
    if (end - first != ranks * statistics->n_layers || sum > TRACE_MAX_TOKENS)
        return fail(ERR_INPUT, "%s: iteration %u: not every layer and rank is there",
                    statistics->options->path, entries[first].iteration);
    for (size_t i = first; i < end; i++) {
        const Entry *like = &entries[first + (i - first) % ranks];
        if (entries[i].rank != like->rank ||
            entries[i].layer != statistics->layers[(i - first) / ranks])
            return fail(ERR_INPUT, "%s: iteration %u: not every layer and rank is there",
                        statistics->options->path, entries[first].iteration);
        if (entries[i].tensor->shape[0] != like->tensor->shape[0])
            return fail(ERR_INPUT,
                        "%s: iteration %u: rank %u: layer %u has %" PRIu64 " tokens, layer %u "
                        "%" PRIu64 " (was the batch run in pieces?)",
                        statistics->options->path, entries[i].iteration, entries[i].rank,
                        entries[i].layer, entries[i].tensor->shape[0], like->layer,
                        like->tensor->shape[0]);
    }
    *tokens = (uint32_t)sum;
    return OK;
}

static Status write_iteration(Statistics *statistics, size_t first, size_t end, ImportSink *sink)
{
    uint32_t tokens = 0;
    TRY(find_tokens(statistics, first, end, &tokens));
    if (tokens == 0)
        return OK;
    size_t ids = (size_t)tokens * statistics->n_layers * statistics->top_k;
    StepBuffer *arrays = &statistics->arrays;
    TRY(step_buffer_fit(arrays, tokens, ids, 0));
    uint16_t *to = arrays->experts;
    for (size_t i = first; i < end; i++) {
        const Entry *entry = &statistics->entries[i];
        size_t count = (size_t)entry->tensor->shape[0] * statistics->top_k;
        import_ids_read(entry->tensor, 0, count, to);
        to += count;
    }
    uint32_t token = 0;
    for (size_t i = first; token < tokens; i++)
        for (uint64_t j = 0; j < statistics->entries[i].tensor->shape[0]; j++, token++) {
            arrays->rank[token] = (uint8_t)statistics->entries[i].rank;
            arrays->request[token] = token;
            arrays->position[token] = 0;
        }
    TraceStep step = {.phase = PHASE_MIXED,
                      .tokens = tokens,
                      .request = arrays->request,
                      .position = arrays->position,
                      .rank = arrays->rank,
                      .experts = arrays->experts};
    import_sink_number(sink, statistics->entries[first].iteration);
    return import_sink_step(sink, &step, NULL, 0);
}

static Status open_raw_sink(const Statistics *statistics, cJSON *notes, ImportSink **sink)
{
    TraceLayer *layers;
    TRY(json_add_bool(notes, "requests_unknown", true));
    TRY(json_add_text(notes, "requests",
                      "not in the statistics, nor positions or phases: the number is the token's "
                      "place in its iteration"));
    TRY(mem_new(&layers, statistics->n_layers, sizeof *layers, "import"));
    for (uint32_t i = 0; i < statistics->n_layers; i++) {
        layers[i].layer = statistics->layers[i];
        layers[i].experts = statistics->experts;
        layers[i].top_k = statistics->top_k;
        layers[i].expert_bytes = statistics->options->expert_bytes;
        snprintf(layers[i].name, sizeof layers[i].name, "layer %u", layers[i].layer);
    }
    Status status = import_sink_open(statistics->options, layers, statistics->n_layers, NULL, notes,
                                     &(ImportSteps){.bytes = 1 << 20}, sink);
    mem_free(layers);
    return status;
}

static Status import_raw(Statistics *statistics, cJSON *notes, ImportReport *report)
{
    ImportSink *sink;
    TRY(open_raw_sink(statistics, notes, &sink));
    Status status = OK;
    for (size_t i = 0; i < statistics->n && status == OK;) {
        size_t end = iteration_end(statistics, i);
        status = write_iteration(statistics, i, end, sink);
        i = end;
    }
    if (status == OK)
        return import_sink_close(sink, report);
    import_sink_abandon(sink);
    return status;
}

static Status read_statistics(Statistics *statistics)
{
    size_t found;
    TRY(read_meta(statistics));
    TRY(open_files(statistics, "_raw.safetensors", &found));
    statistics->raw = found > 0;
    if (!statistics->raw)
        TRY(open_files(statistics, ".safetensors", &found));
    if (found == 0)
        return fail(ERR_INPUT, "%s: there is no rank0.safetensors in it",
                    statistics->options->path);
    TRY(list_entries(statistics));
    return list_layers(statistics);
}

Status import_trtllm(const ImportOptions *options, ImportReport *report)
{
    Statistics *statistics;
    struct stat info;
    if (stat(options->path, &info) != 0 || !S_ISDIR(info.st_mode))
        return fail(ERR_INPUT, "%s: not a folder of expert statistics", options->path);
    if (strlen(options->path) > MAX_PATH / 2)
        return fail(ERR_INPUT, "%s: the path is too long", options->path);
    TRY(mem_new(&statistics, 1, sizeof *statistics, "import"));
    statistics->options = options;
    cJSON *notes = cJSON_CreateObject();
    Status status = notes != NULL ? read_statistics(statistics) : fail_memory("run.notes", 0);
    if (status == OK)
        status = statistics->raw ? import_raw(statistics, notes, report)
                                 : import_counts_of(statistics, notes, report);
    cJSON_Delete(notes);
    for (uint32_t rank = 0; rank < MAX_RANKS; rank++)
        safetensors_close(statistics->files[rank]);
    mem_free(statistics->entries);
    step_buffer_free(&statistics->arrays);
    mem_free(statistics);
    return status;
}
