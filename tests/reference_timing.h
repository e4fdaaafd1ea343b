/* Steps with an expert buffer, played task by task on sim/engine.h as the executor queues them:
 * what sim/timing.h is compared with. */
#ifndef TESTS_REFERENCE_TIMING_H
#define TESTS_REFERENCE_TIMING_H

#include "tests/timing_machine.h"

#include "sim/engine.h"

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
    struct {
        uint32_t layer;
        uint32_t expert;
    } put_off[MOE_LAYERS * EXPERTS]; /* small ones, until the host waits */
    uint32_t n_put_off;
    Held held[MOE_LAYERS * EXPERTS * 2]; /* of this step */
    uint32_t n_held;
    uint32_t held_of[MOE_LAYERS][EXPERTS]; /* 1 + its number; 0: none */
    bool owed[MOE_LAYERS][EXPERTS];
    uint32_t outstanding; /* copies that have been queued and have not ended */
    uint32_t cancelled;   /* in all steps */
    uint32_t late;
    uint64_t slot_bytes;
    uint64_t load_ns;
    bool predicts;        /* the plan prefetches, by previous-step */
    bool shares;          /* all layers have one pool of slots */
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
    uint32_t rows;
    bool slots[MOE_LAYERS * EXPERTS + 1];
} Jobs;

/* Of an event. */
typedef struct {
    Jobs hits;
    Jobs loaded;
    uint32_t gathered; /* loads that are to be copied together */
    uint32_t n_ahead;  /* ... that are prefetches: all of them, or none */
    struct {
        uint32_t layer;
        uint32_t expert;
    } ahead[MOE_LAYERS * EXPERTS];
    bool queued;
    uint64_t sync_ns;     /* from the end of the last call to a load that waits for it */
    uint32_t calls;       /* that were queued */
    uint64_t carry_ns;    /* of the first of them, before the first small loads */
    uint32_t active;      /* experts of the event */
    const uint32_t *rows; /* [EXPERTS] of each expert */
} Pending;

/* To queue a call after another one in its event. */
static uint64_t again_cost(const Played *played)
{
    if (hardware_table(played->hardware, "issue/turn", "shape") == NULL)
        return cost(played, "issue/again", 0);
    uint64_t begin_ns = cost(played, "issue/loads", 1) + cost(played, "issue/await", 0);
    uint64_t turn_ns = cost(played, "issue/turn", 0);
    return turn_ns > begin_ns ? turn_ns - begin_ns : 1;
}

static void queue_jobs(Played *played, Pending *pending, Jobs *jobs)
{
    EngineTask waits[EXPERTS + 2];
    if (jobs->active == 0)
        return;
    if (jobs->n_loads > 0)
        put(played, HOST, cost(played, "issue/await", 0), &played->host, 1);
    for (uint32_t i = 0; i < jobs->n_loads; i++)
        waits[i] = hand_over(played, jobs->loads[i], "after/load");
    uint64_t issue_ns = pending->calls > 0 ? again_cost(played) : cost(played, "issue/experts", 0);
    if (pending->calls++ == 0)
        issue_ns -= pending->carry_ns < issue_ns ? pending->carry_ns : issue_ns;
    uint64_t lag_ns = cost(played, "lag", 0);
    EngineTask free = after(played, played->last, issue_ns > lag_ns ? issue_ns - lag_ns : 0);
    put(played, HOST, issue_ns, &played->host, 1);
    waits[jobs->n_loads] = played->host;
    waits[jobs->n_loads + 1] = free;
    uint64_t ns = cost(played, "queued/experts", jobs->active);
    put(played, COMPUTE, ns, waits, jobs->n_loads + 2);
    bool together = played->slot_bytes <= LOADED_TOGETHER_BYTES;
    pending->sync_ns = cost(played, together ? "sync/together" : "sync", 0);
    if (jobs->active == 1 && jobs->n_loads == 1) {
        uint64_t turn_ns = cost(played, "turn", jobs->rows);
        ns += cost(played, "after/load", 0);
        pending->sync_ns = turn_ns > ns ? turn_ns - ns : 0;
    }
    *jobs = (Jobs){0};
}

/* A load that takes NS in the stream of copies; of small ones so many are begun TOGETHER, or AHEAD.
 */
static EngineTask begin_load(Played *played, const Pending *pending, uint64_t ns, uint32_t together,
                             uint32_t ahead)
{
    EngineTask waits[3];
    run_to_host(played);
    waits[0] = hand_over(played, played->host, "lag");
    if (together > 0) {
        double bytes = (double)together * (double)played->slot_bytes;
        uint64_t load_ns = cost(played, "load/together", bytes);
        uint64_t copy_ns = cost(played, "copy/together", bytes);
        waits[0] = after(played, waits[0], load_ns > copy_ns ? load_ns - copy_ns : 0);
    }
    waits[1] = pending->queued ? after(played, played->last, pending->sync_ns) : 0;
    waits[2] = leave_gap(played);
    EngineTask load = put(played, COPIES, ns, waits, 3);
    uint64_t issue_ns = issue_load(played, "issue/load");
    if (together > 0) {
        issue_ns = cost(played, "issue/loads", together);
        issue_ns += played->load_ns > 0 ? cost(played, "issue/throttle", 0) : 0;
    }
    if (ahead > 0)
        issue_ns = cost(played, "issue/ahead", ahead);
    put(played, HOST, issue_ns, &played->host, 1);
    return load;
}

/* N small ones. */
static EngineTask begin_together(Played *played, const Pending *pending, uint32_t n)
{
    uint64_t ns = cost(played, "copy/together", (double)n * (double)played->slot_bytes);
    if (played->load_ns > 0) {
        uint64_t asked_ns = n * played->load_ns + cost(played, "throttle", 0);
        ns += cost(played, "throttle/least", 0);
        ns = asked_ns > ns ? asked_ns : ns;
    }
    return begin_load(played, pending, ns, n, 0);
}

static void begin_gathered(Played *played, Pending *pending)
{
    uint32_t n = pending->gathered;
    pending->gathered = 0;
    if (n == 0)
        return;
    if (pending->calls == 0 && pending->carry_ns == 0) {
        pending->carry_ns = cost(played, "carry", pending->active);
        put(played, HOST, pending->carry_ns, &played->host, 1);
    }
    EngineTask load = begin_together(played, pending, n);
    if (pending->n_ahead == 0)
        pending->loaded.loads[pending->loaded.n_loads++] = load;
    else
        played->prefetches[played->n_prefetches++] = load;
    for (uint32_t i = 0; i < pending->n_ahead; i++)
        played->prefetched[pending->ahead[i].layer][pending->ahead[i].expert] = load;
    pending->n_ahead = 0;
}

static void begin_put_off(Played *played)
{
    static const Pending NOTHING;
    uint32_t n = played->n_put_off;
    played->n_put_off = 0;
    if (n == 0)
        return;
    EngineTask load = begin_load(played, &NOTHING, cost(played, "copy/ahead", n), 0, n);
    played->prefetches[played->n_prefetches++] = load;
    for (uint32_t i = 0; i < n; i++)
        played->prefetched[played->put_off[i].layer][played->put_off[i].expert] = load;
}

static void queue_pending(Played *played, Pending *pending)
{
    Jobs *loaded = &pending->loaded;
    begin_gathered(played, pending);
    if (loaded->active > 0 && played->load_ns == 0 &&
        loaded->active * played->slot_bytes <= SHORT_LOADS_BYTES) {
        loaded->active += pending->hits.active;
        loaded->rows += pending->hits.rows;
        pending->hits = (Jobs){0};
    }
    queue_jobs(played, pending, &pending->hits);
    queue_jobs(played, pending, loaded);
}

static void load_on_demand(Played *played, const BufferAction *action, Pending *pending)
{
    Jobs *loaded = &pending->loaded;
    loaded->active++;
    loaded->rows += pending->rows[action->expert];
    loaded->slots[action->slot] = true;
    if (played->slot_bytes <= LOADED_TOGETHER_BYTES) {
        pending->gathered++;
        return;
    }
    uint64_t ns = copy_cost(played, (double)played->slot_bytes, played->load_ns);
    loaded->loads[loaded->n_loads++] = begin_load(played, pending, ns, 0, 0);
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
    } else if (!pending->queued) {
        played->put_off[played->n_put_off].layer = action->layer_index;
        played->put_off[played->n_put_off++].expert = action->expert;
    } else {
        pending->ahead[pending->n_ahead].layer = action->layer_index;
        pending->ahead[pending->n_ahead++].expert = action->expert;
        pending->gathered++;
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
    jobs->rows += pending->rows[action->expert];
    jobs->slots[action->slot] = true;
    if (prefetch != 0)
        jobs->loads[jobs->n_loads++] = prefetch;
}

static void queue_experts(Played *played, const TimingEvent *event, const BufferAction *actions,
                          uint32_t n)
{
    static Pending pending;
    uint32_t rows[EXPERTS];
    bool passed = false;
    uint32_t loads = 0;
    pending = (Pending){.active = event->n, .rows = rows};
    for (uint32_t i = 0; i < event->n; i++)
        rows[event->experts[i]] = event->rows[i];
    for (uint32_t i = 0; i < n; i++)
        loads += actions[i].kind == RESIDENCY_LOAD || actions[i].kind == RESIDENCY_BYPASS;
    bool predicts = played->predicts && event->layer_index + 1 < MOE_LAYERS;
    /* The host waits for the queue, wakes up, and decides. */
    begin_put_off(played);
    EngineTask both[] = {played->host, played->last};
    put(played, HOST, cost(played, "wake", 0), both, 2);
    const char *decide = loads > 0 ? "decide/load" : "decide";
    put(played, HOST, cost(played, predicts ? "decide/previous-step" : decide, event->n),
        &played->host, 1);
    for (uint32_t i = 0; i < n; i++) {
        if (actions[i].kind == RESIDENCY_PREFETCH && !passed) {
            begin_gathered(played, &pending);
            pass(played, event->layer_index);
            passed = true;
            if (!played->shares) {
                queue_pending(played, &pending);
                pending.queued = false;
            }
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
    begin_put_off(played);
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

#endif
