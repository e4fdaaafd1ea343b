#include "sim/ranked_replay.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "traces/layers.h"

/* One rank's part. */
typedef struct {
    ExpertBuffer *buffer;
    BufferAction *actions;
    uint8_t *hit;
    uint32_t *next_use; /* NULL where they are not needed, like the next */
    uint16_t *touches;
} RankReplay;

struct RankedReplay {
    PackedCursor cursor;
    RankSplit *split;
    FutureReader *future;  /* or NULL */
    uint32_t *rows;        /* [most experts] of the event */
    uint16_t *touches;     /* the same, or NULL */
    uint16_t *part_of;     /* ... where each expert stands in a rank's part */
    RankReplay *ranks;     /* [split->ranks] */
    RankDecision *decided; /* [split->ranks] */
    RankedObserver observer;
    void *argument;
    bool prefetches;
    ReplayResult result;
};

Status ranked_replay_check(const Plan *plan)
{
    const SignalNeeds needs = plan_needs_signals(plan);
    const char *reason = NULL;
    if (plan_prefetches(plan) &&
        (plan->prefetch.table.table != NULL || plan->prefetch.table.choice != TABLE_ONLINE))
        reason = "whose predictor learns as the trace goes";
    else if (plan->compute.mode != COMPUTE_ON_GPU)
        reason = "with compute.mode \"gpu\"";
    else if (plan->buffer.initial.table != NULL || plan->buffer.initial.choice != HOT_NONE ||
             eviction_needs_hot(plan->buffer.evict))
        reason = "that name no experts (buffer.initial, buffer.hot)";
    else if (signals_needed(&needs))
        reason = "that decide without scores";
    else if (plan_needs_future(plan) && !eviction_needs_future(plan->buffer.evict))
        reason = "whose predictor does not know the future";
    else if (eviction_needs_future(plan->buffer.evict) && plan->placement.replicas > 0)
        reason = "that have no copies of experts, or do not know the future";
    if (reason == NULL)
        return OK;
    return fail(ERR_PLAN, "placement.ranks: %u, buffers of more than one rank are of plans %s",
                plan->placement.ranks, reason);
}

/* ---- events ---- */

/* The order of PART's touches: that of the event, without the others. */
static void part_touches(const RankedReplay *ranked, const PackedEvent *event, const RankPart *part,
                         uint16_t *touches)
{
    uint32_t n = 0;
    memset(ranked->part_of, 0xFF, event->n_active * sizeof *ranked->part_of);
    for (uint32_t i = 0; i < part->n; i++)
        ranked->part_of[part->at[i]] = (uint16_t)i;
    for (uint32_t i = 0; i < event->n_active; i++)
        if (ranked->part_of[ranked->touches[i]] != UINT16_MAX)
            touches[n++] = ranked->part_of[ranked->touches[i]];
}

static void count_part(RankedReplay *ranked, const PackedEvent *event, const RankPart *part,
                       const uint8_t *hit, uint32_t hits)
{
    ReplayLayer *layer = &ranked->result.layers[event->layer_index];
    ReplayPhase *phase = &ranked->result.phases[event->phase];
    uint64_t assignment_hits = 0;
    for (uint32_t i = 0; i < part->n; i++)
        assignment_hits += hit[i] ? part->rows[i] : 0;
    phase->hits += hits;
    phase->misses += part->n - hits;
    phase->assignments += part->sum;
    phase->assignment_hits += assignment_hits;
    layer->assignments += part->sum;
    layer->assignment_hits += assignment_hits;
}

static void decide(RankedReplay *ranked, const PackedEvent *event, uint32_t rank)
{
    RankReplay *of = &ranked->ranks[rank];
    RankDecision *decided = &ranked->decided[rank];
    const RankPart *part = &ranked->split->parts[rank];
    const uint32_t *future =
        ranked->future != NULL ? future_reader_at(ranked->future, event->first_lookup) : NULL;
    *decided = (RankDecision){.actions = of->actions};
    if (part->n == 0 && !ranked->prefetches)
        return;
    for (uint32_t i = 0; future != NULL && i < part->n; i++)
        of->next_use[i] = future[part->at[i]];
    if (of->touches != NULL)
        part_touches(ranked, event, part, of->touches);
    const BufferEvent asked = {.layer_index = event->layer_index,
                               .n = part->n,
                               .experts = part->experts,
                               .next_use = of->next_use,
                               .touches = of->touches};
    uint32_t hits = buffer_event(of->buffer, &asked, of->hit, of->actions, &decided->n_actions);
    count_part(ranked, event, part, of->hit, hits);
}

static Status replay_events(RankedReplay *ranked)
{
    PackedEvent event;
    while (packed_next(&ranked->cursor, &event)) {
        packed_rows(&event, ranked->rows);
        if (ranked->touches != NULL)
            packed_touches(&event, ranked->touches);
        rank_split_event(ranked->split, event.layer_index, event.n_active, event.experts,
                         ranked->rows);
        for (uint32_t rank = 0; rank < ranked->split->ranks; rank++)
            decide(ranked, &event, rank);
        if (ranked->observer != NULL)
            TRY(ranked->observer(ranked->argument, &event, ranked->decided));
    }
    return OK;
}

/* ---- opening and closing ---- */

static Status open_rank(RankedReplay *ranked, const Plan *one, uint32_t rank, uint32_t most)
{
    RankReplay *of = &ranked->ranks[rank];
    TRY(buffer_new(one, rank_split_layers(ranked->split, rank), ranked->cursor.trace->n_layers,
                   &of->buffer));
    TRY(mem_new(&of->actions, buffer_max_actions(of->buffer, most) + 1, sizeof *of->actions,
                "replay"));
    TRY(mem_new(&of->hit, (size_t)most + 1, sizeof *of->hit, "replay"));
    if (ranked->future != NULL)
        TRY(mem_new(&of->next_use, (size_t)most + 1, sizeof *of->next_use, "replay"));
    if (ranked->touches != NULL)
        TRY(mem_new(&of->touches, (size_t)most + 1, sizeof *of->touches, "replay"));
    return OK;
}

static Status open_all(RankedReplay *ranked, const Plan *plan, const ReplayFuture *future)
{
    const PackedTrace *trace = ranked->cursor.trace;
    const uint32_t most = layers_max_experts(trace->layers, trace->n_layers);
    bool serial = plan->buffer.order == ORDER_SERIAL;
    const Plan one = plan_of_one_rank(plan);
    if (eviction_needs_future(plan->buffer.evict))
        TRY(future_reader_new(serial ? future->serial : future->batch, &ranked->future));
    TRY(mem_new(&ranked->rows, (size_t)most + 1, sizeof *ranked->rows, "replay"));
    TRY(mem_new(&ranked->part_of, (size_t)most + 1, sizeof *ranked->part_of, "replay"));
    if (plan_needs_touches(plan))
        TRY(mem_new(&ranked->touches, (size_t)most + 1, sizeof *ranked->touches, "replay"));
    TRY(replay_result_new(trace->n_layers, &ranked->result));
    TRY(mem_new(&ranked->ranks, ranked->split->ranks, sizeof *ranked->ranks, "replay"));
    TRY(mem_new(&ranked->decided, ranked->split->ranks, sizeof *ranked->decided, "replay"));
    for (uint32_t rank = 0; rank < ranked->split->ranks; rank++)
        TRY(open_rank(ranked, &one, rank, most));
    return OK;
}

static void close_rank(const RankReplay *of)
{
    mem_free(of->touches);
    mem_free(of->next_use);
    mem_free(of->hit);
    mem_free(of->actions);
    buffer_free(of->buffer);
}

static void close_all(const RankedReplay *ranked)
{
    for (uint32_t rank = 0; ranked->ranks != NULL && rank < ranked->split->ranks; rank++)
        close_rank(&ranked->ranks[rank]);
    mem_free(ranked->decided);
    mem_free(ranked->ranks);
    mem_free(ranked->touches);
    mem_free(ranked->part_of);
    mem_free(ranked->rows);
    future_reader_free(ranked->future);
}

Status ranked_replay_open(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                          RankSplit *split, RankedObserver observer, void *argument,
                          RankedReplay **out)
{
    RankedReplay *ranked;
    TRY(ranked_replay_check(plan));
    TRY(mem_new(&ranked, 1, sizeof *ranked, "replay"));
    *ranked = (RankedReplay){.cursor = packed_cursor(trace),
                             .prefetches = plan_prefetches(plan),
                             .split = split,
                             .observer = observer,
                             .argument = argument};
    Status status = open_all(ranked, plan, future);
    if (status != OK) {
        ranked_replay_close(ranked, NULL);
        return status;
    }
    *out = ranked;
    return OK;
}

Status ranked_replay_go_on(RankedReplay *ranked)
{
    uint64_t start_ns = clock_ns();
    Status status = replay_events(ranked);
    ranked->result.replay_ns += clock_ns() - start_ns;
    return status;
}

void ranked_replay_close(RankedReplay *ranked, ReplayResult *result)
{
    if (ranked == NULL)
        return;
    if (result != NULL) {
        for (uint32_t rank = 0; rank < ranked->split->ranks; rank++)
            replay_result_add(&ranked->result, ranked->ranks[rank].buffer);
        replay_result_add_up(&ranked->result);
        *result = ranked->result;
        ranked->result = (ReplayResult){0};
    }
    replay_result_free(&ranked->result);
    close_all(ranked);
    mem_free(ranked);
}

Status ranked_replay_run(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                         RankSplit *split, RankedObserver observer, void *argument,
                         ReplayResult *result)
{
    RankedReplay *ranked;
    *result = (ReplayResult){0};
    TRY(ranked_replay_open(trace, plan, future, split, observer, argument, &ranked));
    Status status = ranked_replay_go_on(ranked);
    ranked_replay_close(ranked, status == OK ? result : NULL);
    return status;
}

/* Without a buffer every lookup hits, whichever rank has the expert. */
static Status replay_resident(const PackedTrace *trace, const Plan *plan,
                              const ReplayFuture *future, const RankSplit *split,
                              ReplayResult *result)
{
    const Plan one = plan_of_one_rank(plan);
    TRY(replay_run(trace, &one, future, NULL, NULL, result));
    result->memory_bytes = rank_split_bytes(split);
    return OK;
}

static Status replay_ranks(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                           ReplayResult *result)
{
    RankSplit split;
    *result = (ReplayResult){0};
    Status status = rank_split_open(plan, trace->layers, trace->n_layers, &split);
    if (status == OK && plan->buffer.on)
        status = ranked_replay_run(trace, plan, future, &split, NULL, NULL, result);
    else if (status == OK)
        status = replay_resident(trace, plan, future, &split, result);
    rank_split_close(&split);
    return status;
}

Status plan_replay_run(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                       ReplayResult *result)
{
    return plan->placement.ranks > 1 ? replay_ranks(trace, plan, future, result)
                                     : replay_run(trace, plan, future, NULL, NULL, result);
}
