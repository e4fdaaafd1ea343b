#include "traces/import_bigmoe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/statistics.h"
#include "traces/import_formats.h"
#include "traces/import_sink.h"
#include "traces/step_buffer.h"

enum { NO_LAYER = UINT16_MAX };

/* One step being put together from its rows. */
typedef struct {
    const BigmoeTrace *from;
    ImportSink *sink;
    uint16_t layer_index[TRACE_MAX_LAYERS]; /* by the model's layer number; NO_LAYER */
    uint32_t n_layers;
    uint32_t layers[TRACE_MAX_LAYERS]; /* by index: the model's layer number */
    uint32_t tokens;
    size_t cells; /* n_layers * tokens * top_k */
    StepBuffer arrays;
    void *positions; /* uint32_t [tokens] ascending, while they are collected [rows] */
    size_t positions_bytes;
    void *row_at; /* uint32_t [cells]: the row's index + 1, or 0 */
    size_t row_at_bytes;
    uint64_t *seen; /* [n_expert] the last event that needed it */
    uint64_t events;
    ResidencyRecord *records; /* [n_layers * n_expert] */
    size_t n_records;
    uint64_t absent_cells;
    TraceRequest request; /* of the turn in progress */
} Builder;

/* The distinct positions of ROWS, ascending. */
static Status collect_positions(Builder *builder, const BigmoeRow *rows, size_t count)
{
    TRY(block_fit(&builder->positions, &builder->positions_bytes, count * sizeof(uint32_t),
                  "import"));
    uint32_t *positions = builder->positions;
    size_t tokens = 0;
    for (size_t i = 0; i < count; i++)
        if (i == 0 || rows[i].step != rows[i - 1].step)
            positions[tokens++] = rows[i].step;
    qsort(positions, tokens, sizeof *positions, compare_u32);
    uint32_t distinct = 0;
    for (size_t i = 0; i < tokens; i++)
        if (i == 0 || positions[i] != positions[i - 1])
            positions[distinct++] = positions[i];
    builder->tokens = distinct;
    if (distinct > TRACE_MAX_TOKENS)
        return fail(ERR_INPUT, "%s: line %u: %u tokens in one step, at most %d",
                    builder->from->file, rows[0].line, distinct, TRACE_MAX_TOKENS);
    return OK;
}

static Status make_room(Builder *builder)
{
    size_t top_k = builder->from->n_expert_used;
    builder->cells = builder->n_layers * (size_t)builder->tokens * top_k;
    TRY(step_buffer_fit(&builder->arrays, builder->tokens, builder->cells, 0));
    TRY(block_fit(&builder->row_at, &builder->row_at_bytes, builder->cells * sizeof(uint32_t),
                  "import"));
    memset(builder->arrays.experts, 0xFF, builder->cells * sizeof(uint16_t));
    memset(builder->arrays.weights, 0, builder->cells * sizeof(float));
    memset(builder->row_at, 0, builder->cells * sizeof(uint32_t));
    return OK;
}

static size_t token_of(const Builder *builder, uint32_t position)
{
    const uint32_t *found =
        bsearch(&position, builder->positions, builder->tokens, sizeof(uint32_t), compare_u32);
    return (size_t)(found - (const uint32_t *)builder->positions);
}

static Status place_rows(Builder *builder, const BigmoeRow *rows, size_t count)
{
    const BigmoeTrace *from = builder->from;
    uint32_t *row_at = builder->row_at;
    for (size_t i = 0; i < count; i++) {
        const BigmoeRow *row = &rows[i];
        size_t token = token_of(builder, row->step);
        size_t layer = builder->layer_index[row->layer];
        size_t cell = (layer * builder->tokens + token) * from->n_expert_used + row->slot;
        if (row_at[cell] != 0)
            return fail(ERR_INPUT,
                        "%s: line %u: turn %u, step %u, layer %u, slot %u stands already in line "
                        "%u",
                        from->file, row->line, row->turn, row->step, row->layer, row->slot,
                        from->rows[row_at[cell] - 1].line);
        row_at[cell] = (uint32_t)(row - from->rows) + 1;
        if (!row->dropped)
            builder->arrays.experts[cell] = row->expert;
        builder->arrays.weights[cell] = row->weight;
    }
    return OK;
}

/* Each token has all its slots in a layer, or, in a prompt, none: engines leave the last layer out
 * for tokens whose output nobody reads. */
static Status check_cells(Builder *builder, const BigmoeRow *first)
{
    const BigmoeTrace *from = builder->from;
    const uint32_t *row_at = builder->row_at;
    const uint32_t *positions = builder->positions;
    for (size_t cell = 0; cell < builder->cells; cell += from->n_expert_used) {
        uint32_t there = 0;
        for (uint32_t slot = 0; slot < from->n_expert_used; slot++)
            there += row_at[cell + slot] != 0;
        if (there == from->n_expert_used)
            continue;
        size_t pair = cell / from->n_expert_used;
        if (there > 0 || first->phase == 1)
            return fail(ERR_INPUT,
                        "%s: line %u: turn %u, step %u, layer %u: %u slots, n_expert_used says %u",
                        from->file, first->line, first->turn, positions[pair % builder->tokens],
                        builder->layers[pair / builder->tokens], there, from->n_expert_used);
        builder->absent_cells++;
    }
    return OK;
}

/* What the engine's cache did, one record per (layer, expert), at its first touch in token order.
 * Slots and evictions are not in the file. */
static void collect_residency(Builder *builder)
{
    const BigmoeTrace *from = builder->from;
    const uint32_t *row_at = builder->row_at;
    size_t per_layer = (size_t)builder->tokens * from->n_expert_used;
    builder->n_records = 0;
    for (uint32_t layer = 0; layer < builder->n_layers && from->has_residency; layer++) {
        builder->events++;
        for (size_t i = layer * per_layer; i < (layer + 1) * per_layer; i++) {
            if (row_at[i] == 0 || from->rows[row_at[i] - 1].dropped)
                continue;
            const BigmoeRow *row = &from->rows[row_at[i] - 1];
            if (builder->seen[row->expert] == builder->events)
                continue;
            builder->seen[row->expert] = builder->events;
            builder->records[builder->n_records++] = (ResidencyRecord){
                .layer = row->layer,
                .expert = row->expert,
                .kind = row->residency > 0 ? RESIDENCY_HIT : RESIDENCY_LOAD,
                .slot = SLOT_UNKNOWN,
                .bytes = row->bytes,
            };
        }
    }
}

static Status write_step(Builder *builder, const BigmoeRow *rows, size_t count)
{
    TRY(collect_positions(builder, rows, count));
    TRY(make_room(builder));
    TRY(place_rows(builder, rows, count));
    TRY(check_cells(builder, rows));
    collect_residency(builder);
    for (uint32_t i = 0; i < builder->tokens; i++)
        builder->arrays.request[i] = rows->turn;
    TraceStep step = {
        .phase = rows->phase == 0 ? PHASE_PREFILL : PHASE_DECODE,
        .tokens = builder->tokens,
        .request = builder->arrays.request,
        .position = builder->positions,
        .experts = builder->arrays.experts,
        .weights = builder->from->has_weights ? builder->arrays.weights : NULL,
    };
    TRY(import_sink_step(builder->sink, &step, builder->records, builder->n_records));
    if (rows->phase == 0)
        builder->request.prompt_tokens += builder->tokens;
    else
        builder->request.output_tokens += builder->tokens;
    return OK;
}

static Status write_request(Builder *builder)
{
    char label[32];
    snprintf(label, sizeof label, "turn %u", builder->request.request);
    builder->request.label = label;
    return import_sink_request(builder->sink, &builder->request);
}

/* Ascends with the engine's time: turns, prompts before output, output by position. */
static int compare_groups(const BigmoeRow *a, const BigmoeRow *b)
{
    if (a->turn != b->turn)
        return a->turn < b->turn ? -1 : 1;
    if (a->phase != b->phase)
        return a->phase < b->phase ? -1 : 1;
    if (a->phase == 0 || a->step == b->step)
        return 0;
    return a->step < b->step ? -1 : 1;
}

static Status write_steps(Builder *builder)
{
    const BigmoeTrace *from = builder->from;
    builder->request = (TraceRequest){.request = from->rows[0].turn};
    for (size_t begin = 0, end; begin < from->n_rows; begin = end) {
        const BigmoeRow *first = &from->rows[begin];
        for (end = begin + 1; end < from->n_rows; end++)
            if (compare_groups(first, &from->rows[end]) != 0)
                break;
        if (end < from->n_rows && compare_groups(first, &from->rows[end]) > 0)
            return fail(ERR_INPUT, "%s: line %u: turn %u, phase %u, step %u comes after later rows",
                        from->file, from->rows[end].line, from->rows[end].turn,
                        from->rows[end].phase, from->rows[end].step);
        if (first->turn != builder->request.request) {
            TRY(write_request(builder));
            builder->request = (TraceRequest){.request = first->turn};
        }
        TRY(write_step(builder, first, end - begin));
    }
    return write_request(builder);
}

/* The layers that have rows, ascending. */
static void find_layers(Builder *builder)
{
    bool there[TRACE_MAX_LAYERS] = {false};
    for (size_t i = 0; i < builder->from->n_rows; i++)
        there[builder->from->rows[i].layer] = true;
    for (uint32_t i = 0; i < TRACE_MAX_LAYERS; i++) {
        builder->layer_index[i] = there[i] ? (uint16_t)builder->n_layers : NO_LAYER;
        if (there[i])
            builder->layers[builder->n_layers++] = i;
    }
}

static Status add_notes(const BigmoeTrace *from, cJSON *notes)
{
    cJSON *dense;
    TRY(json_add_text(notes, "architecture", from->architecture));
    TRY(json_add_text(notes, "weights", from->has_weights ? "as applied" : "unknown"));
    TRY(json_add_text(notes, "residency",
                      from->has_residency ? "the engine's hits and loads; no slots, no evictions"
                                          : "unknown"));
    TRY(json_add_text(notes, "dropped",
                      "no row in the file, or a row that says it was not computed"));
    TRY(json_add_array(notes, "dense_bytes", &dense));
    for (uint32_t i = 0; i < from->n_layer; i++)
        TRY(json_push(dense, cJSON_CreateNumber((double)from->dense_bytes[i])));
    return OK;
}

static Status open_sink(const ImportOptions *options, Builder *builder)
{
    const BigmoeTrace *from = builder->from;
    TraceLayer *layers = NULL;
    cJSON *notes = cJSON_CreateObject();
    Status status = notes != NULL ? add_notes(from, notes) : fail_memory("run.notes", 0);
    if (status == OK)
        status = mem_new(&layers, builder->n_layers, sizeof *layers, "import");
    for (uint32_t i = 0; i < builder->n_layers && status == OK; i++) {
        layers[i].layer = builder->layers[i];
        snprintf(layers[i].name, sizeof layers[i].name, "blk.%u", builder->layers[i]);
        layers[i].experts = from->n_expert;
        layers[i].top_k = from->n_expert_used;
        layers[i].expert_bytes = from->expert_bytes[builder->layers[i]];
    }
    if (status == OK)
        status = import_sink_open(
            options, layers, builder->n_layers, from->model, notes,
            &(ImportSteps){.bytes = (size_t)builder->n_layers * from->n_expert_used * 8},
            &builder->sink);
    mem_free(layers);
    cJSON_Delete(notes);
    return status;
}

static void free_builder(Builder *builder)
{
    step_buffer_free(&builder->arrays);
    mem_free(builder->positions);
    mem_free(builder->row_at);
    mem_free(builder->seen);
    mem_free(builder->records);
}

static Status build(const ImportOptions *options, Builder *builder, ImportReport *report)
{
    const BigmoeTrace *from = builder->from;
    find_layers(builder);
    TRY(mem_new(&builder->seen, from->n_expert, sizeof *builder->seen, "import"));
    TRY(mem_new(&builder->records, (size_t)builder->n_layers * from->n_expert,
                sizeof *builder->records, "import"));
    TRY(open_sink(options, builder));
    Status status = write_steps(builder);
    if (status == OK)
        return import_sink_close(builder->sink, report);
    import_sink_abandon(builder->sink);
    return status;
}

Status import_bigmoe_csv(const ImportOptions *options, ImportReport *report)
{
    BigmoeTrace trace;
    TRY(bigmoe_read(options->path, &trace));
    Builder *builder;
    Status status = mem_new(&builder, 1, sizeof *builder, "import");
    if (status == OK) {
        builder->from = &trace;
        status = build(options, builder, report);
        free_builder(builder);
        mem_free(builder);
    }
    bigmoe_free(&trace);
    return status;
}
