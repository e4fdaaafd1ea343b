/* Simulated time against the same tasks on the discrete-event engine, and its rules by themselves.
 */
#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "policies/link.h"
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

/* Experts take SLOT_BYTES. */
static void make_machine(uint64_t *random, uint64_t slot_bytes, Hardware *hardware)
{
    HardwareModel *model;
    *hardware = (Hardware){.backend = "cuda", .device = "cuda: made up"};
    assert_ok(hardware_add_model(hardware, "model", &model));
    put_ops(model);
    assert_ok(mem_new(&model->slots, MOE_LAYERS, sizeof *model->slots, "slots"));
    for (uint32_t i = 0; i < MOE_LAYERS; i++)
        model->slots[model->n_slots++] =
            (HardwareSlots){.layer = 1 + i, .experts = EXPERTS, .slot_bytes = slot_bytes};
    put_op_tables(hardware, random);
    put_table(hardware, "issue/load", "", NULL, random_below(random, 2000), 0);
    put_table(hardware, "issue/together", "", NULL, random_below(random, 2000), 0);
    put_table(hardware, "issue/await", "", NULL, random_below(random, 800), 0);
    put_table(hardware, "sync", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "lag", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "copy/gap", "", NULL, random_below(random, 3000), 0);
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
    assert_ok(cost_table_put(copy, (double[]){slot_bytes}, 1000 + random_below(random, 20000), 0));
    if (link_parts(slot_bytes) > 1)
        assert_ok(cost_table_put(copy, (double[]){(double)slot_bytes / link_parts(slot_bytes)},
                                 1000 + random_below(random, 8000), 0));
    assert_ok(hardware_add_table(hardware, "copy/together", "", UNIT_NS, &axis, 1, &copy));
    for (uint32_t n = 1; n <= EXPERTS; n++)
        assert_ok(cost_table_put(copy, (double[]){n * slot_bytes}, 1000 + n * 300, 0));
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

/* A prefetch that is held back: parts of it follow each other as the stream of copies is empty. */
typedef struct {
    uint32_t layer;
    uint32_t expert;
    uint32_t parts;
    uint32_t begun;
    bool gone;       /* no more parts begin */
    EngineTask last; /* of its parts */
} Held;

typedef struct {
    Engine *engine;
    EngineTask host;                            /* the last task of the host */
    EngineTask host_ended;                      /* ... that has ended */
    EngineTask last;                            /* ... of the compute stream */
    EngineTask last_copy;                       /* ... of the stream of copies */
    EngineTask prefetched[MOE_LAYERS][EXPERTS]; /* in this step, not held back; 0: none */
    EngineTask prefetches[MOE_LAYERS * EXPERTS * 4];
    uint32_t n_prefetches;
    Held held[MOE_LAYERS * EXPERTS * 2]; /* of this step */
    uint32_t n_held;
    uint32_t held_of[MOE_LAYERS][EXPERTS]; /* 1 + its number; 0: none */
    bool owed[MOE_LAYERS][EXPERTS];
    uint32_t outstanding; /* copies that have been queued and have not ended */
    uint32_t cancelled;   /* in all steps */
    uint32_t late;
    uint64_t slot_bytes;
    uint64_t load_ns;
    EngineTask before_op; /* the host's last before the operation */
    Hardware *hardware;
    uint64_t compute_ends[4096]; /* by tag */
    uint64_t n_compute;
    EngineEvent ended[8192]; /* of this step */
    uint32_t n_ended;
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

static EngineTask put(Played *played, uint32_t resource, uint64_t ns, const EngineTask *waits,
                      size_t n)
{
    EngineTask task;
    uint64_t tag = resource == COMPUTE ? played->n_compute++ : UINT64_MAX;
    assert_true(played->n_compute < 4096);
    assert_ok(engine_add(played->engine,
                         &(EngineSpec){.resource = resource, .duration_ns = ns, .tag = tag}, waits,
                         n, &task));
    played->outstanding += resource == COPIES;
    if (resource == HOST)
        played->host = task;
    if (resource == COMPUTE)
        played->last = task;
    if (resource == COPIES)
        played->last_copy = task;
    return task;
}

/* NS after the end of TASK, which may have been some time ago. */
static EngineTask after(Played *played, EngineTask task, uint64_t ns)
{
    uint64_t now_ns = engine_now(played->engine);
    for (uint32_t i = 0; i < played->n_ended; i++) {
        if (played->ended[i].task != task)
            continue;
        uint64_t end_ns = played->ended[i].end_ns + ns;
        return put(played, ENGINE_NO_RESOURCE, end_ns > now_ns ? end_ns - now_ns : 0, NULL, 0);
    }
    return put(played, ENGINE_NO_RESOURCE, ns, &task, 1);
}

/* What comes after TASK on another stream learns of its end a little later. */
static EngineTask hand_over(Played *played, EngineTask task, const char *name)
{
    return after(played, task, cost(played, name, 0));
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

/* Of a load of BYTES, which the plan's link lets take ASKED_NS. */
static uint64_t copy_cost(const Played *played, double bytes, uint64_t asked_ns)
{
    uint64_t ns = cost(played, "copy/h2d", bytes);
    if (played->load_ns == 0)
        return ns;
    asked_ns += cost(played, "throttle", 0);
    ns += cost(played, "throttle/least", 0);
    return asked_ns > ns ? asked_ns : ns;
}

static uint64_t part_cost(const Played *played)
{
    uint32_t parts = link_parts(played->slot_bytes);
    return copy_cost(played, (double)played->slot_bytes / parts, played->load_ns / parts);
}

static uint64_t issue_load(const Played *played, const char *name)
{
    return cost(played, name, 0) + (played->load_ns > 0 ? cost(played, "issue/throttle", 0) : 0);
}

/* Begins the next part of what is held back when nothing is in the stream of copies. */
static void pump(Played *played)
{
    for (uint32_t i = 0; i < played->n_held && played->outstanding == 0; i++) {
        Held *held = &played->held[i];
        if (held->gone || held->begun == held->parts)
            continue;
        held->begun++;
        held->last = put(played, COPIES, cost(played, "lag", 0) + part_cost(played), NULL, 0);
    }
}

static bool next(Played *played, uint64_t *end_ns)
{
    EngineEvent event;
    if (!engine_next(played->engine, &event))
        return false;
    *end_ns = event.end_ns;
    assert_true(played->n_ended < 8192);
    played->ended[played->n_ended++] = event;
    if (event.tag != UINT64_MAX)
        played->compute_ends[event.tag] = event.end_ns;
    if (event.resource == HOST)
        played->host_ended = event.task;
    played->outstanding -= event.resource == COPIES;
    pump(played);
    return true;
}

/* Until the host has done all that it was given. */
static void run_to_host(Played *played)
{
    uint64_t end_ns;
    while (played->host_ended != played->host)
        assert_true(next(played, &end_ns));
}

/* What a load after others waits for. */
static EngineTask leave_gap(Played *played)
{
    return played->last_copy != 0 ? hand_over(played, played->last_copy, "copy/gap") : 0;
}

/* What is left of HELD is loaded on demand. */
static void take_over(Played *played, Held *held)
{
    run_to_host(played);
    if (held->gone || held->begun == held->parts)
        return;
    const EngineTask waits[] = {hand_over(played, played->host, "lag"), leave_gap(played)};
    held->last = put(played, COPIES, (held->parts - held->begun) * part_cost(played), waits, 2);
    held->begun = held->parts;
    put(played, HOST, issue_load(played, "issue/load"), &played->host, 1);
}

static void hold(Played *played, const BufferAction *action)
{
    run_to_host(played);
    bool idle = played->outstanding == 0;
    played->held[played->n_held++] = (Held){.layer = action->layer_index,
                                            .expert = action->expert,
                                            .parts = link_parts(played->slot_bytes)};
    played->held_of[action->layer_index][action->expert] = played->n_held;
    pump(played);
    if (idle)
        put(played, HOST, issue_load(played, "issue/load"), &played->host, 1);
}

static void leave(Played *played, const BufferAction *action)
{
    uint32_t *number = &played->held_of[action->layer_index][action->expert];
    if (*number > 0) {
        run_to_host(played);
        Held *held = &played->held[*number - 1];
        held->gone = true;
        played->cancelled += held->begun == 0;
    }
    *number = 0;
    played->prefetched[action->layer_index][action->expert] = 0;
    played->owed[action->layer_index][action->expert] = false;
}

/* The lookups of LAYER are over. */
static void pass(Played *played, uint32_t layer)
{
    run_to_host(played);
    for (uint32_t i = 0; i < played->n_held; i++) {
        Held *held = &played->held[i];
        if (held->layer != layer || held->begun > 0 || held->gone)
            continue;
        held->gone = true;
        played->cancelled++;
        played->held_of[layer][held->expert] = 0;
        played->owed[layer][held->expert] = true;
    }
}

typedef struct {
    uint32_t active;
    EngineTask loads[EXPERTS];
    uint32_t n_loads;
    bool slots[MOE_LAYERS * EXPERTS + 1];
} Jobs;

/* Of an event. */
typedef struct {
    Jobs hits;
    Jobs loaded;
    uint32_t gathered; /* loads that are to be copied together */
    bool queued;
} Pending;

static void queue_jobs(Played *played, Jobs *jobs)
{
    EngineTask waits[EXPERTS + 2];
    if (jobs->active == 0)
        return;
    if (jobs->n_loads > 0)
        put(played, HOST, cost(played, "issue/await", 0), &played->host, 1);
    for (uint32_t i = 0; i < jobs->n_loads; i++)
        waits[i] = hand_over(played, jobs->loads[i], "after/load");
    uint64_t issue_ns = cost(played, "issue/experts", 0);
    uint64_t lag_ns = cost(played, "lag", 0);
    EngineTask free = after(played, played->last, issue_ns > lag_ns ? issue_ns - lag_ns : 0);
    put(played, HOST, issue_ns, &played->host, 1);
    waits[jobs->n_loads] = played->host;
    waits[jobs->n_loads + 1] = free;
    put(played, COMPUTE, cost(played, "queued/experts", jobs->active), waits, jobs->n_loads + 2);
    *jobs = (Jobs){0};
}

/* A load that takes NS in the stream of copies, and the host ISSUE to begin. */
static EngineTask begin_load(Played *played, const Pending *pending, uint64_t ns, const char *issue)
{
    EngineTask waits[3];
    run_to_host(played);
    waits[0] = hand_over(played, played->host, "lag");
    waits[1] = pending->queued ? hand_over(played, played->last, "sync") : 0;
    waits[2] = leave_gap(played);
    EngineTask load = put(played, COPIES, ns, waits, 3);
    put(played, HOST, issue_load(played, issue), &played->host, 1);
    return load;
}

static void begin_gathered(Played *played, Pending *pending)
{
    uint32_t n = pending->gathered;
    pending->gathered = 0;
    if (n == 0)
        return;
    uint64_t ns = cost(played, "copy/together", (double)n * (double)played->slot_bytes);
    if (played->load_ns > 0) {
        uint64_t asked_ns = n * played->load_ns + cost(played, "throttle", 0);
        ns += cost(played, "throttle/least", 0);
        ns = asked_ns > ns ? asked_ns : ns;
    }
    pending->loaded.loads[pending->loaded.n_loads++] =
        begin_load(played, pending, ns, "issue/together");
}

static void queue_pending(Played *played, Pending *pending)
{
    Jobs *loaded = &pending->loaded;
    begin_gathered(played, pending);
    if (loaded->active > 0 && played->load_ns == 0 &&
        loaded->active * played->slot_bytes <= SHORT_LOADS_BYTES) {
        loaded->active += pending->hits.active;
        pending->hits = (Jobs){0};
    }
    queue_jobs(played, &pending->hits);
    queue_jobs(played, loaded);
}

static void load_on_demand(Played *played, const BufferAction *action, Pending *pending)
{
    Jobs *loaded = &pending->loaded;
    loaded->active++;
    loaded->slots[action->slot] = true;
    if (played->slot_bytes <= LOADED_TOGETHER_BYTES) {
        pending->gathered++;
        return;
    }
    uint64_t ns = copy_cost(played, (double)played->slot_bytes, played->load_ns);
    loaded->loads[loaded->n_loads++] = begin_load(played, pending, ns, "issue/load");
}

static void queue_load(Played *played, const BufferAction *action, Pending *pending)
{
    if (pending->hits.slots[action->slot] || pending->loaded.slots[action->slot]) {
        pending->queued = true;
        queue_pending(played, pending);
    }
    if (action->kind != RESIDENCY_PREFETCH) {
        load_on_demand(played, action, pending);
    } else if (played->load_ns > 0 || played->slot_bytes > LOADED_TOGETHER_BYTES) {
        hold(played, action);
    } else {
        EngineTask load = begin_load(
            played, pending, copy_cost(played, (double)played->slot_bytes, 0), "issue/load");
        played->prefetched[action->layer_index][action->expert] = load;
        played->prefetches[played->n_prefetches++] = load;
    }
}

static void queue_hit(Played *played, const BufferAction *action, Pending *pending)
{
    uint32_t number = played->held_of[action->layer_index][action->expert];
    EngineTask prefetch = played->prefetched[action->layer_index][action->expert];
    bool *owed = &played->owed[action->layer_index][action->expert];
    if (*owed) {
        *owed = false;
        played->late++;
        load_on_demand(played, action, pending);
        return;
    }
    if (number > 0) {
        take_over(played, &played->held[number - 1]);
        prefetch = played->held[number - 1].last;
    }
    Jobs *jobs = prefetch != 0 ? &pending->loaded : &pending->hits;
    jobs->active++;
    jobs->slots[action->slot] = true;
    if (prefetch != 0)
        jobs->loads[jobs->n_loads++] = prefetch;
}

static void queue_experts(Played *played, const TimingEvent *event, const BufferAction *actions,
                          uint32_t n)
{
    static Pending pending;
    bool passed = false;
    pending = (Pending){0};
    /* The host waits for the queue, wakes up, and decides. */
    EngineTask both[] = {played->host, played->last};
    put(played, HOST, cost(played, "wake", 0), both, 2);
    put(played, HOST, cost(played, "decide", event->n), &played->host, 1);
    for (uint32_t i = 0; i < n; i++) {
        if (actions[i].kind == RESIDENCY_PREFETCH && !passed) {
            begin_gathered(played, &pending);
            pass(played, event->layer_index);
            passed = true;
        }
        if (actions[i].kind == RESIDENCY_EVICT)
            leave(played, &actions[i]);
        else if (actions[i].kind == RESIDENCY_HIT)
            queue_hit(played, &actions[i], &pending);
        else
            queue_load(played, &actions[i], &pending);
    }
    begin_gathered(played, &pending);
    if (!passed)
        pass(played, event->layer_index);
    queue_pending(played, &pending);
}

/* Runs everything that is queued; the time when the host goes on after it. */
static uint64_t end_step(Played *played)
{
    EngineTask all[MOE_LAYERS * EXPERTS * 4 + 2];
    uint64_t end_ns = 0;
    for (uint32_t i = 0; i < played->n_held; i++) {
        take_over(played, &played->held[i]);
        if (played->held[i].begun > 0)
            played->prefetches[played->n_prefetches++] = played->held[i].last;
    }
    memcpy(all, played->prefetches, played->n_prefetches * sizeof *all);
    all[played->n_prefetches] = played->host;
    all[played->n_prefetches + 1] = played->last;
    uint64_t rest = cost(played, "wake", 0) + cost(played, "step/rest", 1);
    put(played, HOST, rest, all, played->n_prefetches + 2);
    while (next(played, &end_ns))
        ;
    assert_int_equal(engine_pending(played->engine), 0);
    memset(played->prefetched, 0, sizeof played->prefetched);
    memset(played->held_of, 0, sizeof played->held_of);
    played->n_held = 0;
    played->n_prefetches = 0;
    played->host = played->host_ended = played->last = 0;
    played->n_compute = 0;
    /* The last copy is waited for in the next step, too. */
    uint32_t kept = 0;
    for (uint32_t i = 0; i < played->n_ended; i++)
        if (played->ended[i].task == played->last_copy)
            played->ended[kept++] = played->ended[i];
    played->n_ended = kept;
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

/* Of the prefetches of all runs. */
typedef struct {
    uint64_t cancelled;
    uint64_t late;
} Fates;

static void compare_run(uint64_t seed, Fates *fates)
{
    static const uint64_t SLOT_BYTES[] = {1000, 400000, 24 << 20};
    static const EngineResource STREAMS[] = {
        {ENGINE_STREAM, 1}, {ENGINE_STREAM, 1}, {ENGINE_STREAM, 1}};
    uint64_t random = seed;
    Hardware hardware;
    TraceLayer layers[MOE_LAYERS];
    ExpertBuffer *buffer;
    Timing *timing;
    static Played played;
    uint64_t slot_bytes = SLOT_BYTES[seed % 3];
    make_machine(&random, slot_bytes, &hardware);
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
    played = (Played){.hardware = &hardware, .slot_bytes = slot_bytes};
    played.load_ns = plan.link.h2d_gb_per_s > 0 ? (uint64_t)(1000 / plan.link.h2d_gb_per_s) : 0;
    assert_ok(engine_new(STREAMS, 3, &played.engine));
    for (int i = 0; i < 12; i++)
        compare_step(&random, buffer, timing, &played);
    TimingTotals totals = timing_totals(timing);
    assert_int_equal(totals.total.prefetches_cancelled, played.cancelled);
    assert_int_equal(totals.total.late_loads, played.late);
    fates->cancelled += played.cancelled;
    fates->late += played.late;
    engine_free(played.engine);
    timing_free(timing);
    buffer_free(buffer);
    hardware_free(&hardware);
}

static void steps_end_as_their_tasks_do_on_the_engine(void **unused)
{
    (void)unused;
    Fates fates = {0};
    for (uint64_t seed = 1; seed <= (exhaustive() ? 3000 : 200); seed++)
        compare_run(seed, &fates);
    assert_true(fates.cancelled > 0 && fates.late > 0);
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
    make_machine(&random, 1000, &hardware);
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
    make_machine(&random, 1000, &hardware);
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
    make_machine(&random, 1000, &hardware);
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
    make_machine(&random, 1000, &hardware);
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
