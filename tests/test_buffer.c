/* The buffer's decisions: those of a plain reference, and what holds of all of them. */
#include "tests/reference_buffer.h"

#include <stdio.h>

#include "base/memory.h"
#include "sim/replay.h"
#include "tests/action_log.h"
#include "tests/buffer_maker.h"

static ReplayResult run_fast(const PackedTrace *trace, const Plan *plan)
{
    ReplayResult result;
    ReplayFuture future = {0};
    assert_ok(replay_prepare(trace, plan, &future));
    assert_ok(replay_run(trace, plan, &future, NULL, NULL, &result));
    replay_future_free(&future);
    return result;
}

static const char *describe(const Plan *plan, uint64_t seed)
{
    static char text[160];
    snprintf(text, sizeof text, "trace %llu: %s, order %s, scope %s, %u slots, %llu bytes",
             (unsigned long long)seed, plan->buffer.evict, plan_order_name(plan->buffer.order),
             plan_scope_name(plan->buffer.scope), plan->buffer.slots,
             (unsigned long long)plan->buffer.bytes);
    return text;
}

/* Calls CHECK for every policy, order, scope and several sizes on random traces. */
typedef void (*Check)(const RefTrace *trace, const Plan *plan, uint64_t seed);

static void for_all(uint64_t n_traces, uint32_t max_steps, Check check)
{
    static RefTrace trace;
    for (uint64_t seed = 1; seed <= n_traces; seed++) {
        uint64_t state = seed;
        ref_trace_make(&trace, seed, max_steps);
        for (const char *const *name = eviction_names(); *name != NULL; name++)
            for (int kind = 0; kind < 4 * REPLAY_ORDERS; kind++) {
                if (eviction_needs_scores(*name)) /* tests/test_signal_policies.c */
                    continue;
                ReplayOrder order = (ReplayOrder)(kind / 4);
                Plan plan = make_plan(*name, order, kind & 1 ? SCOPE_DEVICE : SCOPE_LAYER,
                                      1 + random_below(&state, kind & 1 ? 40 : 12));
                if (kind & 2) { /* experts take 100, 200 or 300 */
                    plan.buffer.bytes = 200 * plan.buffer.slots + random_below(&state, 200);
                    plan.buffer.bytes += order == ORDER_STAGED ? 1 : 300;
                    plan.buffer.slots = 0;
                }
                ref_random_learned(&trace, &state, &plan);
                check(&trace, &plan, seed);
                plan_free(&plan);
            }
        ref_trace_free(&trace);
    }
}

static bool is_same_action(const BufferAction *left, const BufferAction *right)
{
    return left->kind == right->kind && left->layer_index == right->layer_index &&
           left->expert == right->expert && left->slot == right->slot;
}

static void check_against_reference(const RefTrace *trace, const Plan *plan, uint64_t seed)
{
    static RefBuffer reference;
    ReplayResult result;
    Log log = run_logged(&trace->packed, plan, &result);
    ref_run(&reference, trace, plan);
    for (size_t i = 0; i < log.n && i < reference.n_actions; i++) {
        const BufferAction *is = &log.actions[i];
        const BufferAction *wanted = &reference.actions[i];
        if (!is_same_action(is, wanted))
            fail_msg("%s: action %zu: %s %u.%u in %u, the reference has %s %u.%u in %u",
                     describe(plan, seed), i, residency_kind_name(is->kind), is->layer_index,
                     is->expert, is->slot, residency_kind_name(wanted->kind), wanted->layer_index,
                     wanted->expert, wanted->slot);
    }
    assert_int_equal(log.n, reference.n_actions);
    assert_int_equal(result.total.counts.evicted_newest, reference.evicted_newest);
    assert_int_equal(result.total.counts.evicted_young, reference.evicted_young);
    replay_result_free(&result);
    free(reference.actions);
    free(log.actions);
}

static void every_decision_is_that_of_the_plain_reference(void **unused)
{
    (void)unused;
    for_all(150, 30, check_against_reference);
    for_all(6, 130, check_against_reference);
}

/* What the actions alone say must hold together. */
typedef struct {
    int64_t occupant[64]; /* of a slot: layer * REF_EXPERTS + expert, or -1 */
    uint64_t kinds[RESIDENCY_KINDS];
} Slots;

static void follow(Slots *slots, const BufferAction *action, uint32_t n_slots)
{
    int64_t who = action->layer_index * REF_EXPERTS + action->expert;
    slots->kinds[action->kind]++;
    if (action->kind == RESIDENCY_BYPASS) {
        assert_int_equal(action->slot, n_slots);
        return;
    }
    assert_true(action->slot < n_slots);
    int64_t *occupant = &slots->occupant[action->slot];
    assert_true(*occupant == (action->kind == RESIDENCY_LOAD ? -1 : who));
    for (uint32_t i = 0; action->kind == RESIDENCY_LOAD && i < n_slots; i++)
        assert_true(slots->occupant[i] != who);
    *occupant = action->kind == RESIDENCY_EVICT ? -1 : who;
}

/* Order staged evicts after the last lookup of an event. */
static bool is_late_eviction(const Plan *plan, const Log *log, size_t at)
{
    return plan->buffer.order == ORDER_STAGED && at < log->n &&
           log->actions[at].kind == RESIDENCY_EVICT;
}

/* Follows the log event by event: lookups exactly once each, in the order's sequence. */
static void follow_log(const RefTrace *trace, const Plan *plan, const ExpertBuffer *buffer,
                       const Log *log, Slots slots[REF_LAYERS])
{
    size_t at = 0;
    bool shared = plan->buffer.scope == SCOPE_DEVICE;
    for (uint32_t e = 0; e < trace->n_events; e++) {
        const RefEvent *event = &trace->events[e];
        uint32_t looked_up = 0;
        int last[2] = {-1, -1};
        while (looked_up < event->n || is_late_eviction(plan, log, at)) {
            assert_true(at < log->n);
            const BufferAction *action = &log->actions[at++];
            uint32_t scope = shared ? 0 : action->layer_index;
            assert_true(shared || action->layer_index == event->layer);
            follow(&slots[scope], action, buffer_slots(buffer, event->layer));
            if (action->kind == RESIDENCY_EVICT && plan->buffer.order == ORDER_STAGED) {
                assert_int_equal(looked_up, event->n);
                for (uint32_t i = 0; i < event->n; i++)
                    assert_true(action->layer_index != event->layer ||
                                action->expert != event->experts[i]);
                continue;
            }
            if (action->kind == RESIDENCY_EVICT) {
                bool same_size = plan->buffer.bytes == 0 || !shared;
                uint8_t next = log->actions[at].kind;
                assert_true(next == RESIDENCY_LOAD || (!same_size && next != RESIDENCY_HIT));
                if (next == RESIDENCY_LOAD)
                    assert_int_equal(log->actions[at].slot, action->slot);
                continue;
            }
            int missed = action->kind != RESIDENCY_HIT;
            assert_int_equal(action->layer_index, event->layer);
            if (plan->buffer.order == ORDER_SERIAL)
                assert_int_equal(action->expert, event->experts[looked_up]);
            assert_true(action->expert > last[missed]);
            assert_true(plan->buffer.order == ORDER_SERIAL || missed || last[1] == -1);
            last[missed] = action->expert;
            looked_up++;
        }
    }
    assert_int_equal(at, log->n);
}

/* The residents that the plan begins with, which lie in slots of their own. */
static void begin_with(const RefTrace *trace, const Plan *plan, const ExpertBuffer *buffer,
                       Slots slots[REF_LAYERS])
{
    for (uint32_t l = 0; l < trace->n_layers; l++)
        for (uint32_t e = 0; e < trace->layers[l].experts; e++) {
            uint32_t slot = buffer_slot_of(buffer, l, e);
            Slots *scope = &slots[plan->buffer.scope == SCOPE_DEVICE ? 0 : l];
            assert_true((slot != BUFFER_NO_SLOT) ==
                        ref_is_listed(trace, plan->buffer.initial.table, l, e));
            if (slot == BUFFER_NO_SLOT)
                continue;
            assert_true(slot < buffer_slots(buffer, l) && scope->occupant[slot] == -1);
            scope->occupant[slot] = l * REF_EXPERTS + e;
        }
}

static void check_consistency(const RefTrace *trace, const Plan *plan, uint64_t seed)
{
    (void)seed;
    Slots slots[REF_LAYERS];
    memset(slots, 0, sizeof slots);
    for (size_t i = 0; i < REF_LAYERS; i++)
        memset(slots[i].occupant, 0xFF, sizeof slots[i].occupant);
    ExpertBuffer *buffer;
    ReplayResult result;
    assert_ok(buffer_new(plan, trace->layers, trace->n_layers, &buffer));
    begin_with(trace, plan, buffer, slots);
    Log log = run_logged(&trace->packed, plan, &result);
    follow_log(trace, plan, buffer, &log, slots);
    uint64_t kinds[RESIDENCY_KINDS] = {0};
    for (size_t i = 0; i < REF_LAYERS; i++)
        for (size_t k = 0; k < RESIDENCY_KINDS; k++)
            kinds[k] += slots[i].kinds[k];
    const BufferCounts *counts = &result.total.counts;
    assert_int_equal(counts->hits, kinds[RESIDENCY_HIT]);
    assert_int_equal(counts->misses, kinds[RESIDENCY_LOAD] + kinds[RESIDENCY_BYPASS]);
    assert_int_equal(counts->loads, counts->misses);
    assert_int_equal(counts->bypasses, kinds[RESIDENCY_BYPASS]);
    assert_int_equal(counts->evictions, kinds[RESIDENCY_EVICT]);
    assert_true(counts->bypasses == 0 || buffer_uses_staging(buffer));
    assert_int_equal(counts->hits + counts->misses, trace->packed.n_lookups);
    buffer_free(buffer);
    replay_result_free(&result);
    free(log.actions);
}

static void actions_hold_together(void **unused)
{
    (void)unused;
    for_all(80, 30, check_consistency);
}

/* Assignments and bytes, counted from the routing itself. */
static void check_sums(const RefTrace *trace, const Plan *plan, uint64_t seed)
{
    ReplayResult logged;
    ReplayResult fast = run_fast(&trace->packed, plan);
    Log log = run_logged(&trace->packed, plan, &logged);
    uint64_t assignments = 0;
    uint64_t assignment_hits = 0;
    uint64_t bytes = 0;
    size_t at = 0;
    for (uint32_t e = 0; e < trace->n_events; e++) {
        const RefEvent *event = &trace->events[e];
        for (uint32_t done = 0; done < event->n; at++) {
            const BufferAction *action = &log.actions[at];
            if (action->kind == RESIDENCY_EVICT)
                continue;
            for (uint32_t i = 0; i < event->n_touches; i++)
                if (event->touches[i] == action->expert) {
                    assignments++;
                    assignment_hits += action->kind == RESIDENCY_HIT;
                }
            if (action->kind != RESIDENCY_HIT)
                bytes += trace->layers[event->layer].expert_bytes;
            done++;
        }
    }
    if (fast.total.assignment_hits != assignment_hits)
        fail_msg("%s: assignment hits", describe(plan, seed));
    assert_int_equal(fast.total.assignments, assignments);
    assert_int_equal(fast.total.counts.bytes_loaded, bytes);
    assert_memory_equal(&fast.total, &logged.total, sizeof fast.total);
    assert_memory_equal(fast.layers, logged.layers, fast.n_layers * sizeof *fast.layers);
    replay_result_free(&fast);
    replay_result_free(&logged);
    free(log.actions);
}

static void sums_are_those_of_the_routing_with_and_without_an_observer(void **unused)
{
    (void)unused;
    for_all(40, 30, check_sums);
}

static uint64_t misses_of(const PackedTrace *trace, const Plan *plan)
{
    ReplayResult result = run_fast(trace, plan);
    uint64_t misses = result.total.counts.misses;
    replay_result_free(&result);
    return misses;
}

static void belady_never_loses_in_serial_order_by_layer(void **unused)
{
    (void)unused;
    static RefTrace trace;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        ref_trace_make(&trace, 1000 + seed, 40);
        for (uint32_t slots = 1; slots <= 12; slots++) {
            Plan plan = make_plan("belady", ORDER_SERIAL, SCOPE_LAYER, slots);
            uint64_t bound = misses_of(&trace.packed, &plan);
            for (const char *const *name = eviction_names(); *name != NULL; name++) {
                if (eviction_needs_scores(*name))
                    continue;
                plan = make_plan(*name, ORDER_SERIAL, SCOPE_LAYER, slots);
                if (misses_of(&trace.packed, &plan) < bound)
                    fail_msg("%s beats belady", describe(&plan, seed));
            }
        }
        ref_trace_free(&trace);
    }
}

enum { TINY_EXPERTS = 6, TINY_SETS = 1 << TINY_EXPERTS };

/* The fewest misses that any choice of victims can reach, by trying all of them: COST[s] is the
 * fewest so far with the set s resident. */
static uint64_t fewest_misses(const uint16_t *lookups, uint32_t n, uint32_t slots, bool may_bypass)
{
    uint64_t cost[TINY_SETS];
    memset(cost, 0xFF, sizeof cost);
    cost[0] = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t next[TINY_SETS];
        uint32_t bit = 1u << lookups[i];
        memset(next, 0xFF, sizeof next);
        for (uint32_t set = 0; set < TINY_SETS; set++) {
            if (cost[set] == UINT64_MAX)
                continue;
            uint64_t more = cost[set] + !(set & bit);
            uint32_t full = set | bit;
            bool fits = (uint32_t)__builtin_popcount(full) <= slots;
            if ((fits || (may_bypass && !(set & bit))) && more < next[fits ? full : set])
                next[fits ? full : set] = more;
            for (uint32_t e = 0; e < TINY_EXPERTS && !fits; e++) {
                uint32_t left = (set & ~(1u << e)) | bit;
                if ((set >> e & 1) && more < next[left])
                    next[left] = more;
            }
        }
        memcpy(cost, next, sizeof cost);
    }
    uint64_t least = UINT64_MAX;
    for (uint32_t set = 0; set < TINY_SETS; set++)
        least = cost[set] < least ? cost[set] : least;
    return least;
}

static void belady_is_the_optimum_of_all_choices_on_small_traces(void **unused)
{
    (void)unused;
    TraceLayer layer = {.experts = TINY_EXPERTS, .top_k = 1, .expert_bytes = 1};
    for (uint64_t seed = 1; seed <= 500; seed++) {
        uint64_t state = seed;
        uint16_t lookups[24];
        uint32_t zero = 0;
        PackedTrace trace;
        assert_ok(packed_trace_new(&layer, 1, &trace));
        uint32_t n = 4 + random_below(&state, 21);
        for (uint32_t i = 0; i < n; i++) {
            lookups[i] = (uint16_t)random_below(&state, TINY_EXPERTS);
            TraceStep step = {.step = i,
                              .phase = PHASE_DECODE,
                              .tokens = 1,
                              .request = &zero,
                              .position = &i,
                              .experts = &lookups[i]};
            assert_ok(packed_trace_add_step(&trace, &step));
        }
        for (uint32_t slots = 1; slots < TINY_EXPERTS; slots++)
            for (int order = ORDER_SERIAL; order <= ORDER_BATCH; order++) {
                Plan plan = make_plan("belady", (ReplayOrder)order, SCOPE_LAYER, slots);
                assert_int_equal(misses_of(&trace, &plan), fewest_misses(lookups, n, slots, true));
                plan = make_plan("belady-admit", (ReplayOrder)order, SCOPE_LAYER, slots);
                assert_int_equal(misses_of(&trace, &plan), fewest_misses(lookups, n, slots, false));
            }
        packed_trace_free(&trace);
    }
}

/* A lookup that hits with K slots hits with K + 1: the stack policies (Mattson et al. 1970). */
static void more_slots_lose_no_hit_of_a_stack_policy_in_serial_order(void **unused)
{
    (void)unused;
    static RefTrace trace;
    static const char *const STACK[] = {"lru", "mru", "lfu", "belady", "belady-admit"};
    for (uint64_t seed = 1; seed <= 80; seed++) {
        ref_trace_make(&trace, 5000 + seed, 40);
        for (size_t p = 0; p < sizeof STACK / sizeof STACK[0]; p++)
            for (int scope = SCOPE_LAYER; scope <= SCOPE_DEVICE; scope++) {
                uint64_t before = UINT64_MAX;
                for (uint32_t slots = 1; slots <= 20; slots++) {
                    Plan plan = make_plan(STACK[p], ORDER_SERIAL, (BufferScopeKind)scope, slots);
                    uint64_t misses = misses_of(&trace.packed, &plan);
                    if (misses > before)
                        fail_msg("%s: more misses than with one slot less", describe(&plan, seed));
                    before = misses;
                }
            }
        ref_trace_free(&trace);
    }
}

static void seeds_fix_every_random_choice(void **unused)
{
    (void)unused;
    static RefTrace trace;
    uint32_t different = 0;
    ref_trace_make(&trace, 99, 90);
    for (int order = ORDER_SERIAL; order <= ORDER_BATCH; order++) {
        Plan plan = make_plan("random", (ReplayOrder)order, SCOPE_LAYER, 2);
        ReplayResult result;
        Log first = run_logged(&trace.packed, &plan, &result);
        replay_result_free(&result);
        Log second = run_logged(&trace.packed, &plan, &result);
        replay_result_free(&result);
        assert_int_equal(first.n, second.n);
        assert_memory_equal(first.actions, second.actions, first.n * sizeof *first.actions);
        plan.seed++;
        Log third = run_logged(&trace.packed, &plan, &result);
        replay_result_free(&result);
        different += first.n != third.n ||
                     memcmp(first.actions, third.actions, first.n * sizeof *first.actions) != 0;
        free(first.actions);
        free(second.actions);
        free(third.actions);
    }
    assert_int_equal(different, 2);
    ref_trace_free(&trace);
}

/* Feeds the whole trace to BUFFER; the log as in run_logged(). */
static Log feed(ExpertBuffer *buffer, const PackedTrace *trace, const uint32_t *next_use)
{
    Log log = {.actions =
                   calloc(2 * trace->n_lookups + REF_LAYERS * REF_EXPERTS, sizeof *log.actions)};
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    while (packed_next(&cursor, &event)) {
        uint32_t n_actions;
        uint16_t touches[REF_EXPERTS];
        packed_touches(&event, touches);
        const BufferEvent asked = {.layer_index = event.layer_index,
                                   .n = event.n_active,
                                   .experts = event.experts,
                                   .next_use = next_use + event.first_lookup,
                                   .touches = touches};
        buffer_event(buffer, &asked, NULL, log.actions + log.n, &n_actions);
        assert_true(n_actions <= buffer_max_actions(buffer, event.n_active));
        log.n += n_actions;
    }
    return log;
}

static void check_reset(const RefTrace *trace, const Plan *plan, uint64_t seed)
{
    ExpertBuffer *buffer;
    uint32_t *next_use;
    (void)seed;
    assert_ok(buffer_new(plan, trace->layers, trace->n_layers, &buffer));
    assert_ok(packed_next_use(&trace->packed, plan->buffer.order == ORDER_SERIAL, &next_use));
    Log fresh = feed(buffer, &trace->packed, next_use);
    BufferCounts counts = counts_of_all(buffer, trace->n_layers);
    buffer_reset(buffer);
    BufferCounts none = counts_of_all(buffer, trace->n_layers);
    assert_int_equal(none.hits + none.misses + none.loads + none.evictions, 0);
    Log again = feed(buffer, &trace->packed, next_use);
    BufferCounts after = counts_of_all(buffer, trace->n_layers);
    assert_int_equal(fresh.n, again.n);
    assert_memory_equal(fresh.actions, again.actions, fresh.n * sizeof *fresh.actions);
    assert_memory_equal(&counts, &after, sizeof counts);
    free(fresh.actions);
    free(again.actions);
    mem_free(next_use);
    buffer_free(buffer);
}

static void a_reset_buffer_decides_as_a_fresh_one(void **unused)
{
    (void)unused;
    for_all(20, 30, check_reset);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_decision_is_that_of_the_plain_reference),
        cmocka_unit_test(actions_hold_together),
        cmocka_unit_test(sums_are_those_of_the_routing_with_and_without_an_observer),
        cmocka_unit_test(belady_never_loses_in_serial_order_by_layer),
        cmocka_unit_test(belady_is_the_optimum_of_all_choices_on_small_traces),
        cmocka_unit_test(more_slots_lose_no_hit_of_a_stack_policy_in_serial_order),
        cmocka_unit_test(seeds_fix_every_random_choice),
        cmocka_unit_test(a_reset_buffer_decides_as_a_fresh_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
