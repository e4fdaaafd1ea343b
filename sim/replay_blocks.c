#include "sim/replay_blocks.h"

#include "base/memory.h"

/* Where layers have scopes of their own, what a block reads of one is far apart: it has to fit a
 * cache with the others. */
enum { BLOCK_STEPS = 128, SHARED_BLOCK_STEPS = 256, BLOCK_LOOKUPS = 1 << 17, CACHE_LINE = 64 };

/* Steps of one phase, all with counts or all without, so that they are counted alike. */
typedef struct {
    const PackedTrace *trace;
    ExpertBuffer *buffer;
    FutureReader *future; /* or NULL */
    uint64_t future_end;  /* the step behind its block of the first step */
    ReplayResult *result;
    uint32_t n_scopes;     /* one, or one a layer */
    uint64_t most_steps;   /* of a block */
    uint32_t room;         /* spans that a scope has room for */
    BufferSpan *spans;     /* [n_scopes][room] */
    uint32_t *n_spans;     /* [n_scopes] */
    uint16_t *touches;     /* [lookups of a block], or NULL where they are not needed */
    uint8_t *hit;          /* the same, or NULL where no step has counts */
    uint64_t *hits_before; /* [n_layers] */
    uint64_t *looked_up;   /* [n_layers] before */
    uint64_t first_step;   /* of the block */
    uint64_t n_steps;      /* in it */
    uint64_t first_event;
    uint64_t first_lookup;
    uint64_t n_events;
    uint64_t n_lookups;
    const uint8_t *counts; /* of the first step with counts that is not counted yet */
    const uint8_t *touch_at;
    HitObserver observer; /* or NULL */
    void *argument;
    PackedCursor told; /* up to where it was told */
} Blocks;

const uint8_t *replay_count_assignments(const uint8_t *counts, const uint8_t *hit, uint32_t n,
                                        ReplayLayer *layer, ReplayPhase *phase)
{
    uint32_t of_bytes = 0;
    uint32_t hits_of_bytes = 0;
    uint8_t all = 0;
    for (uint32_t i = 0; i < n; i++) {
        of_bytes += counts[i];
        hits_of_bytes += hit[i] ? counts[i] : 0u;
        all |= counts[i];
    }
    uint64_t assignments = all < 0x80 ? of_bytes : 0;
    uint64_t hits = all < 0x80 ? hits_of_bytes : 0;
    if (all < 0x80) /* nearly always: a byte each */
        counts += n;
    for (uint32_t i = 0; all >= 0x80 && i < n; i++) {
        uint64_t tokens = packed_count_read(&counts);
        assignments += tokens;
        hits += hit[i] ? tokens : 0;
    }
    layer->assignments += assignments;
    layer->assignment_hits += hits;
    phase->assignments += assignments;
    phase->assignment_hits += hits;
    return counts;
}

static uint64_t lookups_of_step(const PackedTrace *trace, uint64_t step, uint64_t first_event)
{
    uint64_t lookups = 0;
    for (uint32_t i = 0; i < trace->step_events[step]; i++)
        lookups += trace->n_active[first_event + i];
    return lookups;
}

/* True when STEP can join the block. */
static bool fits(const Blocks *blocks, uint64_t step, uint64_t lookups)
{
    const PackedTrace *trace = blocks->trace;
    uint64_t first = blocks->first_step;
    return blocks->n_steps == 0 ||
           (blocks->n_steps < blocks->most_steps && blocks->n_lookups + lookups <= BLOCK_LOOKUPS &&
            step < blocks->future_end && trace->step_phase[step] == trace->step_phase[first] &&
            trace->step_counts[step] == trace->step_counts[first]);
}

/* Layer by layer the ids of a block are read with gaps, which no processor foresees. */
static void prefetch_experts(const Blocks *blocks, uint64_t first, uint64_t n)
{
    const char *at = (const char *)(blocks->trace->experts + blocks->first_lookup + first);
    for (uint64_t i = 0; i < n * sizeof *blocks->trace->experts; i += CACHE_LINE)
        __builtin_prefetch(at + i, 0, 2);
}

static void add_step(Blocks *blocks, uint64_t step, uint64_t lookups)
{
    const PackedTrace *trace = blocks->trace;
    const uint16_t *n_active = trace->n_active + blocks->first_event + blocks->n_events;
    uint32_t n = trace->step_events[step];
    uint32_t layer = trace->step_first_layer[step];
    uint64_t lookup = blocks->n_lookups;
    bool shared = blocks->n_scopes == 1;
    prefetch_experts(blocks, lookup, lookups);
    for (uint32_t i = 0; i < n; i++, layer++) {
        uint32_t scope = shared ? 0 : layer;
        blocks->spans[(size_t)scope * blocks->room + blocks->n_spans[scope]++] =
            (BufferSpan){(uint32_t)lookup, n_active[i], (uint16_t)layer};
        lookup += n_active[i];
    }
    blocks->n_events += n;
    blocks->n_lookups = lookup;
    blocks->n_steps++;
}

static void read_touches(Blocks *blocks)
{
    const PackedTrace *trace = blocks->trace;
    uint16_t *to = blocks->touches;
    for (uint64_t i = 0; i < blocks->n_events; i++) {
        PackedEvent event = {.n_active = trace->n_active[blocks->first_event + i],
                             .touches = blocks->touch_at};
        packed_touches(&event, to);
        to += event.n_active;
        blocks->touch_at += packed_touch_bytes(event.n_active);
    }
}

static void decide(Blocks *blocks, bool counted)
{
    const PackedTrace *trace = blocks->trace;
    BufferRun run = {.experts = trace->experts + blocks->first_lookup,
                     .touches = blocks->touches,
                     .hit = counted || blocks->observer != NULL ? blocks->hit : NULL};
    if (blocks->future != NULL)
        run.next_use = future_reader_at(blocks->future, blocks->first_lookup);
    if (blocks->touches != NULL)
        read_touches(blocks);
    for (uint32_t scope = 0; scope < blocks->n_scopes; scope++) {
        run.spans = blocks->spans + (size_t)scope * blocks->room;
        run.n_spans = blocks->n_spans[scope];
        buffer_run(blocks->buffer, &run);
        blocks->n_spans[scope] = 0;
    }
}

/* Hits and misses of the block by phase; without counts every lookup is one assignment. */
static void count_lookups(Blocks *blocks, bool counted, ReplayPhase *phase)
{
    for (uint32_t i = 0; i < blocks->trace->n_layers; i++) {
        ReplayLayer *layer = &blocks->result->layers[i];
        uint64_t lookups = 0;
        uint64_t hits = 0;
        buffer_tally(blocks->buffer, i, &lookups, &hits);
        uint64_t more_lookups = lookups - blocks->looked_up[i];
        uint64_t more_hits = hits - blocks->hits_before[i];
        blocks->looked_up[i] = lookups;
        blocks->hits_before[i] = hits;
        phase->hits += more_hits;
        phase->misses += more_lookups - more_hits;
        layer->assignments += counted ? 0 : more_lookups;
        layer->assignment_hits += counted ? 0 : more_hits;
        phase->assignments += counted ? 0 : more_lookups;
        phase->assignment_hits += counted ? 0 : more_hits;
    }
}

static void count_tokens(Blocks *blocks, ReplayPhase *phase)
{
    const PackedTrace *trace = blocks->trace;
    const uint8_t *hit = blocks->hit;
    const uint16_t *n_active = trace->n_active + blocks->first_event;
    for (uint64_t step = blocks->first_step; step < blocks->first_step + blocks->n_steps; step++)
        for (uint32_t i = 0; i < trace->step_events[step]; i++, hit += *n_active++)
            blocks->counts = replay_count_assignments(
                blocks->counts, hit, *n_active,
                &blocks->result->layers[trace->step_first_layer[step] + i], phase);
}

static Status tell(Blocks *blocks)
{
    const uint8_t *hit = blocks->hit;
    PackedCursor *cursor = &blocks->told;
    PackedEvent event;
    for (uint64_t i = 0; i < blocks->n_events; i++) {
        packed_next(cursor, &event);
        TRY(blocks->observer(blocks->argument, &event, hit));
        hit += event.n_active;
    }
    return OK;
}

/* Decides and counts what is in the block, and empties it. */
static Status finish_block(Blocks *blocks)
{
    const PackedTrace *trace = blocks->trace;
    if (blocks->n_steps == 0)
        return OK;
    ReplayPhase *phase = &blocks->result->phases[trace->step_phase[blocks->first_step]];
    bool counted = trace->step_counts[blocks->first_step] == COUNTS_STORED;
    decide(blocks, counted);
    count_lookups(blocks, counted, phase);
    if (counted)
        count_tokens(blocks, phase);
    if (blocks->observer != NULL)
        TRY(tell(blocks));
    blocks->first_step += blocks->n_steps;
    blocks->first_event += blocks->n_events;
    blocks->first_lookup += blocks->n_lookups;
    blocks->n_steps = blocks->n_events = blocks->n_lookups = 0;
    return OK;
}

static uint64_t lookups_of_block(const PackedTrace *trace)
{
    uint64_t step = (uint64_t)trace->max_active * trace->n_layers; /* a step is never cut */
    uint64_t most = step > BLOCK_LOOKUPS ? step : BLOCK_LOOKUPS;
    return most < trace->n_lookups ? most : trace->n_lookups;
}

static Status make_room(Blocks *blocks)
{
    const PackedTrace *trace = blocks->trace;
    uint64_t lookups = lookups_of_block(trace) + 1;
    bool shared = buffer_is_shared(blocks->buffer);
    blocks->most_steps = shared ? SHARED_BLOCK_STEPS : BLOCK_STEPS;
    uint64_t steps = trace->n_steps < blocks->most_steps ? trace->n_steps + 1 : blocks->most_steps;
    blocks->n_scopes = shared ? 1 : trace->n_layers;
    blocks->room = (uint32_t)(shared ? steps * trace->n_layers : steps);
    TRY(mem_new(&blocks->spans, (size_t)blocks->n_scopes * blocks->room, sizeof *blocks->spans,
                "replay"));
    TRY(mem_new(&blocks->n_spans, blocks->n_scopes, sizeof *blocks->n_spans, "replay"));
    TRY(mem_new(&blocks->hits_before, trace->n_layers, sizeof *blocks->hits_before, "replay"));
    TRY(mem_new(&blocks->looked_up, trace->n_layers, sizeof *blocks->looked_up, "replay"));
    TRY(mem_new(&blocks->hit, lookups, sizeof *blocks->hit, "replay"));
    if (buffer_needs_touches(blocks->buffer))
        TRY(mem_new(&blocks->touches, lookups, sizeof *blocks->touches, "replay"));
    return OK;
}

static void free_blocks(Blocks *blocks)
{
    mem_free(blocks->touches);
    mem_free(blocks->hit);
    mem_free(blocks->looked_up);
    mem_free(blocks->hits_before);
    mem_free(blocks->n_spans);
    mem_free(blocks->spans);
}

static Status decide_all(Blocks *blocks)
{
    const PackedTrace *trace = blocks->trace;
    for (uint64_t step = blocks->first_step; step < trace->n_steps; step++) {
        uint64_t lookups = lookups_of_step(trace, step, blocks->first_event + blocks->n_events);
        if (!fits(blocks, step, lookups))
            TRY(finish_block(blocks));
        if (blocks->n_steps == 0)
            blocks->future_end =
                blocks->future != NULL ? future_reader_end(blocks->future, step) : UINT64_MAX;
        add_step(blocks, step, lookups);
    }
    return finish_block(blocks);
}

static void take_tallies(Blocks *blocks)
{
    for (uint32_t i = 0; i < blocks->trace->n_layers; i++)
        buffer_tally(blocks->buffer, i, &blocks->looked_up[i], &blocks->hits_before[i]);
}

Status replay_blocks(PackedCursor *cursor, ExpertBuffer *buffer, FutureReader *future,
                     HitObserver observer, void *argument, ReplayResult *result)
{
    const PackedTrace *trace = cursor->trace;
    Blocks blocks = {.trace = trace,
                     .buffer = buffer,
                     .future = future,
                     .result = result,
                     .first_step = cursor->next_step,
                     .first_event = cursor->event,
                     .first_lookup = cursor->lookup,
                     .counts = trace->counts + cursor->count_at,
                     .touch_at = packed_touches_from(trace, cursor->touch_at),
                     .observer = observer,
                     .argument = argument,
                     .told = *cursor};
    Status status = make_room(&blocks);
    if (status == OK) {
        take_tallies(&blocks);
        status = decide_all(&blocks);
        cursor->next_step = trace->n_steps;
        cursor->event = trace->n_events;
        cursor->lookup = trace->n_lookups;
        cursor->count_at = trace->counts_bytes;
        cursor->touch_at = trace->touches_bytes;
    }
    free_blocks(&blocks);
    return status;
}

/* The assignments of the event at CURSOR, and on to the next. */
static uint64_t count_event(PackedCursor *cursor, uint32_t n)
{
    uint64_t assignments = 0;
    if (cursor->counts == COUNTS_SINGLE)
        return n;
    if (cursor->counts == COUNTS_SUMMED)
        return packed_take_sums(cursor).assignments;
    const uint8_t *at = cursor->trace->counts + cursor->count_at;
    for (uint32_t i = 0; i < n; i++)
        assignments += packed_count_read(&at);
    cursor->count_at = (size_t)(at - cursor->trace->counts);
    return assignments;
}

/* Sums over the events of each layer. */
typedef struct {
    uint64_t lookups;
    uint64_t assignments;
} LayerSums;

/* Adds N_ACTIVE[n] to SUMS[n], and returns what they come to. */
static uint64_t add_active(const uint16_t *restrict n_active, uint32_t n, uint64_t *restrict sums)
{
    uint64_t all = 0;
    for (uint32_t i = 0; i < n; i++) {
        sums[i] += n_active[i];
        all += n_active[i];
    }
    return all;
}

/* The step at CURSOR, whose counts are not all 1. */
static void count_step(PackedCursor *cursor, LayerSums *sums, ReplayPhase *phase)
{
    const uint16_t *n_active = cursor->trace->n_active + cursor->event;
    for (uint32_t i = 0; i < cursor->left; i++) {
        uint64_t assignments = count_event(cursor, n_active[i]);
        sums[i].lookups += n_active[i];
        sums[i].assignments += assignments;
        phase->hits += n_active[i];
        phase->assignments += assignments;
        phase->assignment_hits += assignments;
    }
}

/* SINGLE[n_layers] are lookups of steps whose counts are all 1, SUMS[n_layers] of the others. */
static void add_sums(uint32_t n_layers, const uint64_t *single, const LayerSums *sums,
                     ExpertBuffer *buffer, ReplayResult *result)
{
    for (uint32_t i = 0; i < n_layers; i++) {
        ReplayLayer *layer = &result->layers[i];
        buffer_count_hits(buffer, i, single[i] + sums[i].lookups);
        layer->assignments += single[i] + sums[i].assignments;
        layer->assignment_hits += single[i] + sums[i].assignments;
    }
}

static void count_resident(PackedCursor *cursor, uint64_t *single, LayerSums *sums,
                           ReplayResult *result)
{
    const PackedTrace *trace = cursor->trace;
    for (; packed_next_step(cursor); cursor->event += cursor->left, cursor->left = 0) {
        ReplayPhase *phase = &result->phases[trace->step_phase[cursor->step]];
        if (cursor->counts != COUNTS_SINGLE) {
            count_step(cursor, sums + cursor->layer_index, phase);
            continue;
        }
        uint64_t lookups =
            add_active(trace->n_active + cursor->event, cursor->left, single + cursor->layer_index);
        phase->hits += lookups;
        phase->assignments += lookups;
        phase->assignment_hits += lookups;
    }
    cursor->lookup = trace->n_lookups;
    cursor->touch_at = trace->touches_bytes;
}

Status replay_resident(PackedCursor *cursor, ExpertBuffer *buffer, ReplayResult *result)
{
    uint32_t n_layers = cursor->trace->n_layers;
    uint64_t *single;
    LayerSums *sums;
    TRY(mem_new(&single, n_layers, sizeof *single, "replay"));
    Status status = mem_new(&sums, n_layers, sizeof *sums, "replay");
    if (status == OK) {
        count_resident(cursor, single, sums, result);
        add_sums(n_layers, single, sums, buffer, result);
        mem_free(sums);
    }
    mem_free(single);
    return status;
}
