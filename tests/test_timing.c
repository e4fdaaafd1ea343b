/* Simulated time against the same tasks on the discrete-event engine, and its rules by themselves.
 */
#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "sim/engine.h"
#include "sim/timing.h"

enum { LAYERS = 4, MOE_LAYERS = 3, EXPERTS = 10, MOST_OPS = 64 };

/* ---- a made-up machine and model: layer 0 is dense, the others are of experts ---- */

static void put_table(Hardware *hardware, const char *name, const char *shape, const char *axis,
                      double base, double slope)
{
    CostTable *table;
    assert_ok(hardware_add_table(hardware, name, shape, UNIT_NS, &axis, axis != NULL, &table));
    for (uint32_t i = 1; i <= (axis != NULL ? 64 : 1); i++)
        assert_ok(cost_table_put(table, (double[]){i}, base + slope * i, 0));
}

static void put_op(HardwareModel *model, uint32_t layer, Op op)
{
    HardwareOp *out = &model->ops[STACK_DECODER][model->n_ops[STACK_DECODER]++];
    *out = (HardwareOp){.layer = layer, .op = op};
    snprintf(out->shape, sizeof out->shape, "shape");
}

static void put_ops(HardwareModel *model)
{
    assert_ok(mem_new(&model->ops[STACK_DECODER], MOST_OPS, sizeof(HardwareOp), "ops"));
    put_op(model, 0, OP_EMBED);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        put_op(model, layer, OP_ATTENTION);
        if (layer == 0) {
            put_op(model, layer, OP_DENSE_FFN);
            continue;
        }
        put_op(model, layer, OP_ROUTE);
        put_op(model, layer, OP_EXPERTS);
        put_op(model, layer, OP_COMBINE);
    }
    put_op(model, LAYERS - 1, OP_HEAD);
}

static void put_op_tables(Hardware *hardware, uint64_t *random)
{
    static const Op SIMPLE[] = {OP_EMBED, OP_DENSE_FFN, OP_ROUTE, OP_COMBINE, OP_HEAD};
    char name[64];
    for (size_t i = 0; i < sizeof SIMPLE / sizeof *SIMPLE; i++) {
        snprintf(name, sizeof name, "gpu/%s", op_name(SIMPLE[i]));
        put_table(hardware, name, "shape", SIMPLE[i] == OP_HEAD ? "rows" : "tokens",
                  random_below(random, 3000), random_below(random, 50));
    }
    put_table(hardware, "gpu/attention", "shape", "requests", random_below(random, 3000), 7);
    put_table(hardware, "gpu/experts", "shape", "active", random_below(random, 3000), 900);
    put_table(hardware, "queued/experts", "shape", "active", random_below(random, 4000), 1100);
    for (Op op = 0; op < OPS; op++) {
        snprintf(name, sizeof name, "issue/%s", op_name(op));
        put_table(hardware, name, "", NULL, random_below(random, 4000), 0);
    }
}

static void make_machine(uint64_t *random, Hardware *hardware)
{
    HardwareModel *model;
    *hardware = (Hardware){.backend = "cuda", .device = "cuda: made up"};
    assert_ok(hardware_add_model(hardware, "model", &model));
    put_ops(model);
    assert_ok(mem_new(&model->slots, MOE_LAYERS, sizeof *model->slots, "slots"));
    for (uint32_t i = 0; i < MOE_LAYERS; i++)
        model->slots[model->n_slots++] =
            (HardwareSlots){.layer = 1 + i, .experts = EXPERTS, .slot_bytes = 1000};
    put_op_tables(hardware, random);
    put_table(hardware, "issue/load", "", NULL, random_below(random, 2000), 0);
    put_table(hardware, "issue/await", "", NULL, random_below(random, 800), 0);
    put_table(hardware, "sync", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "lag", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "end/load", "", NULL, 0, 0);
    put_table(hardware, "throttle/least", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "issue/throttle", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "after/load", "", NULL, random_below(random, 9000), 0);
    put_table(hardware, "throttle", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "decide", "", "active", random_below(random, 500), 30);
    put_table(hardware, "wake", "", NULL, random_below(random, 9000), 0);
    put_table(hardware, "step/rest", "model graph", "tokens", random_below(random, 9000), 1);
    CostTable *copy;
    const char *axis = "bytes";
    assert_ok(hardware_add_table(hardware, "copy/h2d", "", UNIT_NS, &axis, 1, &copy));
    assert_ok(cost_table_put(copy, (double[]){1000}, 1000 + random_below(random, 20000), 0));
}

static void make_layers(TraceLayer layers[MOE_LAYERS])
{
    memset(layers, 0, MOE_LAYERS * sizeof *layers);
    for (uint32_t i = 0; i < MOE_LAYERS; i++)
        layers[i] =
            (TraceLayer){.layer = 1 + i, .experts = EXPERTS, .top_k = 2, .expert_bytes = 1000};
}

static Plan random_plan(uint64_t *random)
{
    static const char *const EVICT[] = {"lru", "lifo", "belady-admit", "random", "fifo"};
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.scope = random_below(random, 2) ? SCOPE_LAYER : SCOPE_DEVICE;
    plan.buffer.slots = plan.buffer.scope == SCOPE_LAYER
                            ? 1 + random_below(random, EXPERTS)
                            : 1 + random_below(random, MOE_LAYERS * EXPERTS);
    plan.buffer.order = random_below(random, 2) ? ORDER_BATCH : ORDER_SERIAL;
    const char *evict = EVICT[random_below(random, 5)];
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s",
             strcmp(evict, "belady-admit") == 0 ? "lru" : evict);
    if (random_below(random, 2)) {
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "previous-step");
        plan.prefetch.distance = 1;
        plan.prefetch.max_inflight = 1 + random_below(random, 4);
    }
    plan.link.h2d_gb_per_s = random_below(random, 3) ? 0 : 1.0 / (1 + random_below(random, 30));
    return plan;
}

/* ---- the same steps on the engine ---- */

enum { HOST, COMPUTE, COPIES };

typedef struct {
    Engine *engine;
    EngineTask host;                            /* the last task of the host */
    EngineTask last;                            /* ... of the compute stream */
    EngineTask prefetched[MOE_LAYERS][EXPERTS]; /* in this step; 0: none */
    EngineTask prefetches[MOE_LAYERS * EXPERTS * 2];
    uint32_t n_prefetches;
    const OpCosts *costs;
    const Timing *timing;
    uint64_t load_ns;
    EngineTask before_op; /* the host's last before the operation */
    Hardware *hardware;
    uint64_t compute_ends[4096]; /* by tag */
    uint64_t n_compute;
} Played;

/* Durations come from the tables themselves: one axis at the most, every place measured. */
static uint64_t cost(const Played *played, const char *name, double at)
{
    const CostTable *table = hardware_table(played->hardware, name, "shape");
    if (table == NULL)
        table = hardware_table(played->hardware, name, "");
    if (table == NULL)
        table = hardware_table(played->hardware, name, "model graph");
    assert_non_null(table);
    for (uint32_t i = 0; i < table->n_points; i++)
        if (table->n_axes == 0 || table->at[i] == at)
            return (uint64_t)table->value[i];
    fail_msg("%s has no place %g", name, at);
    return 0;
}

static EngineTask put(Played *played, uint32_t resource, uint64_t ns, const EngineTask *after,
                      size_t n)
{
    EngineTask task;
    uint64_t tag = resource == COMPUTE ? played->n_compute++ : UINT64_MAX;
    assert_true(played->n_compute < 4096);
    assert_ok(engine_add(played->engine,
                         &(EngineSpec){.resource = resource, .duration_ns = ns, .tag = tag}, after,
                         n, &task));
    if (resource == HOST)
        played->host = task;
    if (resource == COMPUTE)
        played->last = task;
    return task;
}

/* What comes after TASK on another stream learns of its end a little later. */
static EngineTask hand_over(Played *played, EngineTask task, const char *name)
{
    return put(played, ENGINE_NO_RESOURCE, cost(played, name, 0), &task, 1);
}

static void queue_op(Played *played, Op op, double at)
{
    char name[64];
    snprintf(name, sizeof name, "issue/%s", op_name(op));
    uint64_t issue_ns = cost(played, name, 0);
    EngineTask first = hand_over(played, played->host, "lag");
    played->before_op = played->host;
    put(played, HOST, issue_ns, &played->host, 1);
    snprintf(name, sizeof name, "gpu/%s", op_name(op));
    uint64_t ns = cost(played, name, at);
    put(played, COMPUTE, ns, &first, 1);
    /* The last of its kernels cannot end before it has been queued and run. */
    uint64_t launch_ns = cost(played, "issue/embed", 0);
    int64_t kernels = launch_ns > 0 ? (int64_t)((issue_ns + launch_ns / 2) / launch_ns) : 1;
    int64_t last_ns = ((int64_t)ns - (int64_t)issue_ns) / (kernels > 0 ? kernels : 1);
    int64_t begun_ns = (int64_t)(issue_ns + cost(played, "lag", 0)) + last_ns;
    EngineTask last = put(played, ENGINE_NO_RESOURCE, begun_ns > 0 ? (uint64_t)begun_ns : 0,
                          &played->before_op, 1);
    put(played, COMPUTE, 0, &last, 1);
}

typedef struct {
    uint32_t active;
    EngineTask loads[EXPERTS];
    uint32_t n_loads;
    bool slots[MOE_LAYERS * EXPERTS + 1];
} Jobs;

static void queue_jobs(Played *played, Jobs *jobs)
{
    EngineTask after[EXPERTS + 2];
    if (jobs->active == 0)
        return;
    for (uint32_t i = 0; i < jobs->n_loads; i++) {
        put(played, HOST, cost(played, "issue/await", 0), &played->host, 1);
        after[i] = hand_over(played, jobs->loads[i], "after/load");
    }
    uint64_t issue_ns = cost(played, "issue/experts", 0);
    uint64_t lag_ns = cost(played, "lag", 0);
    EngineTask free = put(played, ENGINE_NO_RESOURCE, issue_ns > lag_ns ? issue_ns - lag_ns : 0,
                          &played->last, 1);
    put(played, HOST, issue_ns, &played->host, 1);
    after[jobs->n_loads] = played->host;
    after[jobs->n_loads + 1] = free;
    put(played, COMPUTE, cost(played, "queued/experts", jobs->active), after, jobs->n_loads + 2);
    *jobs = (Jobs){0};
}

static void queue_load(Played *played, const BufferAction *action, Jobs *hits, Jobs *loaded,
                       bool *queued)
{
    EngineTask after[2];
    if (hits->slots[action->slot] || loaded->slots[action->slot]) {
        queue_jobs(played, hits);
        queue_jobs(played, loaded);
        *queued = true;
    }
    bool slow = played->load_ns > 0;
    after[0] = hand_over(played, played->host, "lag");
    put(played, HOST,
        cost(played, "issue/load", 0) + (slow ? cost(played, "issue/throttle", 0) : 0),
        &played->host, 1);
    after[1] = *queued ? hand_over(played, played->last, "sync") : 0;
    uint64_t ns = cost(played, "copy/h2d", 1000);
    if (slow) {
        uint64_t asked_ns = played->load_ns + cost(played, "throttle", 0);
        ns += cost(played, "throttle/least", 0);
        ns = asked_ns > ns ? asked_ns : ns;
    }
    EngineTask load = put(played, COPIES, ns, after, *queued ? 2 : 1);
    if (action->kind == RESIDENCY_PREFETCH) {
        played->prefetched[action->layer_index][action->expert] = load;
        played->prefetches[played->n_prefetches++] = load;
        return;
    }
    loaded->active++;
    loaded->slots[action->slot] = true;
    loaded->loads[loaded->n_loads++] = load;
}

static void queue_experts(Played *played, const TimingEvent *event, const BufferAction *actions,
                          uint32_t n)
{
    static Jobs hits;
    static Jobs loaded;
    bool queued = false;
    hits = (Jobs){0};
    loaded = (Jobs){0};
    /* The host waits for the queue, wakes up, and decides. */
    EngineTask both[] = {played->host, played->last};
    put(played, HOST, cost(played, "wake", 0), both, 2);
    put(played, HOST, cost(played, "decide", event->n), &played->host, 1);
    for (uint32_t i = 0; i < n; i++) {
        const BufferAction *action = &actions[i];
        EngineTask *prefetched = &played->prefetched[action->layer_index][action->expert];
        if (action->kind == RESIDENCY_EVICT) {
            *prefetched = 0;
        } else if (action->kind != RESIDENCY_HIT) {
            queue_load(played, action, &hits, &loaded, &queued);
        } else {
            Jobs *jobs = *prefetched != 0 ? &loaded : &hits;
            jobs->active++;
            jobs->slots[action->slot] = true;
            if (*prefetched != 0)
                jobs->loads[jobs->n_loads++] = *prefetched;
        }
    }
    queue_jobs(played, &hits);
    queue_jobs(played, &loaded);
}

/* Runs everything that is queued; the time when the host goes on after it. */
static uint64_t end_step(Played *played)
{
    EngineTask after[MOE_LAYERS * EXPERTS * 2 + 2];
    EngineEvent event;
    uint64_t end_ns = 0;
    memcpy(after, played->prefetches, played->n_prefetches * sizeof *after);
    after[played->n_prefetches] = played->host;
    after[played->n_prefetches + 1] = played->last;
    uint64_t rest = cost(played, "wake", 0) + cost(played, "step/rest", 1);
    EngineTask last = put(played, HOST, rest, after, played->n_prefetches + 2);
    while (engine_next(played->engine, &event)) {
        end_ns = event.end_ns;
        if (event.tag != UINT64_MAX)
            played->compute_ends[event.tag] = event.end_ns;
    }
    assert_false(engine_is_pending(played->engine, last));
    assert_int_equal(engine_pending(played->engine), 0);
    memset(played->prefetched, 0, sizeof played->prefetched);
    played->n_prefetches = 0;
    played->host = played->last = 0;
    played->n_compute = 0;
    return end_ns;
}

/* ---- random steps on both ---- */

typedef struct {
    uint16_t experts[EXPERTS];
    uint32_t rows[EXPERTS];
    BufferAction actions[8 * EXPERTS];
    uint32_t n_actions;
    TimingEvent event;
} RandomEvent;

static void random_event(uint64_t *random, ExpertBuffer *buffer, uint32_t layer, RandomEvent *event)
{
    uint32_t n = 0;
    for (uint16_t e = 0; e < EXPERTS; e++)
        if (random_below(random, 3) == 0 || (n == 0 && e + 1 == EXPERTS)) {
            event->experts[n] = e;
            event->rows[n++] = 1 + random_below(random, 3);
        }
    event->event =
        (TimingEvent){.layer_index = layer, .n = n, .experts = event->experts, .rows = event->rows};
    const BufferEvent asked = {.layer_index = layer, .n = n, .experts = event->experts};
    assert_true(buffer_max_actions(buffer, n) <= 8 * EXPERTS);
    buffer_event(buffer, &asked, NULL, event->actions, &event->n_actions);
}

static void compare_step(uint64_t *random, ExpertBuffer *buffer, Timing *timing, Played *played)
{
    RandomEvent event;
    StepTime time;
    uint32_t tokens = 1 + random_below(random, 30);
    const StepFeatures step = {.phase = PHASE_DECODE,
                               .tokens = tokens,
                               .requests = tokens,
                               .groups[SPANS_ONE] = {.requests = tokens, .tokens = tokens}};
    uint64_t start_ns = timing_now(timing);
    assert_int_equal(engine_now(played->engine), start_ns);
    assert_ok(timing_begin(timing, &step, 0));
    queue_op(played, OP_EMBED, tokens);
    queue_op(played, OP_ATTENTION, tokens);
    queue_op(played, OP_DENSE_FFN, tokens);
    for (uint32_t layer = 0; layer < MOE_LAYERS; layer++) {
        random_event(random, buffer, layer, &event);
        assert_ok(timing_event(timing, &event.event, event.actions, event.n_actions));
        queue_op(played, OP_ATTENTION, tokens);
        queue_op(played, OP_ROUTE, tokens);
        queue_experts(played, &event.event, event.actions, event.n_actions);
        queue_op(played, OP_COMBINE, tokens);
    }
    queue_op(played, OP_HEAD, tokens);
    assert_ok(timing_end(timing, &time));
    uint64_t head = played->n_compute - 1;
    uint64_t end_ns = end_step(played);
    assert_int_equal(time.start_ns, start_ns);
    assert_int_equal(time.start_ns + time.duration_ns, end_ns);
    const TimingRecord *last = &time.ops[time.n_ops - 1];
    assert_int_equal(last->op, OP_HEAD);
    assert_int_equal(last->start_ns + last->duration_ns, played->compute_ends[head]);
}

static void compare_run(uint64_t seed)
{
    static const EngineResource STREAMS[] = {
        {ENGINE_STREAM, 1}, {ENGINE_STREAM, 1}, {ENGINE_STREAM, 1}};
    uint64_t random = seed;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    ExpertBuffer *buffer;
    Timing *timing;
    static Played played;
    make_machine(&random, &hardware);
    make_layers(layers);
    Plan plan = random_plan(&random);
    /* A plan that holds everything turns to graphs. */
    if (plan_holds_all(&plan, layers, MOE_LAYERS))
        plan.buffer.slots--;
    assert_ok(buffer_new(&plan, layers, MOE_LAYERS, &buffer));
    assert_ok(timing_new(&(TimingOptions){.hardware = &hardware,
                                          .model = "model",
                                          .plan = &plan,
                                          .layers = layers,
                                          .n_layers = MOE_LAYERS,
                                          .logits = true,
                                          .records = true},
                         &timing));
    played = (Played){.timing = timing, .hardware = &hardware};
    played.load_ns = plan.link.h2d_gb_per_s > 0 ? (uint64_t)(1000 / plan.link.h2d_gb_per_s) : 0;
    assert_ok(engine_new(STREAMS, 3, &played.engine));
    for (int i = 0; i < 12; i++)
        compare_step(&random, buffer, timing, &played);
    engine_free(played.engine);
    timing_free(timing);
    buffer_free(buffer);
    hardware_free(&hardware);
}

static void steps_end_as_their_tasks_do_on_the_engine(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= (exhaustive() ? 3000 : 200); seed++)
        compare_run(seed);
}

/* ---- steps without a buffer ---- */

typedef struct {
    StepTime steps[20];
    uint32_t tokens[20];
    TimingTotals totals;
    uint64_t layer_ns[LAYERS];
} Summary;

typedef struct {
    bool records;
    bool stamped;
    bool forced;
    double forced_route_ns; /* 0: the profile does not have it */
} Variant;

static void run_without_buffer(uint64_t seed, const Variant *variant, Summary *summary)
{
    uint64_t random = seed;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    ExpertBuffer *buffer;
    Timing *timing;
    RandomEvent event;
    const Plan plan = plan_default();
    make_machine(&random, &hardware);
    if (variant->forced_route_ns > 0)
        put_table(&hardware, "forced/route", "shape", "tokens", variant->forced_route_ns, 0);
    put_table(&hardware, "stamp", "", NULL, 3000, 0);
    put_table(&hardware, "step/rest", "model first", "tokens", 70000, 0);
    put_table(&hardware, "step/rest", "model capture", "tokens", 500000, 0);
    make_layers(layers);
    assert_ok(buffer_new(&plan, layers, MOE_LAYERS, &buffer));
    const TimingOptions options = {.hardware = &hardware,
                                   .model = "model",
                                   .plan = &plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS,
                                   .logits = seed % 2,
                                   .forced = variant->forced,
                                   .stamped = variant->stamped,
                                   .records = variant->records};
    assert_ok(timing_new(&options, &timing));
    for (int i = 0; i < 20; i++) {
        uint32_t tokens = summary->tokens[i] = 1 + random_below(&random, 3);
        const StepFeatures step = {.phase = PHASE_DECODE,
                                   .tokens = tokens,
                                   .requests = tokens,
                                   .groups[SPANS_ONE] = {.requests = tokens, .tokens = tokens}};
        assert_ok(timing_begin(timing, &step, 0));
        for (uint32_t layer = 0; layer < MOE_LAYERS; layer++) {
            random_event(&random, buffer, layer, &event);
            assert_ok(timing_event(timing, &event.event, event.actions, event.n_actions));
        }
        assert_ok(timing_end(timing, &summary->steps[i]));
    }
    summary->totals = timing_totals(timing);
    assert_int_equal(summary->totals.n_model_layers, LAYERS);
    memcpy(summary->layer_ns, summary->totals.layer_ns, sizeof summary->layer_ns);
    timing_free(timing);
    buffer_free(buffer);
    hardware_free(&hardware);
}

/* Attention of a step of ONE requests that generate and SEVERAL of 5 tokens. */
static uint64_t attention_ns(const Hardware *hardware, uint32_t one, uint32_t several)
{
    TraceLayer layers[MOE_LAYERS];
    const Plan plan = plan_default();
    Timing *timing;
    StepTime time;
    make_layers(layers);
    const TimingOptions options = {.hardware = hardware,
                                   .model = "model",
                                   .plan = &plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS};
    const StepFeatures step = {
        .phase = PHASE_MIXED,
        .tokens = one + 5 * several,
        .requests = one + several,
        .groups = {[SPANS_ONE] = {.requests = one, .tokens = one, .context = 9 * one},
                   [SPANS_SEVERAL] = {.requests = several, .tokens = 5 * several}}};
    assert_ok(timing_new(&options, &timing));
    assert_ok(timing_begin(timing, &step, 0));
    assert_ok(timing_end(timing, &time));
    uint64_t ns = timing_totals(timing).op_ns[OP_ATTENTION];
    timing_free(timing);
    return ns;
}

static void attention_of_both_sorts_of_requests_begins_once(void **unused)
{
    (void)unused;
    static const char *const AXES[] = {"requests", "tokens", "context"};
    uint64_t random = 3;
    Hardware hardware;
    CostTable *table;
    make_machine(&random, &hardware);
    assert_ok(hardware_add_table(&hardware, "gpu/attention", "other", UNIT_NS, AXES, 3, &table));
    for (uint32_t i = 0; i < MOST_OPS && i < hardware.models[0].n_ops[STACK_DECODER]; i++)
        if (hardware.models[0].ops[STACK_DECODER][i].op == OP_ATTENTION)
            snprintf(hardware.models[0].ops[STACK_DECODER][i].shape, 160, "other");
    for (uint32_t requests = 1; requests <= 4; requests++)
        for (uint32_t tokens = 1; tokens <= 5; tokens += 4)
            for (uint32_t context = 0; context <= 9; context += 9)
                assert_ok(cost_table_put(table, (double[]){requests, tokens, context},
                                         4000 + 100 * requests * tokens * (1 + context), 0));
    uint64_t least_ns = LAYERS * 4100;
    for (uint32_t one = 1; one <= 4; one++)
        for (uint32_t several = 1; several <= 4; several++) {
            uint64_t apart_ns =
                attention_ns(&hardware, one, 0) + attention_ns(&hardware, 0, several);
            assert_int_equal(attention_ns(&hardware, one, several), apart_ns - least_ns);
        }
    hardware_free(&hardware);
}

static void time_between_steps_is_that_of_their_tokens_and_routing(void **unused)
{
    (void)unused;
    uint64_t random = 3;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    const Plan plan = plan_default();
    make_machine(&random, &hardware);
    put_table(&hardware, "between", "model", "tokens", 1000, 10);
    make_layers(layers);
    for (int known = 0; known < 2; known++)
        for (int forced = 0; forced < 2; forced++) {
            const TimingOptions options = {.hardware = &hardware,
                                           .model = "model",
                                           .plan = &plan,
                                           .layers = layers,
                                           .n_layers = MOE_LAYERS,
                                           .forced = forced};
            const StepFeatures step = {.phase = PHASE_DECODE, .tokens = 2, .requests = 2};
            const uint64_t wanted_ns = known && forced ? 5040 : 1020;
            Timing *timing;
            StepTime time;
            if (known && !forced)
                put_table(&hardware, "between", "model forced", "tokens", 5000, 20);
            assert_ok(timing_new(&options, &timing));
            for (uint64_t i = 1; i <= 3; i++) {
                assert_ok(timing_begin(timing, &step, 0));
                assert_ok(timing_end(timing, &time));
                assert_int_equal(timing_between(timing), wanted_ns);
                assert_int_equal(timing_now(timing), time.start_ns + time.duration_ns + wanted_ns);
                assert_int_equal(timing_totals(timing).between_ns, i * wanted_ns);
            }
            timing_free(timing);
        }
    hardware_free(&hardware);
}

static void steps_that_are_added_up_last_as_long_as_those_that_are_played(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        static Summary added;
        static Summary played;
        run_without_buffer(seed, &(Variant){.stamped = seed % 3 == 0}, &added);
        run_without_buffer(seed, &(Variant){.stamped = seed % 3 == 0, .records = true}, &played);
        for (int i = 0; i < 20; i++) {
            assert_int_equal(added.steps[i].start_ns, played.steps[i].start_ns);
            assert_int_equal(added.steps[i].duration_ns, played.steps[i].duration_ns);
        }
        assert_memory_equal(added.totals.op_ns, played.totals.op_ns, sizeof added.totals.op_ns);
        assert_memory_equal(added.layer_ns, played.layer_ns, sizeof added.layer_ns);
        assert_int_equal(added.totals.op_ns[OP_HEAD] > 0, seed % 2);
    }
}

/* Each number of tokens is a shape: run directly, then captured, then repeated. */
static void the_second_step_of_a_shape_becomes_a_graph(void **unused)
{
    (void)unused;
    static Summary summary;
    run_without_buffer(4, &(Variant){.records = true}, &summary);
    for (int i = 0; i < 20; i++) {
        uint32_t before = 0;
        for (int j = 0; j < i; j++)
            before += summary.tokens[j] == summary.tokens[i];
        uint64_t ns = summary.steps[i].duration_ns;
        assert_true(before == 1 ? ns >= 500000 : ns < 500000);
        assert_true(before > 0 || ns >= 70000);
        assert_true(before < 2 || ns < 70000);
    }
}

/* Forced routing costs what the router's does where the profile says nothing of it, and changes no
 * other operation. */
static void forced_routing_has_a_price_of_its_own(void **unused)
{
    (void)unused;
    static Summary free_choice;
    static Summary unpriced;
    static Summary priced;
    run_without_buffer(6, &(Variant){.records = true}, &free_choice);
    run_without_buffer(6, &(Variant){.records = true, .forced = true}, &unpriced);
    run_without_buffer(6, &(Variant){.records = true, .forced = true, .forced_route_ns = 12345},
                       &priced);
    for (Op op = 0; op < OPS; op++) {
        assert_int_equal(unpriced.totals.op_ns[op], free_choice.totals.op_ns[op]);
        if (op != OP_ROUTE)
            assert_int_equal(priced.totals.op_ns[op], free_choice.totals.op_ns[op]);
    }
    assert_int_equal(priced.totals.op_ns[OP_ROUTE], 20 * MOE_LAYERS * 12345);
}

/* A step under a plan that loads, with records. */
static Status run_one_step(const TimingOptions *options, ExpertBuffer *buffer)
{
    const StepFeatures step = {.phase = PHASE_DECODE,
                               .tokens = 2,
                               .requests = 2,
                               .groups[SPANS_ONE] = {.requests = 2, .tokens = 2}};
    uint64_t random = 9;
    RandomEvent event;
    StepTime time;
    Timing *timing;
    TRY(timing_new(options, &timing));
    Status status = timing_begin(timing, &step, 0);
    for (uint32_t layer = 0; layer < MOE_LAYERS && status == OK; layer++) {
        random_event(&random, buffer, layer, &event);
        status = timing_event(timing, &event.event, event.actions, event.n_actions);
    }
    if (status == OK)
        status = timing_end(timing, &time);
    timing_free(timing);
    return status;
}

static void memory_that_ends_is_told_and_nothing_is_lost(void **unused)
{
    (void)unused;
    uint64_t random = 5;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    ExpertBuffer *buffer;
    Plan plan = plan_default();
    make_machine(&random, &hardware);
    make_layers(layers);
    plan.buffer.on = true;
    plan.buffer.slots = 4;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "lru");
    assert_ok(buffer_new(&plan, layers, MOE_LAYERS, &buffer));
    const TimingOptions options = {.hardware = &hardware,
                                   .model = "model",
                                   .plan = &plan,
                                   .layers = layers,
                                   .n_layers = MOE_LAYERS,
                                   .logits = true,
                                   .records = true};
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Status status = run_one_step(&options, buffer);
        failing_end(&failing, status);
        buffer_reset(buffer);
    }
    buffer_free(buffer);
    hardware_free(&hardware);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_end_as_their_tasks_do_on_the_engine),
        cmocka_unit_test(attention_of_both_sorts_of_requests_begins_once),
        cmocka_unit_test(time_between_steps_is_that_of_their_tokens_and_routing),
        cmocka_unit_test(steps_that_are_added_up_last_as_long_as_those_that_are_played),
        cmocka_unit_test(the_second_step_of_a_shape_becomes_a_graph),
        cmocka_unit_test(memory_that_ends_is_told_and_nothing_is_lost),
        cmocka_unit_test(forced_routing_has_a_price_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
