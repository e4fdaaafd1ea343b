/* The discrete-event engine against a plain simulation that looks at every task for every event. */
#include "tests/support.h"

#include <string.h>

#include "base/memory.h"
#include "sim/engine.h"

/* ---- the plain reference ---- */

enum { MOST_TASKS = 600, MOST_AFTER = 6, MOST_RESOURCES = 5 };

typedef enum { ABSENT, WAITS, RUNS, OVER } PlainState;

typedef struct {
    EngineSpec spec;
    PlainState state;
    uint32_t after[MOST_AFTER];
    uint32_t n_after;
    bool ready;
    uint64_t ready_ns;
    uint64_t readied; /* the order of becoming ready */
    uint64_t start_ns;
    uint64_t end_ns;
} PlainTask;

typedef struct {
    EngineResource resources[MOST_RESOURCES];
    uint32_t n_resources;
    PlainTask tasks[MOST_TASKS];
    uint32_t n;
    uint64_t now_ns;
    uint64_t readied;
} Plain;

static bool plain_is_ready(const Plain *plain, const PlainTask *task)
{
    for (uint32_t i = 0; i < task->n_after; i++)
        if (plain->tasks[task->after[i]].state != OVER)
            return false;
    return true;
}

static uint32_t plain_running(const Plain *plain, uint32_t resource)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < plain->n; i++)
        n += plain->tasks[i].state == RUNS && plain->tasks[i].spec.resource == resource;
    return n;
}

/* The task that the resource would begin next; NULL: none may. */
static PlainTask *plain_choice(Plain *plain, uint32_t resource)
{
    PlainTask *best = NULL;
    bool stream = plain->resources[resource].queue == ENGINE_STREAM;
    for (uint32_t i = 0; i < plain->n; i++) {
        PlainTask *task = &plain->tasks[i];
        if (task->state != WAITS || task->spec.resource != resource)
            continue;
        if (stream)
            return task->ready ? task : NULL;
        if (task->ready &&
            (best == NULL || task->spec.priority < best->spec.priority ||
             (task->spec.priority == best->spec.priority && task->readied < best->readied)))
            best = task;
    }
    return best;
}

static void plain_start(const Plain *plain, PlainTask *task)
{
    task->state = RUNS;
    task->start_ns = plain->now_ns;
    task->end_ns = plain->now_ns + task->spec.duration_ns;
}

/* Marks what is ready, then begins all that can. */
static void plain_settle(Plain *plain)
{
    for (uint32_t i = 0; i < plain->n; i++) {
        PlainTask *task = &plain->tasks[i];
        if (task->state != WAITS || task->ready || !plain_is_ready(plain, task))
            continue;
        task->ready = true;
        task->ready_ns = plain->now_ns;
        task->readied = plain->readied++;
        if (task->spec.resource == ENGINE_NO_RESOURCE)
            plain_start(plain, task);
    }
    for (uint32_t r = 0; r < plain->n_resources; r++)
        while (plain_running(plain, r) < plain->resources[r].servers) {
            PlainTask *task = plain_choice(plain, r);
            if (task == NULL)
                break;
            plain_start(plain, task);
        }
}

static void plain_add(Plain *plain, const EngineSpec *spec, const uint32_t *after, uint32_t n_after)
{
    PlainTask *task = &plain->tasks[plain->n++];
    *task = (PlainTask){.spec = *spec, .state = WAITS, .n_after = n_after};
    memcpy(task->after, after, n_after * sizeof *after);
    plain_settle(plain);
}

static bool plain_cancel(Plain *plain, uint32_t index)
{
    if (plain->tasks[index].state != WAITS)
        return false;
    plain->tasks[index].state = OVER;
    plain_settle(plain);
    return true;
}

/* The index of the task that ends next; MOST_TASKS: nothing runs. */
static uint32_t plain_next(Plain *plain)
{
    uint32_t best = MOST_TASKS;
    for (uint32_t i = 0; i < plain->n; i++) {
        const PlainTask *task = &plain->tasks[i];
        const PlainTask *other = &plain->tasks[best == MOST_TASKS ? 0 : best];
        if (task->state == RUNS &&
            (best == MOST_TASKS || task->end_ns < other->end_ns ||
             (task->end_ns == other->end_ns && task->spec.priority < other->spec.priority)))
            best = i;
    }
    if (best == MOST_TASKS)
        return best;
    plain->tasks[best].state = OVER;
    plain->now_ns = plain->tasks[best].end_ns;
    plain_settle(plain);
    return best;
}

/* ---- random programs on both ---- */

typedef struct {
    Plain plain;
    Engine *engine;
    EngineTask names[MOST_TASKS];
    uint64_t random;
} Both;

static void open_both(Both *both, uint64_t seed)
{
    *both = (Both){.random = seed};
    Plain *plain = &both->plain;
    plain->n_resources = 1 + random_below(&both->random, MOST_RESOURCES);
    for (uint32_t i = 0; i < plain->n_resources; i++) {
        bool stream = random_below(&both->random, 2) == 0;
        plain->resources[i] =
            (EngineResource){.queue = stream ? ENGINE_STREAM : ENGINE_PRIORITY,
                             .servers = stream ? 1 : 1 + random_below(&both->random, 3)};
    }
    assert_ok(engine_new(plain->resources, plain->n_resources, &both->engine));
}

/* Short times, so that many events fall together. */
static void add_random(Both *both)
{
    Plain *plain = &both->plain;
    uint32_t index = plain->n;
    uint32_t after[MOST_AFTER];
    EngineTask names[MOST_AFTER];
    uint32_t n_after = index > 0 ? random_below(&both->random, MOST_AFTER) : 0;
    const EngineSpec spec = {.resource = random_below(&both->random, 8) == 0
                                             ? ENGINE_NO_RESOURCE
                                             : random_below(&both->random, plain->n_resources),
                             .priority = random_below(&both->random, 3),
                             .duration_ns = random_below(&both->random, 6),
                             .tag = index};
    for (uint32_t i = 0; i < n_after; i++) {
        uint32_t back = random_below(&both->random, index < 12 ? index : 12);
        after[i] = index - 1 - back;
        names[i] = both->names[after[i]];
    }
    plain_add(plain, &spec, after, n_after);
    assert_ok(engine_add(both->engine, &spec, names, n_after, &both->names[index]));
}

static void cancel_random(Both *both)
{
    if (both->plain.n == 0)
        return;
    uint32_t index = random_below(&both->random, both->plain.n);
    assert_int_equal(engine_cancel(both->engine, both->names[index]),
                     plain_cancel(&both->plain, index));
}

static void check_begun(const Both *both, uint32_t index)
{
    const PlainTask *task = &both->plain.tasks[index];
    uint64_t end_ns = 0;
    assert_int_equal(engine_begun(both->engine, both->names[index], &end_ns), task->state == RUNS);
    if (task->state == RUNS)
        assert_int_equal(end_ns, task->end_ns);
}

static void step_both(Both *both)
{
    EngineEvent event;
    uint32_t index = plain_next(&both->plain);
    bool more = engine_next(both->engine, &event);
    assert_int_equal(more, index != MOST_TASKS);
    if (!more)
        return;
    const PlainTask *task = &both->plain.tasks[index];
    assert_int_equal(event.tag, index);
    assert_true(event.task == both->names[index]);
    assert_int_equal(event.resource, task->spec.resource);
    assert_int_equal(event.ready_ns, task->ready_ns);
    assert_int_equal(event.start_ns, task->start_ns);
    assert_int_equal(event.end_ns, task->end_ns);
    assert_int_equal(engine_now(both->engine), task->end_ns);
    check_begun(both, random_below(&both->random, both->plain.n));
}

static void check_ends(Both *both)
{
    for (uint32_t i = 0; i < both->plain.n; i++) {
        assert_int_equal(both->plain.tasks[i].state, OVER);
        check_begun(both, i);
    }
    assert_int_equal(engine_pending(both->engine), 0);
}

static void run_both(uint64_t seed)
{
    static Both both;
    open_both(&both, seed);
    uint32_t burst = 1 + random_below(&both.random, 40);
    while (both.plain.n < MOST_TASKS) {
        for (uint32_t i = 1 + random_below(&both.random, burst); i > 0 && both.plain.n < MOST_TASKS;
             i--)
            add_random(&both);
        if (random_below(&both.random, 4) == 0)
            cancel_random(&both);
        for (uint32_t i = random_below(&both.random, burst); i > 0; i--)
            step_both(&both);
    }
    while (engine_pending(both.engine) > 0)
        step_both(&both);
    check_ends(&both);
    engine_free(both.engine);
}

static void random_task_graphs_end_as_in_the_plain_simulation(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= (exhaustive() ? 2000 : 60); seed++)
        run_both(seed);
}

/* ---- rules by themselves ---- */

static EngineTask add(Engine *engine, uint32_t resource, uint32_t priority, uint64_t ns,
                      uint64_t tag, EngineTask after)
{
    EngineTask task;
    assert_ok(engine_add(
        engine,
        &(EngineSpec){.resource = resource, .priority = priority, .duration_ns = ns, .tag = tag},
        &after, 1, &task));
    return task;
}

static void a_demand_goes_before_prefetches_that_have_not_begun(void **unused)
{
    (void)unused;
    static const uint64_t ORDER[] = {1, 9, 2, 3};
    static const uint64_t ENDS[] = {10, 15, 25, 35};
    const EngineResource link = {.queue = ENGINE_PRIORITY, .servers = 1};
    Engine *engine;
    EngineEvent event;
    assert_ok(engine_new(&link, 1, &engine));
    for (uint64_t tag = 1; tag <= 3; tag++)
        add(engine, 0, 1, 10, tag, 0);
    add(engine, 0, 0, 5, 9, 0);
    for (size_t i = 0; i < 4; i++) {
        assert_true(engine_next(engine, &event));
        assert_int_equal(event.tag, ORDER[i]);
        assert_int_equal(event.end_ns, ENDS[i]);
    }
    assert_false(engine_next(engine, &event));
    engine_free(engine);
}

static void the_head_of_a_stream_holds_up_the_rest(void **unused)
{
    (void)unused;
    const EngineResource streams[] = {{ENGINE_STREAM, 1}, {ENGINE_STREAM, 1}};
    Engine *engine;
    EngineEvent event;
    assert_ok(engine_new(streams, 2, &engine));
    EngineTask copy = add(engine, 1, 0, 100, 1, 0);
    EngineTask held = add(engine, 0, 0, 7, 2, copy);
    add(engine, 0, 0, 7, 3, 0);
    uint64_t end_ns;
    assert_false(engine_begun(engine, held, &end_ns));
    assert_true(engine_begun(engine, copy, &end_ns) && end_ns == 100);
    for (uint64_t tag = 1; tag <= 3; tag++) {
        assert_true(engine_next(engine, &event));
        assert_int_equal(event.tag, tag);
    }
    assert_int_equal(event.end_ns, 114);
    engine_free(engine);
}

static void tasks_under_way_in_equal_number_take_no_more_memory(void **unused)
{
    (void)unused;
    const EngineResource streams[] = {{ENGINE_STREAM, 1}, {ENGINE_PRIORITY, 2}};
    Engine *engine;
    EngineEvent event;
    EngineTask last = 0;
    uint64_t before = 0;
    assert_ok(engine_new(streams, 2, &engine));
    for (int i = 0; i < 20000; i++) {
        last = add(engine, (uint32_t)i % 2, (uint32_t)i % 3, 5, 0, last);
        if (engine_pending(engine) > 50)
            assert_true(engine_next(engine, &event));
        if (i == 1000)
            before = mem_allocations();
    }
    assert_int_equal(mem_allocations(), before);
    engine_free(engine);
}

static void memory_that_ends_is_told_and_nothing_is_lost(void **unused)
{
    (void)unused;
    const EngineResource pool = {ENGINE_PRIORITY, 2};
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Engine *engine = NULL;
        EngineTask tasks[100] = {0};
        Status status = engine_new(&pool, 1, &engine);
        for (uint32_t i = 0; status == OK && i < 100; i++)
            status = engine_add(engine, &(EngineSpec){.duration_ns = 1}, tasks, i, &tasks[i]);
        failing_end(&failing, status);
        if (engine != NULL)
            engine_free(engine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_task_graphs_end_as_in_the_plain_simulation),
        cmocka_unit_test(a_demand_goes_before_prefetches_that_have_not_begun),
        cmocka_unit_test(the_head_of_a_stream_holds_up_the_rest),
        cmocka_unit_test(tasks_under_way_in_equal_number_take_no_more_memory),
        cmocka_unit_test(memory_that_ends_is_told_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
