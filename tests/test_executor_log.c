/* What the executor tells of slots, loads and its host. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <string.h>

#include "base/memory.h"
#include "traces/ops.h"
#include "policies/buffer.h"
#include "tests/small_executor.h"
#include "tests/executor_maker.h"

/* A model of the log: which expert each slot holds. */
typedef struct {
    int64_t held[LAYERS * EXPERTS + 1]; /* layer * EXPERTS + expert, -1: nothing */
} Slots;

static bool is_held(const Slots *slots, uint32_t n, int64_t object)
{
    for (uint32_t i = 0; i < n; i++)
        if (slots->held[i] == object)
            return true;
    return false;
}

/* Checks the records of one layer's event, SLOTS being those of its scope. */
static void follow_record(Slots *slots, uint32_t n_slots, const ResidencyRecord *record,
                          uint64_t expert_bytes)
{
    int64_t object = (int64_t)record->layer * EXPERTS + record->expert;
    int64_t *here = &slots->held[record->slot];
    bool staged = record->kind == RESIDENCY_BYPASS;
    assert_true(staged ? record->slot == n_slots : record->slot < n_slots);
    switch (record->kind) {
    case RESIDENCY_HIT:
        assert_true(*here == object);
        assert_true(record->bytes == 0);
        break;
    case RESIDENCY_EVICT:
        assert_true(*here == object);
        *here = -1;
        break;
    case RESIDENCY_LOAD:
        assert_true(*here == -1 && !is_held(slots, n_slots, object));
        assert_true(record->bytes == expert_bytes && record->start_ns > 0);
        *here = object;
        break;
    case RESIDENCY_BYPASS:
        assert_true(!is_held(slots, n_slots, object));
        assert_true(record->bytes == expert_bytes && record->start_ns > 0);
        break;
    default:
        fail_msg("kind %u", record->kind);
    }
}

/* Runs random steps and follows the log: each needed expert is looked up once, and slots hold what
 * the records say. */
static void follow(const Plan *plan)
{
    Executor *executor = open_executor(plan);
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(executor, &n_layers);
    bool shared = plan->buffer.scope == SCOPE_DEVICE;
    uint32_t most = shared ? LAYERS * EXPERTS : EXPERTS;
    uint32_t n_slots = plan->buffer.slots < most ? plan->buffer.slots : most;
    Slots slots[LAYERS];
    memset(slots, 0xFF, sizeof slots);
    uint64_t random = 3;
    assert_int_equal(n_layers, LAYERS);
    for (uint32_t step = 0; step < 30; step++) {
        Small small = {.tokens = 1 + random_below(&random, 4)};
        for (uint32_t i = 0; i < small.tokens; i++) {
            small.token[i] = random_below(&random, VOCABULARY);
            small.kv_slot[i] = step % MAX_REQUESTS;
            small.position[i] = i;
        }
        StepInput input = small_input(&small);
        StepOutput output;
        assert_ok(executor_step(executor, &input, &output));
        executor_release(executor, step % MAX_REQUESTS);
        bool needed[LAYERS][EXPERTS] = {{false}};
        for (size_t at = 0; at < (size_t)LAYERS * small.tokens * TOP_K; at++)
            needed[at / (small.tokens * TOP_K)][output.experts[at]] = true;
        for (size_t i = 0; i < output.n_residency; i++) {
            const ResidencyRecord *record = &output.residency[i];
            follow_record(&slots[shared ? 0 : record->layer], n_slots, record,
                          layers[record->layer].expert_bytes);
            if (record->kind == RESIDENCY_EVICT)
                continue;
            assert_true(needed[record->layer][record->expert]);
            needed[record->layer][record->expert] = false;
        }
        for (size_t i = 0; i < (size_t)LAYERS * EXPERTS; i++)
            assert_false(needed[i / EXPERTS][i % EXPERTS]);
    }
    executor_close(executor);
}

static void the_log_tells_what_every_slot_holds(void **state)
{
    (void)state;
    static const uint32_t SLOTS[] = {1, 2, 4, 8, 24};
    for (const char *const *evict = eviction_names(); *evict != NULL; evict++)
        for (int kind = 0; kind < 4 && !eviction_needs_future(*evict); kind++)
            for (size_t i = 0; i < sizeof SLOTS / sizeof SLOTS[0]; i++) {
                Plan plan = plan_default();
                plan.buffer.on = true;
                plan.buffer.order = kind / 2 ? ORDER_SERIAL : ORDER_BATCH;
                plan.buffer.scope = kind % 2 ? SCOPE_DEVICE : SCOPE_LAYER;
                plan.buffer.slots = SLOTS[i];
                snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", *evict);
                follow(&plan);
            }
}

static void a_load_takes_as_long_as_the_link_would(void **state)
{
    (void)state;
    static const Small one = {1, {5}, {0}, {0}};
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 2;
    plan.link.h2d_gb_per_s = 0.002;
    Executor *executor = open_executor(&plan);
    StepInput input = small_input(&one);
    StepOutput output;
    assert_ok(executor_step(executor, &input, &output));
    assert_int_equal(output.n_residency, LAYERS * TOP_K);
    uint64_t loads_ns = 0;
    for (size_t i = 0; i < output.n_residency; i++) {
        const ResidencyRecord *record = &output.residency[i];
        assert_int_equal(record->kind, RESIDENCY_LOAD);
        assert_true(record->duration_ns >= (uint64_t)((double)record->bytes / 0.002));
        loads_ns += record->duration_ns;
    }
    assert_true(output.duration_ns >= loads_ns);
    executor_close(executor);
}

static bool lies_in(const HostSpan *inner, const HostSpan *outer)
{
    return inner->start_ns >= outer->start_ns &&
           inner->start_ns + inner->duration_ns <= outer->start_ns + outer->duration_ns;
}

/* Operations follow each other within the queueing; an event's wait, decisions and loads lie within
 * the layer's experts, but for small prefetches: those are begun while the host waits for the next
 * event. */
static void check_host_times(const StepOutput *output, bool prefetches)
{
    const HostTimes *host = &output->host;
    uint32_t loads = 0;
    uint32_t event = 0;
    for (size_t i = 0; i < output->n_timing; i++) {
        assert_true(lies_in(&host->ops[i], &host->queue));
        assert_true(i == 0 || host->ops[i].start_ns >=
                                  host->ops[i - 1].start_ns + host->ops[i - 1].duration_ns);
        if (output->timing[i].op != OP_EXPERTS || host->n_events == 0)
            continue;
        const HostEvent *at = &host->events[event++];
        assert_int_equal(at->layer, output->timing[i].layer);
        assert_int_equal(at->first_load, loads);
        assert_true(at->active > 0 && at->active <= EXPERTS);
        assert_true(lies_in(&at->wait, &host->ops[i]) && lies_in(&at->decide, &host->ops[i]));
        assert_true(at->decide.start_ns >= at->wait.start_ns + at->wait.duration_ns);
        const HostSpan *within = prefetches ? &host->queue : &host->ops[i];
        for (uint32_t end = loads + at->n_loads; loads < end; loads++)
            assert_true(lies_in(&host->loads[loads], within) &&
                        host->loads[loads].start_ns >=
                            at->decide.start_ns + at->decide.duration_ns);
    }
    assert_int_equal(event, host->n_events);
    assert_int_equal(loads, host->n_loads);
    assert_true(host->wait.start_ns >= host->queue.start_ns + host->queue.duration_ns);
    assert_true(host->wait.start_ns + host->wait.duration_ns <=
                output->start_ns + output->duration_ns + 1000000);
}

static void the_host_tells_when_it_queued_waited_decided_and_loaded(void **state)
{
    (void)state;
    static const Small small = {3, {5, 6, 7}, {0, 0, 2}, {0, 1, 0}};
    static const struct {
        uint32_t slots; /* 0: no buffer */
        const char *predictor;
    } cases[] = {{0, "none"}, {2, "none"}, {3, "frequency"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Plan plan = plan_default();
        plan.buffer.on = cases[i].slots > 0;
        plan.buffer.slots = cases[i].slots;
        snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", cases[i].predictor);
        Executor *executor = open_executor(&plan);
        size_t n_ops = 0;
        for (int step = 0; step < 3; step++) {
            StepInput input = small_input(&small);
            StepOutput output;
            size_t loads = 0;
            input.timing = true;
            input.held = step == 1;
            assert_ok(executor_step(executor, &input, &output));
            assert_int_equal(output.host.n_ops, output.n_timing);
            n_ops = output.n_timing;
            for (size_t r = 0; r < output.n_residency; r++)
                loads += output.residency[r].bytes > 0;
            assert_int_equal(output.host.n_loads, loads);
            assert_int_equal(output.host.n_events, cases[i].slots > 0 ? LAYERS : 0);
            check_host_times(&output, plan_prefetches(&plan));
            executor_release(executor, 0);
            executor_release(executor, 2);
        }
        /* Without stamps it tells so where it waits. */
        StepInput input = small_input(&small);
        StepOutput output;
        assert_ok(executor_step(executor, &input, &output));
        assert_int_equal(output.host.n_ops, cases[i].slots > 0 ? n_ops : 0);
        for (size_t op = 0; op < output.host.n_ops; op++)
            assert_true(lies_in(&output.host.ops[op], &output.host.queue));
        executor_close(executor);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_log_tells_what_every_slot_holds),
        cmocka_unit_test(a_load_takes_as_long_as_the_link_would),
        cmocka_unit_test(the_host_tells_when_it_queued_waited_decided_and_loaded),
    };
    return cmocka_run_group_tests(tests, make_model, close_model);
}
