/* Steps become a packed trace. */
#include <string.h>

#include "base/memory.h"
#include "traces/packed_builder.h"
#include "traces/step_buffer.h"

static size_t put_count(uint8_t *to, uint32_t value)
{
    size_t n = 0;
    for (; value >= 0x80; value >>= 7)
        to[n++] = (uint8_t)(value | 0x80);
    to[n++] = (uint8_t)value;
    return n;
}

static void put_touches(PackedTrace *trace, const uint16_t *touches, uint32_t n)
{
    uint8_t *to = trace->touches + trace->touches_bytes;
    for (uint32_t i = 0; i < n && n <= 256; i++)
        to[i] = (uint8_t)touches[i];
    for (uint32_t i = 0; i < n && n > 256; i++) {
        *to++ = (uint8_t)touches[i];
        *to++ = (uint8_t)(touches[i] >> 8);
    }
    trace->touches_bytes += packed_touch_bytes(n);
}

/* Most are below 128, and take a byte. */
static void put_counts(PackedTrace *trace, const uint32_t *counts, uint32_t n)
{
    uint8_t *to = trace->counts + trace->counts_bytes;
    uint32_t all = 0;
    for (uint32_t i = 0; i < n; i++) {
        to[i] = (uint8_t)counts[i];
        all |= counts[i];
    }
    trace->counts_bytes += n;
    if (all < 0x80)
        return;
    trace->counts_bytes -= n;
    for (uint32_t i = 0; i < n; i++)
        trace->counts_bytes += put_count(trace->counts + trace->counts_bytes, counts[i]);
}

/* IDS of an event, from that of number FIRST on in the step: of a byte each, or else of two. */
typedef struct {
    const uint8_t *bytes;
    const uint16_t *wide;
    size_t n;
    uint32_t tokens;
} EventIds;

static EventIds event_ids(const TraceStep *step, size_t first, size_t n)
{
    return (EventIds){.bytes = step->expert_bytes != NULL ? step->expert_bytes + first : NULL,
                      .wide = step->experts != NULL ? step->experts + first : NULL,
                      .n = n,
                      .tokens = step->tokens};
}

/* IDS of two bytes each. There is room. */
static const uint16_t *widened(PackedBuilder *builder, const EventIds *ids)
{
    if (ids->wide != NULL)
        return ids->wide;
    layers_widen_ids(ids->bytes, ids->n, builder->wide);
    return builder->wide;
}

static void count_event(PackedTrace *trace, uint32_t n, uint64_t assignments)
{
    trace->n_active[trace->n_events++] = (uint16_t)n;
    trace->n_lookups += n;
    trace->n_assignments += assignments;
    trace->max_active = n > trace->max_active ? n : trace->max_active;
}

/* Appends one event of whatever ids; true when every count is 1. There is room. */
static bool append_any(PackedTrace *trace, const TraceLayer *layer, const EventIds *ids)
{
    ActiveSet *active = &trace->builder->active;
    bool touched = !trace->builder->no_touches;
    uint32_t n =
        active_set_order(active, widened(trace->builder, ids), ids->n, layer->experts, touched);
    uint64_t assignments = 0;
    for (uint32_t i = 0; i < n; i++)
        assignments += active->tokens[i];
    if (n > 0 && !trace->builder->no_experts)
        memcpy(trace->experts + trace->n_lookups, active->active, n * sizeof *trace->experts);
    put_counts(trace, active->tokens, n);
    if (touched)
        put_touches(trace, active->touches, n);
    count_event(trace, n, assignments);
    return assignments == n;
}

static bool can_tally(const EventIds *ids)
{
    return ids->bytes != NULL && ids->n <= TALLY_IDS;
}

/* The same, without a detour where its ids and its counts take a byte each, and order is all one.
 */
static bool append_event(PackedTrace *trace, const TraceLayer *layer, const EventIds *ids)
{
    PackedBuilder *builder = trace->builder;
    if (!can_tally(ids) || !builder->no_touches || builder->no_experts)
        return append_any(trace, layer, ids);
    const TallySum sum =
        tally_list(&builder->tally, ids->bytes, ids->n, layer->experts,
                   trace->experts + trace->n_lookups, trace->counts + trace->counts_bytes);
    if (sum.is_large)
        return append_any(trace, layer, ids);
    trace->counts_bytes += sum.active;
    count_event(trace, sum.active, sum.assignments);
    return sum.assignments == sum.active;
}

/* What the counts of an event come to. */
static TallySum sum_of(PackedBuilder *builder, const TraceLayer *layer, const EventIds *ids)
{
    TallySum sum = {0};
    ActiveSet *active = &builder->active;
    sum.active = active_set_count(active, widened(builder, ids), ids->n, layer->experts);
    for (uint32_t i = 0; i < sum.active; i++) {
        sum.is_large |= active->tokens[i] >= TALLY_LARGE;
        sum.assignments += active->tokens[i];
        sum.squares += active->tokens[i] * active->tokens[i];
    }
    return sum;
}

/* The same of N events, whose layers are alike; IDS are of the first. */
static void sum_alike(PackedBuilder *builder, const TraceLayer *layer, EventIds ids, uint32_t n,
                      TallySum *sums)
{
    if (can_tally(&ids)) {
        tally_sums(&builder->tally, ids.bytes, ids.tokens, layer->top_k, layer->experts, n, sums);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        sums[i] = sum_of(builder, layer, &ids);
        ids.bytes += ids.bytes != NULL ? ids.n : 0;
        ids.wide += ids.wide != NULL ? ids.n : 0;
    }
}

/* Appends SUM of one event; false when one of its counts is too large. */
static bool put_sum(PackedTrace *trace, const TallySum *sum)
{
    const PackedSums sums = {.assignments = sum->assignments, .squares = sum->squares};
    if (sum->is_large)
        return false;
    memcpy(trace->counts + trace->counts_bytes, &sums, sizeof sums);
    trace->counts_bytes += sizeof sums;
    count_event(trace, sum->active, sum->assignments);
    return true;
}

/* Of N layers, how many are like the first; TALLY_EVENTS at the most. */
static uint32_t count_alike(const TraceLayer *layers, uint32_t n)
{
    uint32_t alike = 1;
    while (alike < n && alike < TALLY_EVENTS && layers[alike].top_k == layers[0].top_k &&
           layers[alike].experts == layers[0].experts)
        alike++;
    return alike;
}

/* Appends the sums of the events of STEP; false when a count is too large, and not all are there.
 */
static bool append_sums(PackedTrace *trace, StackSpan span, const TraceStep *step)
{
    size_t first = 0;
    for (uint32_t i = 0, n; i < span.count; i += n) {
        TallySum sums[TALLY_EVENTS];
        const TraceLayer *layers = &trace->layers[span.first + i];
        const EventIds ids = event_ids(step, first, (size_t)step->tokens * layers->top_k);
        n = count_alike(layers, span.count - i);
        sum_alike(trace->builder, layers, ids, n, sums);
        for (uint32_t j = 0; j < n; j++)
            if (!put_sum(trace, &sums[j]))
                return false;
        first += n * ids.n;
    }
    return true;
}

/* The experts of a token, sorted, and the order of its touches. False, and nothing is there, where
 * it asks one twice. */
static bool put_token(PackedTrace *trace, StackSpan span, uint32_t top_k, const TraceStep *step)
{
    PackedBuilder *builder = trace->builder;
    const EventIds ids = event_ids(step, 0, (size_t)span.top_k);
    if (builder->no_experts && builder->no_touches && ids.bytes != NULL)
        return active_is_distinct(ids.bytes, span.count, top_k);
    return active_of_token(widened(builder, &ids), span.count, top_k,
                           builder->no_experts ? NULL : trace->experts + trace->n_lookups,
                           builder->no_touches ? NULL : trace->touches + trace->touches_bytes);
}

/* Appends the events of a step of one token that asks nobody twice; else nothing, and false. There
 * is room. */
static bool append_token(PackedTrace *trace, StackSpan span, const TraceStep *step)
{
    uint32_t top_k = trace->layers[span.first].top_k;
    uint64_t ids = (uint64_t)span.count * top_k;
    if (span.top_k != ids || top_k == 0)
        return false;
    for (uint32_t i = 1; i < span.count; i++)
        if (trace->layers[span.first + i].top_k != top_k)
            return false;
    if (!put_token(trace, span, top_k, step))
        return false;
    for (uint32_t i = 0; i < span.count; i++)
        trace->n_active[trace->n_events + i] = (uint16_t)top_k;
    trace->n_events += span.count;
    trace->n_lookups += ids;
    trace->n_assignments += ids;
    trace->touches_bytes += trace->builder->no_touches ? 0 : ids;
    trace->max_active = top_k > trace->max_active ? top_k : trace->max_active;
    return true;
}

/* Appends the events of STEP; true when every count is 1. */
static bool append_each(PackedTrace *trace, StackSpan span, const TraceStep *step)
{
    size_t first = 0;
    bool all = true;
    for (uint32_t i = span.first; i < span.first + span.count; i++) {
        const EventIds ids = event_ids(step, first, (size_t)step->tokens * trace->layers[i].top_k);
        all = append_event(trace, &trace->layers[i], &ids) && all;
        first += ids.n;
    }
    return all;
}

/* Appends the events of STEP, and says what there is of their counts. */
static PackedCounts append_events(PackedTrace *trace, StackSpan span, const TraceStep *step)
{
    const PackedTrace before = *trace;
    if (step->tokens == 1 && append_token(trace, span, step))
        return COUNTS_SINGLE;
    if (trace->builder->no_experts && trace->builder->no_touches && append_sums(trace, span, step))
        return COUNTS_SUMMED;
    *trace = before;
    if (!append_each(trace, span, step) || step->tokens > 1)
        return COUNTS_STORED;
    trace->counts_bytes = before.counts_bytes;
    return COUNTS_SINGLE;
}

Status packed_append_step(PackedTrace *trace, const TraceStep *step)
{
    PackedBuilder *builder = trace->builder;
    StackSpan span = builder->spans[step->stack];
    uint64_t lookups = 0;
    uint64_t touches = 0;
    for (uint32_t i = span.first; i < span.first + span.count; i++) {
        uint64_t ids = (uint64_t)step->tokens * trace->layers[i].top_k;
        uint64_t most = ids < trace->layers[i].experts ? ids : trace->layers[i].experts;
        lookups += most;
        touches += builder->no_touches ? 0 : packed_touch_bytes((uint32_t)most);
    }
    TRY(packed_make_room(trace, span.count, lookups, touches));
    if (step->expert_bytes != NULL)
        TRY(block_fit(&builder->wide, &builder->wide_bytes,
                      sizeof(uint16_t) * (size_t)span.top_k * step->tokens, "packed trace"));
    trace->step_counts[trace->n_steps] = (uint8_t)append_events(trace, span, step);
    trace->step_id[trace->n_steps] = step->step;
    trace->step_events[trace->n_steps] = span.count;
    trace->step_first_layer[trace->n_steps] = span.first;
    trace->step_phase[trace->n_steps++] = (uint8_t)step->phase;
    trace->n_tokens += step->tokens;
    return OK;
}
