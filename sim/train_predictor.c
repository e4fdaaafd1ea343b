#include "sim/train_predictor.h"

#include <string.h>

#include "base/memory.h"

/* Shares are whole multiples of 2^-SHARE_BITS. */
enum { SHARE_BITS = 10, SUCCESSORS = 8 };

static uint32_t fit(uint64_t count)
{
    return count < UINT32_MAX ? (uint32_t)count : UINT32_MAX;
}

static Status train_frequency(const Training *training, PlanTable **table)
{
    const PackedTrace *trace = training_trace(training);
    uint32_t objects = 0;
    for (uint32_t i = 0; i < trace->n_layers; i++)
        objects += trace->layers[i].experts;
    TRY(plan_table_new(TABLE_ROWS, trace->n_layers, trace->n_layers, objects, table));
    PlanTableParts parts = plan_table_parts(*table);
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        const uint64_t *events = training_events(training, i);
        parts.layer[i] = trace->layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        parts.first_value[i + 1] = parts.first_value[i] + trace->layers[i].experts;
        for (uint32_t e = 0; e < trace->layers[i].experts; e++)
            parts.value[parts.first_value[i] + e] = fit(events[e]);
    }
    return OK;
}

/* Steps that needed both an expert of a layer and one of the layer that it predicts. */
typedef struct {
    const PackedTrace *trace;
    uint32_t distance;
    uint64_t **pairs; /* [n_layers] of those that predict: [experts][experts of the target] */
} Pairs;

/* The layer that LAYER predicts, or n_layers. */
static uint32_t target_of(const Pairs *pairs, uint32_t layer)
{
    const PackedTrace *trace = pairs->trace;
    uint32_t target = layer + pairs->distance;
    return target < trace->n_layers && trace->layers[target].stack == trace->layers[layer].stack
               ? target
               : trace->n_layers;
}

static Status make_pairs(Pairs *pairs)
{
    const PackedTrace *trace = pairs->trace;
    TRY(mem_new(&pairs->pairs, trace->n_layers, sizeof *pairs->pairs, "training"));
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        uint32_t target = target_of(pairs, i);
        if (target < trace->n_layers)
            TRY(mem_new(&pairs->pairs[i],
                        (size_t)trace->layers[i].experts * trace->layers[target].experts,
                        sizeof **pairs->pairs, "training: pairs of experts"));
    }
    return OK;
}

static void free_pairs(Pairs *pairs)
{
    for (uint32_t i = 0; pairs->pairs != NULL && i < pairs->trace->n_layers; i++)
        mem_free(pairs->pairs[i]);
    mem_free(pairs->pairs);
}

static void count_pair(const Pairs *pairs, const PackedEvent *from, const PackedEvent *to)
{
    uint32_t n_experts = pairs->trace->layers[to->layer_index].experts;
    for (uint32_t i = 0; i < from->n_active; i++)
        for (uint32_t j = 0; j < to->n_active; j++)
            pairs
                ->pairs[from->layer_index][(size_t)from->experts[i] * n_experts + to->experts[j]]++;
}

/* LAST[n_layers] is the last event of each layer. */
static void count_pairs(const Pairs *pairs, PackedEvent *last)
{
    PackedCursor cursor = packed_cursor(pairs->trace);
    PackedEvent event;
    for (uint64_t step = UINT64_MAX; packed_next(&cursor, &event); step = cursor.step) {
        uint32_t from = event.layer_index - pairs->distance;
        if (cursor.step != step)
            memset(last, 0, pairs->trace->n_layers * sizeof *last);
        last[event.layer_index] = event;
        if (event.layer_index >= pairs->distance && target_of(pairs, from) == event.layer_index)
            count_pair(pairs, &last[from], &event);
    }
}

/* The N most frequent of COUNT[n_experts], ties to the lower; returns how many there are. */
static uint32_t take_most(const uint64_t *count, uint32_t n_experts, uint32_t n, uint32_t *most)
{
    uint32_t taken = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        if (count[e] == 0 || (taken == n && count[e] <= count[most[n - 1]]))
            continue;
        uint32_t at = taken < n ? taken++ : n - 1;
        for (; at > 0 && count[most[at - 1]] < count[e]; at--)
            most[at] = most[at - 1];
        most[at] = e;
    }
    return taken;
}

/* The rows of LAYER; MOST[n] is scratch. Counts only while PARTS.layer is NULL. */
static void write_layer(const Training *training, const Pairs *pairs, uint32_t layer, uint32_t n,
                        uint32_t *most, PlanTableParts *parts, uint32_t *n_rows, uint32_t *n_values)
{
    const PackedTrace *trace = pairs->trace;
    uint32_t n_experts = trace->layers[target_of(pairs, layer)].experts;
    const uint64_t *events = training_events(training, layer);
    for (uint32_t e = 0; e < trace->layers[layer].experts; e++) {
        const uint64_t *count = pairs->pairs[layer] + (size_t)e * n_experts;
        uint32_t found = take_most(count, n_experts, n, most);
        for (uint32_t i = 0; i < found; i++, *n_values += 2) {
            if (parts->layer == NULL)
                continue;
            parts->value[*n_values] = most[i];
            parts->value[*n_values + 1] = fit((count[most[i]] << SHARE_BITS) / events[e]);
        }
        ++*n_rows;
        if (parts->layer != NULL)
            parts->first_value[*n_rows] = *n_values;
    }
}

static void write_layers(const Training *training, const Pairs *pairs, uint32_t n, uint32_t *most,
                         PlanTableParts *parts, uint32_t size[3])
{
    memset(size, 0, 3 * sizeof *size);
    for (uint32_t i = 0; i < pairs->trace->n_layers; i++) {
        if (target_of(pairs, i) == pairs->trace->n_layers)
            continue;
        write_layer(training, pairs, i, n, most, parts, &size[1], &size[2]);
        if (parts->layer != NULL) {
            parts->layer[size[0]] = pairs->trace->layers[i].layer;
            parts->first_row[size[0] + 1] = size[1];
        }
        size[0]++;
    }
}

static Status table_of_pairs(const Training *training, const Pairs *pairs, uint32_t n,
                             PlanTable **table)
{
    PlanTableParts parts = {0};
    uint32_t size[3]; /* layers, rows, values */
    uint32_t *most;
    TRY(mem_new(&most, n, sizeof *most, "training"));
    write_layers(training, pairs, n, most, &parts, size);
    Status status = plan_table_new(TABLE_ROWS, size[0], size[1], size[2], table);
    if (status == OK) {
        parts = plan_table_parts(*table);
        write_layers(training, pairs, n, most, &parts, size);
    }
    mem_free(most);
    return status;
}

static Status train_transition(const Training *training, const Plan *plan, PlanTable **table)
{
    Pairs pairs = {.trace = training_trace(training), .distance = plan->prefetch.distance};
    PackedEvent *last = NULL;
    uint32_t n = plan->prefetch.successors > 0 ? plan->prefetch.successors : SUCCESSORS;
    Status status = make_pairs(&pairs);
    if (status == OK)
        status = mem_new(&last, pairs.trace->n_layers, sizeof *last, "training");
    if (status == OK) {
        count_pairs(&pairs, last);
        status = table_of_pairs(training, &pairs, n, table);
    }
    mem_free(last);
    free_pairs(&pairs);
    return status;
}

Status train_predictor(const Training *training, const Plan *plan, PlanTable **table)
{
    if (strcmp(plan->prefetch.predictor, "frequency") == 0)
        return train_frequency(training, table);
    return train_transition(training, plan, table);
}
