#include "sim/replay.h"

#include <assert.h>

#include "base/clock.h"
#include "base/memory.h"
#include "sim/replay_blocks.h"

/* One replay on its way. */
struct Replay {
    ExpertBuffer *buffer;
    bool decides; /* the buffer is on */
    PackedCursor cursor;
    FutureReader *future;  /* or NULL */
    SignalsCursor signals; /* .signals is NULL where none are needed */
    uint8_t *hit;          /* [most experts of a layer] */
    uint16_t *touches;     /* [most experts of a layer], or NULL where they are not needed */
    uint32_t *rows;        /* the same */
    BufferAction *actions; /* room for an event, or NULL without an observer */
    ReplayObserver observer;
    HitObserver hit_observer;
    void *argument;
    ReplayResult result;
};

static PackedFuture *const *future_of(const Plan *plan, const ReplayFuture *future)
{
    return plan->buffer.order == ORDER_SERIAL ? &future->serial : &future->batch;
}

static bool wants_future(const Plan *plan)
{
    return plan->buffer.on && eviction_needs_future(plan->buffer.evict);
}

Status replay_prepare(const PackedTrace *trace, const Plan *plan, ReplayFuture *future)
{
    bool serial = plan->buffer.order == ORDER_SERIAL;
    if (!wants_future(plan) || *future_of(plan, future) != NULL)
        return OK;
    return packed_future_new(trace, serial, serial ? &future->serial : &future->batch);
}

void replay_future_free(ReplayFuture *future)
{
    packed_future_free(future->serial);
    packed_future_free(future->batch);
    *future = (ReplayFuture){0};
}

static void count_event(Replay *replay, const PackedEvent *event, uint32_t hits)
{
    ReplayLayer *layer = &replay->result.layers[event->layer_index];
    ReplayPhase *phase = &replay->result.phases[event->phase];
    phase->hits += hits;
    phase->misses += event->n_active - hits;
    if (event->counts != NULL) {
        replay_count_assignments(event->counts, replay->hit, event->n_active, layer, phase);
        return;
    }
    layer->assignments += event->n_active;
    layer->assignment_hits += hits;
    phase->assignments += event->n_active;
    phase->assignment_hits += hits;
}

static void decide(Replay *replay, const PackedCursor *cursor, const PackedEvent *event,
                   uint32_t *n_actions)
{
    EventSignals signals;
    BufferEvent asked = {
        .layer_index = event->layer_index,
        .n = event->n_active,
        .experts = event->experts,
        .next_use =
            replay->future != NULL ? future_reader_at(replay->future, event->first_lookup) : NULL,
        .touches = replay->touches,
        .rows = replay->rows,
        .n_coming = cursor->trace->n_active + cursor->event - 1,
        .coming = event->experts,
    };
    uint8_t *hit = event->counts != NULL ? replay->hit : NULL;
    if (replay->touches != NULL)
        packed_touches(event, replay->touches);
    if (replay->rows != NULL)
        packed_rows(event, replay->rows);
    if (replay->signals.signals != NULL) {
        signals_next(&replay->signals, &signals);
        asked.signals = &signals;
    }
    count_event(replay, event,
                buffer_event(replay->buffer, &asked, hit, replay->actions, n_actions));
}

static Status replay_events(Replay *replay)
{
    if (replay->observer == NULL && !replay->decides)
        return replay_resident(&replay->cursor, replay->buffer, &replay->result);
    if (replay->observer == NULL && buffer_takes_runs(replay->buffer))
        return replay_blocks(&replay->cursor, replay->buffer, replay->future, replay->hit_observer,
                             replay->argument, &replay->result);
    PackedCursor cursor = replay->cursor;
    PackedEvent event;
    while (packed_next(&cursor, &event)) {
        uint32_t n_actions = 0;
        decide(replay, &cursor, &event, &n_actions);
        if (replay->observer != NULL)
            TRY(replay->observer(replay->argument, &event, replay->actions, n_actions));
    }
    replay->cursor = cursor;
    return OK;
}

/* The signals that PLAN's decisions read, from FUTURE. */
static Status take_signals(const Plan *plan, const ReplayFuture *future, Replay *replay)
{
    SignalNeeds needs = plan_needs_signals(plan);
    if (!signals_needed(&needs))
        return OK;
    if (!trace_signals_have(future->signals, &needs))
        return fail(ERR_INPUT, "replay: the plan needs %s of the trace, which were not read",
                    needs.scores         ? "router scores"
                    : needs.distance > 0 ? "predictions"
                                         : "requests");
    replay->signals = signals_cursor(future->signals, &needs);
    for (uint64_t i = 0; i < future->signals_skipped; i++) {
        EventSignals before;
        signals_next(&replay->signals, &before);
    }
    return OK;
}

static Status make_room(const PackedTrace *trace, Replay *replay)
{
    const uint32_t most = layers_max_experts(trace->layers, trace->n_layers);
    TRY(replay_result_new(trace->n_layers, &replay->result));
    TRY(mem_new(&replay->hit, (size_t)most + 1, sizeof *replay->hit, "replay"));
    assert(!buffer_needs_touches(replay->buffer) || trace->touches_bytes > 0 ||
           trace->n_lookups == 0);
    if (buffer_needs_touches(replay->buffer))
        TRY(mem_new(&replay->touches, (size_t)most + 1, sizeof *replay->touches, "replay"));
    if (buffer_needs_rows(replay->buffer))
        TRY(mem_new(&replay->rows, (size_t)most + 1, sizeof *replay->rows, "replay"));
    if (replay->observer == NULL)
        return OK;
    size_t actions = buffer_max_actions(replay->buffer, most);
    return mem_new(&replay->actions, actions + 1, sizeof *replay->actions, "replay");
}

Status replay_open(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                   ReplayObserver observer, void *argument, Replay **out)
{
    Replay *replay;
    TRY(mem_new(&replay, 1, sizeof *replay, "replay"));
    replay->decides = plan->buffer.on;
    replay->observer = observer;
    replay->argument = argument;
    replay->cursor = packed_cursor(trace);
    Status status = take_signals(plan, future, replay);
    if (status == OK && wants_future(plan))
        status = future_reader_new(*future_of(plan, future), &replay->future);
    if (status == OK)
        status = buffer_new(plan, trace->layers, trace->n_layers, &replay->buffer);
    if (status == OK)
        status = make_room(trace, replay);
    if (status != OK) {
        replay_close(replay, NULL);
        return status;
    }
    *out = replay;
    return OK;
}

Status replay_go_on(Replay *replay)
{
    uint64_t start_ns = clock_ns();
    Status status = replay_events(replay);
    replay->result.replay_ns += clock_ns() - start_ns;
    return status;
}

void replay_close(Replay *replay, ReplayResult *result)
{
    if (replay == NULL)
        return;
    if (result != NULL) {
        replay_result_add(&replay->result, replay->buffer);
        replay_result_add_up(&replay->result);
        *result = replay->result;
        replay->result = (ReplayResult){0};
    }
    replay_result_free(&replay->result);
    mem_free(replay->actions);
    mem_free(replay->rows);
    mem_free(replay->touches);
    mem_free(replay->hit);
    buffer_free(replay->buffer);
    future_reader_free(replay->future);
    mem_free(replay);
}

Status replay_run(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                  ReplayObserver observer, void *argument, ReplayResult *result)
{
    Replay *replay;
    *result = (ReplayResult){0};
    TRY(replay_open(trace, plan, future, observer, argument, &replay));
    Status status = replay_go_on(replay);
    replay_close(replay, status == OK ? result : NULL);
    return status;
}

Status replay_run_hits(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                       HitObserver observer, void *argument, ReplayResult *result)
{
    Replay *replay;
    *result = (ReplayResult){0};
    TRY(replay_open(trace, plan, future, NULL, argument, &replay));
    assert(buffer_takes_runs(replay->buffer));
    replay->hit_observer = observer;
    Status status = replay_go_on(replay);
    replay_close(replay, status == OK ? result : NULL);
    return status;
}
