/* Runs of events decide what the same events decide one by one, and leave the same buffer; on any
 * machine, and with AVX-512. */
#include "base/status.h" /* before cmocka, which has a macro called fail */
#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim/replay.h"
#include "sim/sweep_learn.h"

enum { MAX_LAYERS = 3, MAX_EXPERTS = 300, MAX_TOKENS = 48, MAX_TOP_K = 8, STEPS = 160 };

/* Layers of one width or of several, few experts or many. */
static uint32_t make_layers(uint64_t *state, TraceLayer *layers)
{
    static const uint32_t WIDTHS[] = {5, 24, 70, 140, MAX_EXPERTS};
    uint32_t n = 1 + random_below(state, MAX_LAYERS);
    uint32_t experts = WIDTHS[random_below(state, 5)];
    uint32_t top_k = 1 + random_below(state, experts < MAX_TOP_K ? experts : MAX_TOP_K);
    bool equal = random_below(state, 2) == 0;
    for (uint32_t i = 0; i < n; i++)
        layers[i] = (TraceLayer){.layer = i,
                                 .experts = experts - (equal ? 0 : random_below(state, 3)),
                                 .top_k = top_k < experts - 2 ? top_k : experts - 2,
                                 .expert_bytes = equal ? 10 : 10 * (1 + random_below(state, 3))};
    return n;
}

/* One token a step, or several now and then; half of the choices are those of the step before. */
static PackedTrace make_trace(uint64_t seed)
{
    PackedTrace trace;
    TraceLayer layers[MAX_LAYERS];
    uint32_t n = make_layers(&seed, layers);
    uint32_t zero[MAX_TOKENS] = {0};
    static uint16_t experts[MAX_LAYERS * MAX_TOKENS * MAX_TOP_K];
    bool single = random_below(&seed, 2) == 0;
    memset(experts, 0, sizeof experts);
    assert_ok(packed_trace_new(layers, n, &trace));
    for (uint32_t step = 0; step < STEPS; step++) {
        uint32_t tokens =
            single || random_below(&seed, 4) > 0 ? 1 : 1 + random_below(&seed, MAX_TOKENS);
        uint32_t at = 0;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t token = 0; token < tokens; token++)
                for (uint32_t k = 0; k < layers[i].top_k; k++, at++)
                    if (random_below(&seed, 2) || experts[at] >= layers[i].experts)
                        experts[at] = (uint16_t)random_below(
                            &seed, 1 + random_below(&seed, layers[i].experts));
        const TraceStep made = {.step = step,
                                .phase = tokens > 1 ? PHASE_PREFILL : PHASE_DECODE,
                                .tokens = tokens,
                                .request = zero,
                                .position = zero,
                                .experts = experts};
        assert_ok(packed_trace_add_step(&trace, &made));
    }
    return trace;
}

/* What is left to learn is learnt from all of TRACE; freed with plan_free(). */
static Plan make_plan(const PackedTrace *trace, const char *evict, ReplayOrder order,
                      uint64_t *state)
{
    const TraceParts all = {.trains = true, .train = {0, trace->n_steps}};
    uint32_t experts = trace->layers[0].experts - 2;
    Plan plan = plan_default();
    Plan learnt;
    plan.seed = random_next(state) >> 12;
    plan.buffer.on = true;
    plan.buffer.order = order;
    plan.buffer.scope = random_below(state, 2) ? SCOPE_LAYER : SCOPE_DEVICE;
    plan.buffer.slots = 1 + random_below(state, 1 + random_below(state, experts));
    if (plan.buffer.scope == SCOPE_DEVICE && random_below(state, 3) == 0) {
        plan.buffer.bytes = 30 + plan.buffer.slots * UINT64_C(20);
        plan.buffer.slots = 0;
    }
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", evict);
    if (eviction_needs_hot(evict))
        plan.buffer.hot.choice = HOT_HOTTEST;
    if (!eviction_needs_future(evict) && random_below(state, 3) == 0)
        plan.buffer.initial.choice = HOT_HOTTEST;
    assert_ok(learn_plan(trace, NULL, &all, &plan, &learnt));
    return learnt;
}

static Status look_away(void *argument, const PackedEvent *event, const BufferAction *actions,
                        uint32_t n_actions)
{
    (void)argument;
    (void)event;
    (void)actions;
    (void)n_actions;
    return OK;
}

static void replay_twice(const PackedTrace *trace, const Plan *plan)
{
    ReplayFuture future = {0};
    ReplayResult seen;
    ReplayResult unseen;
    assert_ok(replay_prepare(trace, plan, &future));
    assert_ok(replay_run(trace, plan, &future, look_away, NULL, &seen));
    assert_ok(replay_run(trace, plan, &future, NULL, NULL, &unseen));
    if (memcmp(&seen.total, &unseen.total, sizeof seen.total) != 0)
        fail_msg("%s, %s, %s: %u slots, %u experts: misses %u or %u", plan->buffer.evict,
                 plan_order_name(plan->buffer.order), plan_scope_name(plan->buffer.scope),
                 plan->buffer.slots, trace->layers[0].experts, (unsigned)seen.total.counts.misses,
                 (unsigned)unseen.total.counts.misses);
    assert_memory_equal(seen.layers, unseen.layers, trace->n_layers * sizeof *seen.layers);
    assert_memory_equal(seen.phases, unseen.phases, sizeof seen.phases);
    assert_int_equal(seen.memory_bytes, unseen.memory_bytes);
    replay_result_free(&seen);
    replay_result_free(&unseen);
    replay_future_free(&future);
}

static void for_all(uint64_t seeds, void (*check)(const PackedTrace *trace, const Plan *plan))
{
    for (uint64_t seed = 0; seed < seeds; seed++) {
        PackedTrace trace = make_trace(seed);
        uint64_t state = 1000 + seed;
        for (const char *const *name = eviction_names(); *name != NULL; name++)
            for (int order = ORDER_SERIAL; order < REPLAY_ORDERS; order++) {
                if (eviction_needs_scores(*name))
                    continue;
                Plan plan = make_plan(&trace, *name, (ReplayOrder)order, &state);
                check(&trace, &plan);
                plan_free(&plan);
            }
        packed_trace_free(&trace);
    }
}

static void a_replay_without_observer_counts_the_same(void **unused)
{
    (void)unused;
    for_all(60, replay_twice);
}

/* Events of a trace on their way through two buffers. */
typedef struct {
    const PackedTrace *trace;
    const uint32_t *next_use;
    ExpertBuffer *one_by_one;
    ExpertBuffer *in_runs;
    BufferAction *actions;
    uint16_t *touches; /* [n_lookups] */
    uint8_t *hit;      /* [n_lookups] by runs */
    BufferSpan spans[STEPS * MAX_LAYERS];
} Pair;

/* Decides EVENT by both with its actions. */
static void decide_alike(Pair *pair, const PackedEvent *event)
{
    const BufferEvent asked = {
        .layer_index = event->layer_index,
        .n = event->n_active,
        .experts = event->experts,
        .next_use = pair->next_use != NULL ? pair->next_use + event->first_lookup : NULL,
        .touches = pair->touches + event->first_lookup};
    uint8_t hit[MAX_EXPERTS];
    uint32_t n_actions;
    uint32_t more_actions;
    uint32_t hits = buffer_event(pair->one_by_one, &asked, hit, pair->actions, &n_actions);
    assert_int_equal(buffer_event(pair->in_runs, &asked, pair->hit + event->first_lookup,
                                  pair->actions, &more_actions),
                     hits);
    assert_int_equal(n_actions, more_actions);
    assert_memory_equal(hit, pair->hit + event->first_lookup, event->n_active);
}

/* Decides the events of SPANS[n] by one buffer each alone, by the other as a run. */
static void decide_run(Pair *pair, const BufferSpan *spans, uint32_t n)
{
    const BufferRun run = {.spans = spans,
                           .n_spans = n,
                           .experts = pair->trace->experts,
                           .next_use = pair->next_use,
                           .touches = pair->touches,
                           .hit = pair->hit};
    buffer_run(pair->in_runs, &run);
    for (uint32_t i = 0; i < n; i++) {
        const BufferEvent asked = {
            .layer_index = spans[i].layer_index,
            .n = spans[i].n,
            .experts = pair->trace->experts + spans[i].first,
            .next_use = pair->next_use != NULL ? pair->next_use + spans[i].first : NULL,
            .touches = pair->touches + spans[i].first};
        uint8_t hit[MAX_EXPERTS];
        uint32_t n_actions;
        buffer_event(pair->one_by_one, &asked, hit, pair->actions, &n_actions);
        assert_memory_equal(hit, pair->hit + spans[i].first, spans[i].n);
    }
}

static void assert_same_buffers(const Pair *pair)
{
    for (uint32_t i = 0; i < pair->trace->n_layers; i++) {
        uint64_t lookups[2];
        uint64_t hits[2];
        buffer_tally(pair->one_by_one, i, &lookups[0], &hits[0]);
        buffer_tally(pair->in_runs, i, &lookups[1], &hits[1]);
        assert_int_equal(lookups[0], lookups[1]);
        assert_int_equal(hits[0], hits[1]);
        for (uint32_t e = 0; e < pair->trace->layers[i].experts; e++)
            assert_int_equal(buffer_slot_of(pair->one_by_one, i, e),
                             buffer_slot_of(pair->in_runs, i, e));
    }
}

static void read_touches(Pair *pair)
{
    PackedCursor cursor = packed_cursor(pair->trace);
    PackedEvent event;
    while (packed_next(&cursor, &event))
        packed_touches(&event, pair->touches + event.first_lookup);
}

/* Runs of random lengths, with events one by one in between. Where each layer has a scope, a run
 * has one layer of several steps, so a piece of so many steps is decided layer by layer. */
static void walk(Pair *pair, uint64_t *state)
{
    PackedCursor cursor = packed_cursor(pair->trace);
    PackedEvent event = {0};
    bool shared = buffer_is_shared(pair->in_runs);
    uint32_t n_layers = pair->trace->n_layers;
    for (uint32_t step = 0; step < STEPS;) {
        uint32_t steps = 1 + random_below(state, 12);
        uint32_t n = 0;
        steps = steps < STEPS - step ? steps : STEPS - step;
        step += steps;
        if (random_below(state, 4) == 0) {
            for (uint32_t i = 0; i < steps * n_layers && packed_next(&cursor, &event); i++)
                decide_alike(pair, &event);
            continue;
        }
        for (uint32_t i = 0; i < steps * n_layers && packed_next(&cursor, &event); i++, n++)
            pair->spans[shared ? n : event.layer_index * steps + n / n_layers] =
                (BufferSpan){(uint32_t)event.first_lookup, (uint16_t)event.n_active,
                             (uint16_t)event.layer_index};
        for (uint32_t layer = 0; layer < (shared ? 1 : n_layers); layer++)
            decide_run(pair, pair->spans + layer * steps, shared ? n : steps);
        assert_same_buffers(pair);
    }
}

static void walk_by_both(const PackedTrace *trace, const Plan *plan, bool plainly)
{
    static Pair pair;
    uint32_t *next_use = NULL;
    uint64_t state = trace->n_lookups;
    if (eviction_needs_future(plan->buffer.evict))
        assert_ok(packed_next_use(trace, plan->buffer.order == ORDER_SERIAL, &next_use));
    pair = (Pair){.trace = trace, .next_use = next_use};
    assert_ok(buffer_new(plan, trace->layers, trace->n_layers, &pair.one_by_one));
    assert_ok(buffer_new(plan, trace->layers, trace->n_layers, &pair.in_runs));
    assert_true(buffer_takes_runs(pair.in_runs));
    if (plainly)
        buffer_decide_plainly(pair.in_runs);
    size_t actions = buffer_max_actions(pair.one_by_one, trace->max_active);
    assert_ok(mem_new(&pair.actions, actions + 1, sizeof *pair.actions, "test"));
    assert_ok(mem_new(&pair.touches, trace->n_lookups, sizeof *pair.touches, "test"));
    assert_ok(mem_new(&pair.hit, trace->n_lookups, sizeof *pair.hit, "test"));
    read_touches(&pair);
    walk(&pair, &state);
    mem_free(pair.hit);
    mem_free(pair.touches);
    mem_free(pair.actions);
    buffer_free(pair.in_runs);
    buffer_free(pair.one_by_one);
    mem_free(next_use);
}

static void walk_twice(const PackedTrace *trace, const Plan *plan)
{
    walk_by_both(trace, plan, false);
    walk_by_both(trace, plan, true);
}

static void runs_and_single_events_leave_the_same_buffer(void **unused)
{
    (void)unused;
    for_all(40, walk_twice);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_replay_without_observer_counts_the_same),
        cmocka_unit_test(runs_and_single_events_leave_the_same_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
