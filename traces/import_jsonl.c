#include "traces/import_jsonl.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "traces/import_formats.h"
#include "traces/import_tokens.h"

/* The lines, put in order: [token][layer][top_k]. */
typedef struct {
    uint32_t layers[TRACE_MAX_LAYERS]; /* the numbers that occur, ascending */
    uint32_t n_layers;
    uint32_t first_token;
    uint64_t tokens;
    uint32_t *row_at; /* [tokens][n_layers]: index + 1 */
    int32_t *ids;
    float *weights;
} Ordered;

static size_t find_layer(const Ordered *ordered, uint32_t layer)
{
    size_t low = 0;
    size_t high = ordered->n_layers;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ordered->layers[middle] < layer)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static Status add_layer(const JsonlRouting *routing, const JsonlRow *row, Ordered *ordered)
{
    size_t at = find_layer(ordered, row->layer);
    if (at < ordered->n_layers && ordered->layers[at] == row->layer)
        return OK;
    if (ordered->n_layers == TRACE_MAX_LAYERS)
        return fail(ERR_INPUT, "%s: line %u: more than %d layers", routing->file, row->line,
                    TRACE_MAX_LAYERS);
    memmove(ordered->layers + at + 1, ordered->layers + at,
            (ordered->n_layers - at) * sizeof *ordered->layers);
    ordered->layers[at] = row->layer;
    ordered->n_layers++;
    return OK;
}

static Status find_extent(const JsonlRouting *routing, Ordered *ordered)
{
    uint32_t first = UINT32_MAX;
    uint32_t last = 0;
    for (size_t i = 0; i < routing->n_rows; i++) {
        uint32_t token = routing->rows[i].token;
        first = token < first ? token : first;
        last = token > last ? token : last;
        TRY(add_layer(routing, &routing->rows[i], ordered));
    }
    ordered->first_token = first;
    ordered->tokens = (uint64_t)last - first + 1;
    uint64_t cells = ordered->tokens * ordered->n_layers;
    if (cells > UINT32_MAX || cells / 16 > routing->n_rows)
        return fail(ERR_INPUT,
                    "%s: tokens %u to %u in %u layers would need %llu lines, there are %zu",
                    routing->file, first, last, ordered->n_layers, (unsigned long long)cells,
                    routing->n_rows);
    return OK;
}

static Status place_rows(const JsonlRouting *routing, Ordered *ordered)
{
    for (size_t i = 0; i < routing->n_rows; i++) {
        const JsonlRow *row = &routing->rows[i];
        size_t cell = (size_t)(row->token - ordered->first_token) * ordered->n_layers +
                      find_layer(ordered, row->layer);
        if (ordered->row_at[cell] != 0)
            return fail(ERR_INPUT,
                        "%s: line %u: token_idx %u, layer_idx %u stands already in line %u",
                        routing->file, row->line, row->token, row->layer,
                        routing->rows[ordered->row_at[cell] - 1].line);
        ordered->row_at[cell] = (uint32_t)i + 1;
    }
    for (size_t cell = 0; cell < ordered->tokens * ordered->n_layers; cell++)
        if (ordered->row_at[cell] == 0)
            return fail(ERR_INPUT, "%s: token_idx %zu: layer_idx %u: no line", routing->file,
                        cell / ordered->n_layers + ordered->first_token,
                        ordered->layers[cell % ordered->n_layers]);
    return OK;
}

static Status put_in_order(const JsonlRouting *routing, Ordered *ordered)
{
    size_t top_k = routing->top_k;
    TRY(find_extent(routing, ordered));
    size_t cells = (size_t)ordered->tokens * ordered->n_layers;
    TRY(mem_new(&ordered->row_at, cells, sizeof *ordered->row_at, "import"));
    TRY(place_rows(routing, ordered));
    TRY(mem_new(&ordered->ids, cells, top_k * sizeof *ordered->ids, "import"));
    if (routing->has_weights)
        TRY(mem_new(&ordered->weights, cells, top_k * sizeof *ordered->weights, "import"));
    for (size_t cell = 0; cell < cells; cell++) {
        size_t row = ordered->row_at[cell] - 1;
        memcpy(ordered->ids + cell * top_k, routing->ids + row * top_k,
               top_k * sizeof *ordered->ids);
        if (routing->has_weights)
            memcpy(ordered->weights + cell * top_k, routing->weights + row * top_k,
                   top_k * sizeof *ordered->weights);
    }
    return OK;
}

static Status write_ordered(const ImportOptions *options, const JsonlRouting *routing,
                            const Ordered *ordered, ImportReport *report)
{
    ImportTokens tokens = {
        .ids = {.name = "selected_ids",
                .dtype = DTYPE_I32,
                .rank = 3,
                .shape = {ordered->tokens, ordered->n_layers, routing->top_k},
                .data = ordered->ids,
                .bytes = (size_t)ordered->tokens * ordered->n_layers * routing->top_k * 4},
        .weights = ordered->weights,
        .layers = ordered->layers,
    };
    cJSON *notes = cJSON_CreateObject();
    Status status = notes != NULL ? import_tokens_sequences(options, &tokens, notes)
                                  : fail_memory("run.notes", 0);
    if (status == OK && options->sequences == NULL)
        tokens.sequences.items[0].first_position = ordered->first_token;
    if (status == OK)
        status = import_tokens_write(options, &tokens, NULL, notes, report);
    import_sequences_free(&tokens.sequences);
    cJSON_Delete(notes);
    return status;
}

Status import_jsonl(const ImportOptions *options, ImportReport *report)
{
    JsonlRouting routing;
    Ordered *ordered;
    TRY(jsonl_routing_read(options->path, options->experts, &routing));
    Status status = mem_new(&ordered, 1, sizeof *ordered, "import");
    if (status == OK) {
        status = put_in_order(&routing, ordered);
        if (status == OK)
            status = write_ordered(options, &routing, ordered, report);
        mem_free(ordered->row_at);
        mem_free(ordered->ids);
        mem_free(ordered->weights);
        mem_free(ordered);
    }
    jsonl_routing_free(&routing);
    return status;
}
