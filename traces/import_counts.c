#include "traces/import_counts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/statistics.h"
#include "traces/csv.h"
#include "traces/import_formats.h"
#include "traces/import_tokens.h"
#include "traces/npy.h"

static const size_t MAX_CSV_BYTES = (size_t)16 << 30;

/* Whether run.notes.import has KEY: true. */
static bool has_note(const TraceRun *run, const char *key)
{
    cJSON *json = NULL;
    bool set = false;
    if (run->notes == NULL || json_parse(run->notes, strlen(run->notes), "notes", &json) != OK)
        return false;
    JsonAt root = json_root(json, "notes");
    JsonAt import;
    JsonAt flag;
    if (json_find(&root, "import", &import) && json_find(&import, key, &flag))
        set = cJSON_IsTrue(flag.node);
    cJSON_Delete(json);
    return set;
}

bool trace_counts_only(const TraceRun *run)
{
    return has_note(run, "counts_only");
}

const char *trace_cannot_regroup(const TraceRun *run)
{
    if (trace_counts_only(run))
        return "holds expert counts alone; which tokens they are of is not known";
    return has_note(run, "requests_unknown") ? "does not say which tokens are of one request"
                                             : NULL;
}

/* Counts as they lie in an array: [layer, expert] or [step, layer, expert]. */
static Status check_array(const ImportOptions *options, const Tensor *array)
{
    bool wanted = array->rank == 2 || array->rank == 3;
    uint64_t layers = wanted ? array->shape[array->rank - 2] : 0;
    uint64_t experts = wanted ? array->shape[array->rank - 1] : 0;
    if (!wanted)
        return fail(ERR_INPUT,
                    "%s: shape: %u dimensions, wanted are [layer, expert] or "
                    "[step, layer, expert]",
                    options->path, array->rank);
    if (layers < 1 || layers > TRACE_MAX_LAYERS || experts < 1 || experts > TRACE_MAX_EXPERTS ||
        (array->rank == 3 && array->shape[0] > UINT32_MAX))
        return fail(ERR_INPUT,
                    "%s: shape: %" PRIu64 " layers x %" PRIu64 " experts, allowed is 1 "
                    "to %d x 1 to %d",
                    options->path, layers, experts, TRACE_MAX_LAYERS, TRACE_MAX_EXPERTS);
    if (options->experts != 0 && options->experts != experts)
        return fail(ERR_INPUT, "%s: shape: %" PRIu64 " experts, --experts says %u", options->path,
                    experts, options->experts);
    return OK;
}

/* Layers of the array that have a count. */
typedef struct {
    uint32_t numbers[TRACE_MAX_LAYERS]; /* the model's */
    uint32_t at[TRACE_MAX_LAYERS];      /* in the array */
    uint32_t count;
} CountLayers;

/* Checks every count and finds the layers. */
static Status scan_array(const ImportOptions *options, const Tensor *array, CountLayers *layers)
{
    size_t experts = (size_t)array->shape[array->rank - 1];
    size_t n_layers = (size_t)array->shape[array->rank - 2];
    size_t n = array->bytes / dtype_bytes(array->dtype);
    bool there[TRACE_MAX_LAYERS] = {false};
    for (size_t i = 0; i < n; i++) {
        int64_t count;
        size_t layer = i / experts % n_layers;
        if (!import_integer_at(array, i, &count))
            return fail(ERR_INPUT, "%s: dtype: %s, counts are integers", options->path,
                        dtype_name(array->dtype));
        if (count < 0)
            return fail(ERR_INPUT, "%s: step %zu: layer %zu: expert %zu: count %" PRId64,
                        options->path, i / experts / n_layers, layer, i % experts, count);
        there[layer] = there[layer] || count > 0;
    }
    for (uint32_t i = 0; i < n_layers; i++)
        if (there[i]) {
            layers->numbers[layers->count] = options->first_layer + i;
            layers->at[layers->count++] = i;
        }
    if (layers->count == 0)
        return fail(ERR_INPUT, "%s: holds no token", options->path);
    return OK;
}

static Status write_array(const Tensor *array, const CountLayers *layers, CountsWriter *writer)
{
    size_t experts = (size_t)array->shape[array->rank - 1];
    size_t n_layers = (size_t)array->shape[array->rank - 2];
    uint64_t steps = array->rank == 3 ? array->shape[0] : 1;
    uint64_t *counts;
    TRY(mem_new(&counts, layers->count * experts, sizeof *counts, "import"));
    Status status = OK;
    for (uint64_t step = 0; step < steps && status == OK; step++) {
        for (size_t i = 0; i < layers->count * experts; i++) {
            int64_t count = 0;
            size_t layer = layers->at[i / experts];
            import_integer_at(array, (step * n_layers + layer) * experts + i % experts, &count);
            counts[i] = (uint64_t)count;
        }
        status = counts_writer_step(writer, (uint32_t)step, counts);
    }
    mem_free(counts);
    return status;
}

Status import_counts_array(const ImportOptions *options, const Tensor *array, cJSON *notes,
                           ImportReport *report)
{
    CountsWriter *writer;
    CountLayers layers = {.count = 0};
    TRY(check_array(options, array));
    TRY(scan_array(options, array, &layers));
    TRY(counts_writer_open(options, layers.numbers, layers.count,
                           (uint32_t)array->shape[array->rank - 1], notes, &writer));
    Status status = write_array(array, &layers, writer);
    if (status == OK)
        return counts_writer_close(writer, report);
    counts_writer_abandon(writer);
    return status;
}

typedef struct {
    uint32_t line;
    uint32_t step;
    uint32_t layer;
    uint32_t expert;
    uint64_t count;
} CountRow;

typedef struct {
    CountRow *rows;
    size_t n_rows;
    size_t room;
    uint32_t layers[TRACE_MAX_LAYERS]; /* ascending */
    uint32_t n_layers;
    uint32_t experts;
} CountRows;

static Status add_layer(const Csv *csv, CountRows *rows, uint32_t layer)
{
    if (bsearch(&layer, rows->layers, rows->n_layers, sizeof layer, compare_u32) != NULL)
        return OK;
    if (rows->n_layers == TRACE_MAX_LAYERS)
        return csv_fail(csv, "more than %d layers", TRACE_MAX_LAYERS);
    rows->layers[rows->n_layers++] = layer;
    qsort(rows->layers, rows->n_layers, sizeof layer, compare_u32);
    return OK;
}

static Status add_row(const Csv *csv, CountRows *rows, const CountRow *row)
{
    if (rows->n_rows > 0 && row->step < rows->rows[rows->n_rows - 1].step)
        return csv_fail(csv, "step %u comes after step %u", row->step,
                        rows->rows[rows->n_rows - 1].step);
    TRY(add_layer(csv, rows, row->layer));
    TRY(mem_grow(&rows->rows, &rows->room, rows->n_rows, sizeof *rows->rows, "expert counts"));
    rows->rows[rows->n_rows++] = *row;
    rows->experts = row->expert >= rows->experts ? row->expert + 1 : rows->experts;
    return OK;
}

static Status read_rows(const ImportOptions *options, Csv *csv, CountRows *rows)
{
    uint32_t most = (options->experts > 0 ? options->experts : TRACE_MAX_EXPERTS) - 1;
    Status status = csv_header(csv);
    if (status == STATUS_END)
        return fail(ERR_INPUT, "%s: is empty", csv->file);
    TRY(status);
    size_t layer = csv_find(csv, "layer");
    size_t expert = csv_find(csv, "expert");
    size_t count = csv_find(csv, "count");
    size_t step = csv_find(csv, "step");
    if (layer == SIZE_MAX || expert == SIZE_MAX || count == SIZE_MAX)
        return csv_fail(csv, "the columns layer, expert and count are wanted");
    while ((status = csv_next(csv)) == OK) {
        CountRow row = {.line = (uint32_t)csv->line};
        if (step != SIZE_MAX)
            TRY(csv_u32(csv, step, "step", UINT32_MAX - 1, &row.step));
        TRY(csv_u32(csv, layer, "layer", UINT32_MAX, &row.layer));
        TRY(csv_u32(csv, expert, "expert", most, &row.expert));
        TRY(csv_u64(csv, count, "count", UINT64_MAX, &row.count));
        TRY(add_row(csv, rows, &row));
    }
    if (status == STATUS_END && rows->n_rows == 0)
        return fail(ERR_INPUT, "%s: has no counts", csv->file);
    return status == STATUS_END ? OK : status;
}

/* One step after the other; COUNTS is [n_layers][experts] scratch, SEEN the line + 1 of each. */
static Status write_rows(const ImportOptions *options, const CountRows *rows, uint32_t experts,
                         CountsWriter *writer, uint64_t *counts, uint32_t *seen)
{
    size_t cells = (size_t)rows->n_layers * experts;
    for (size_t i = 0; i < rows->n_rows;) {
        uint32_t step = rows->rows[i].step;
        memset(counts, 0, cells * sizeof *counts);
        memset(seen, 0, cells * sizeof *seen);
        for (; i < rows->n_rows && rows->rows[i].step == step; i++) {
            const CountRow *row = &rows->rows[i];
            const uint32_t *layer =
                bsearch(&row->layer, rows->layers, rows->n_layers, sizeof *layer, compare_u32);
            size_t cell = (size_t)(layer - rows->layers) * experts + row->expert;
            if (seen[cell] != 0)
                return fail(ERR_INPUT, "%s: line %u: layer %u, expert %u stands already in line %u",
                            options->path, row->line, row->layer, row->expert, seen[cell]);
            seen[cell] = row->line;
            counts[cell] = row->count;
        }
        TRY(counts_writer_step(writer, step, counts));
    }
    return OK;
}

static Status write_csv(const ImportOptions *options, const CountRows *rows, cJSON *notes,
                        ImportReport *report)
{
    uint32_t experts = options->experts > 0 ? options->experts : rows->experts;
    size_t cells = (size_t)rows->n_layers * experts;
    uint64_t *counts = NULL;
    uint32_t *seen = NULL;
    CountsWriter *writer = NULL;
    Status status = mem_new(&counts, cells, sizeof *counts, "import");
    if (status == OK)
        status = mem_new(&seen, cells, sizeof *seen, "import");
    if (status == OK)
        status = counts_writer_open(options, rows->layers, rows->n_layers, experts, notes, &writer);
    if (status == OK)
        status = write_rows(options, rows, experts, writer, counts, seen);
    if (status == OK)
        status = counts_writer_close(writer, report);
    else
        counts_writer_abandon(writer);
    mem_free(counts);
    mem_free(seen);
    return status;
}

static Status import_csv(const ImportOptions *options, cJSON *notes, ImportReport *report)
{
    char *text;
    size_t bytes;
    CountRows *rows;
    if (options->first_layer != 0)
        return fail(ERR_USAGE, "--first-layer has no meaning for a CSV, whose layers are numbered");
    TRY(mem_new(&rows, 1, sizeof *rows, "import"));
    Status status = file_read_all(options->path, MAX_CSV_BYTES, &text, &bytes);
    if (status == OK) {
        Csv csv = csv_begin(options->path, text, bytes);
        status = read_rows(options, &csv, rows);
        mem_free(text);
    }
    if (status == OK)
        status = write_csv(options, rows, notes, report);
    mem_free(rows->rows);
    mem_free(rows);
    return status;
}

Status import_counts(const ImportOptions *options, ImportReport *report)
{
    FileMap map;
    Tensor array;
    TRY(file_map_open(options->path, &map));
    bool is_npy = map.bytes >= 6 && memcmp(map.data, "\x93NUMPY", 6) == 0;
    cJSON *notes = cJSON_CreateObject();
    Status status = notes != NULL ? OK : fail_memory("run.notes", 0);
    if (status == OK && is_npy)
        status = npy_view(options->path, map.data, map.bytes, &array);
    if (status == OK)
        status = is_npy ? import_counts_array(options, &array, notes, report)
                        : import_csv(options, notes, report);
    cJSON_Delete(notes);
    file_map_close(&map);
    return status;
}
