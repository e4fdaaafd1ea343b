/* Steps of several ranks without a buffer, against the same tasks on sim/engine.h, whose resources
 * are a compute stream, an outgoing and an incoming port of each rank; and against a closed form.
 * Over random placements, copies of experts, routings and tables, to the nanosecond. */
#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "sim/engine.h"
#include "sim/timing.h"

enum { LAYERS = 4, EXPERTS = 12, MOST_RANKS = 4, MOST_TOKENS = 60, D_MODEL = 48, STEPS = 3 };
enum { ACTIVE_NS = 1000, ROW_NS = 7, OPS_OF_LAYER = 3 };

typedef enum { COMPUTE, PORT_OUT, PORT_IN, RESOURCES } Resource;

/* ---- the machine: a layer has a dense part, a router, experts and their sum ---- */

static const Op PLAYED[OPS_OF_LAYER] = {OP_DENSE_FFN, OP_ROUTE, OP_COMBINE};

typedef struct {
    Hardware hardware;
    uint64_t op_ns[OPS][MOST_TOKENS + 1]; /* by the tokens of a rank */
} Machine;

static void put_op(HardwareModel *model, uint32_t layer, Op op)
{
    model->ops[STACK_DECODER][model->n_ops[STACK_DECODER]++] =
        (HardwareOp){.layer = layer, .op = op};
}

/* More tokens take as long or longer, if ASCENDING. */
static void put_costs(Machine *machine, uint64_t *random, Op op, bool ascending)
{
    static const char *const TOKENS[] = {"tokens"};
    char name[64];
    CostTable *table;
    snprintf(name, sizeof name, "gpu/%s", op_name(op));
    assert_ok(hardware_add_table(&machine->hardware, name, "", UNIT_NS, TOKENS, 1, &table));
    for (uint32_t i = 1; i <= MOST_TOKENS; i++) {
        machine->op_ns[op][i] = ascending ? machine->op_ns[op][i - 1] + random_below(random, 90)
                                          : random_below(random, 5000);
        assert_ok(cost_table_put(table, (const double[]){i}, (double)machine->op_ns[op][i], 0));
    }
}

static void put_experts(Machine *machine)
{
    static const char *const AXES_OF_EXPERTS[] = {"active", "rows"};
    CostTable *table;
    assert_ok(hardware_add_table(&machine->hardware, "gpu/experts", "", UNIT_NS, AXES_OF_EXPERTS, 2,
                                 &table));
    for (uint32_t active = 1; active <= EXPERTS; active++)
        for (uint32_t rows = 1; rows <= 1025; rows += 1024)
            assert_ok(cost_table_put(table, (const double[]){active, rows},
                                     active * (double)(ACTIVE_NS + ROW_NS * rows), 0));
}

static void put_exchanges(Machine *machine)
{
    static const char *const BYTES[] = {"bytes"};
    char shape[160];
    CostTable *table;
    for (uint32_t ranks = 2; ranks <= MOST_RANKS; ranks++) {
        hardware_ranks_shape(ranks, ranks, shape);
        assert_ok(
            hardware_add_table(&machine->hardware, "all-to-all", shape, UNIT_NS, BYTES, 1, &table));
        assert_ok(cost_table_put(table, (const double[]){0}, 5000, 0));
        assert_ok(cost_table_put(table, (const double[]){1 << 20}, 5000 + (1 << 20), 0));
    }
}

static void make_machine(uint64_t *random, bool ascending, Machine *machine)
{
    HardwareModel *model;
    *machine = (Machine){.hardware = {.backend = "cuda", .device = "cuda: made up"}};
    assert_ok(hardware_add_model(&machine->hardware, "model", &model));
    snprintf(model->compute, sizeof model->compute, "bf16");
    assert_ok(mem_new(&model->ops[STACK_DECODER], 2 + 4 * LAYERS, sizeof(HardwareOp), "ops"));
    put_op(model, 0, OP_EMBED);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        put_op(model, layer, OP_DENSE_FFN);
        put_op(model, layer, OP_ROUTE);
        put_op(model, layer, OP_EXPERTS);
        put_op(model, layer, OP_COMBINE);
    }
    put_costs(machine, random, OP_EMBED, ascending);
    for (int i = 0; i < OPS_OF_LAYER; i++)
        put_costs(machine, random, PLAYED[i], ascending);
    put_experts(machine);
    put_exchanges(machine);
}

/* ---- a case ---- */

typedef struct {
    uint32_t ranks;
    uint32_t replicas;
    bool on[LAYERS][EXPERTS][MOST_RANKS];
    StepFeatures step[STEPS];
    uint32_t rows[STEPS][LAYERS][EXPERTS];
} Case;

static void draw_placement(uint64_t *random, Case *drawn)
{
    drawn->ranks = 2 + random_below(random, MOST_RANKS - 1);
    drawn->replicas = random_below(random, 4);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        for (uint32_t e = 0; e < EXPERTS; e++)
            drawn->on[layer][e][random_below(random, drawn->ranks)] = true;
        for (uint32_t left = drawn->replicas; left > 0;) {
            bool *on =
                &drawn
                     ->on[layer][random_below(random, EXPERTS)][random_below(random, drawn->ranks)];
            left -= !*on;
            *on = true;
        }
    }
}

/* As many requests with a token each, or several, as SINGLE says; or both. */
static StepFeatures draw_step(uint64_t *random, bool single)
{
    uint32_t one = 1 + random_below(random, 20);
    uint32_t several = single ? 0 : random_below(random, 4);
    uint32_t tokens = several > 0 ? several + random_below(random, MOST_TOKENS - one - several) : 0;
    return (StepFeatures){.phase = single ? PHASE_DECODE : PHASE_MIXED,
                          .tokens = one + tokens,
                          .requests = one + several,
                          .groups = {[SPANS_ONE] = {.requests = one, .tokens = one},
                                     [SPANS_SEVERAL] = {.requests = several, .tokens = tokens}}};
}

static Case draw_case(uint64_t *random, bool single)
{
    Case drawn = {0};
    draw_placement(random, &drawn);
    for (uint32_t i = 0; i < STEPS; i++) {
        drawn.step[i] = draw_step(random, single);
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t e = 0; e < EXPERTS; e++)
                drawn.rows[i][layer][e] =
                    random_below(random, 3) > 0 ? 0 : random_below(random, 90);
    }
    return drawn;
}

static Plan plan_of(const Case *drawn)
{
    char text[8192];
    Plan plan;
    char replicas[16] = "null";
    if (drawn->replicas > 0)
        snprintf(replicas, sizeof replicas, "%u", drawn->replicas);
    int n = snprintf(text, sizeof text,
                     "{\"moebius_plan\": 1, \"placement\": {\"ranks\": %u, \"method\": \"given\", "
                     "\"replicas\": %s, \"map\": {",
                     drawn->ranks, replicas);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        n += snprintf(text + n, sizeof text - (size_t)n, "%s\"%u\": [", layer ? ", " : "", layer);
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const char *before = e > 0 ? ", [" : "[";
            for (uint32_t rank = 0; rank < drawn->ranks; rank++)
                if (drawn->on[layer][e][rank]) {
                    n += snprintf(text + n, sizeof text - (size_t)n, "%s%u", before, rank);
                    before = ", ";
                }
            n += snprintf(text + n, sizeof text - (size_t)n, "]");
        }
        n += snprintf(text + n, sizeof text - (size_t)n, "]");
    }
    snprintf(text + n, sizeof text - (size_t)n, "}}}");
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    assert_ok(plan_from_json(json, "plan", &plan));
    cJSON_Delete(json);
    return plan;
}

/* ---- the plain reference of what each rank has ---- */

/* Requests are dealt one by one; those of a group count with its mean tokens, rounded up. */
static uint32_t tokens_of(const Case *drawn, const StepFeatures *step, uint32_t rank)
{
    uint32_t tokens = 0;
    uint32_t to = 0;
    for (int group = 0; group < SPAN_GROUPS; group++) {
        const SpanGroup *all = &step->groups[group];
        uint32_t requests = 0;
        for (uint32_t i = 0; i < all->requests; i++, to = (to + 1) % drawn->ranks)
            requests += to == rank;
        if (requests > 0)
            tokens += (all->tokens * requests + all->requests - 1) / all->requests;
    }
    return tokens;
}

typedef struct {
    uint32_t rows[MOST_RANKS];
    uint32_t active[MOST_RANKS];
    uint32_t sum;
    uint32_t most;
} Shared;

static Shared share(const Case *drawn, uint32_t step, uint32_t layer)
{
    Shared shared = {0};
    for (uint32_t e = 0; e < EXPERTS; e++) {
        const bool *on = drawn->on[layer][e];
        uint32_t copies = 0;
        uint32_t copy = 0;
        for (uint32_t rank = 0; rank < drawn->ranks; rank++)
            copies += on[rank];
        for (uint32_t rank = 0; rank < drawn->ranks; rank++) {
            uint32_t rows = drawn->rows[step][layer][e];
            if (!on[rank])
                continue;
            rows = rows / copies + (copy++ < rows % copies);
            shared.rows[rank] += rows;
            shared.active[rank] += rows > 0;
            shared.sum += rows;
        }
    }
    for (uint32_t rank = 0; rank < drawn->ranks; rank++)
        shared.most = shared.rows[rank] > shared.most ? shared.rows[rank] : shared.most;
    return shared;
}

static uint64_t experts_ns(const Shared *shared, uint32_t rank)
{
    return (uint64_t)ACTIVE_NS * shared->active[rank] + (uint64_t)ROW_NS * shared->rows[rank];
}

static uint64_t way_ns(const Case *drawn, const Shared *shared)
{
    return 5000 + (uint64_t)shared->most * D_MODEL * 2 * (drawn->ranks - 1) / drawn->ranks;
}

/* ---- the tasks on the engine ---- */

typedef struct {
    const Machine *machine;
    const Case *drawn;
    Engine *engine;
    EngineTask last[MOST_RANKS];           /* of the compute stream */
    EngineTask sent[MOST_RANKS][2];        /* the present exchange of a rank's ports */
    uint64_t experts_start_ns[MOST_RANKS]; /* of the last event in which it computed */
} Played;

static EngineTask put(Played *played, uint32_t rank, Resource resource, uint64_t ns,
                      const EngineTask *after, size_t n, uint64_t tag)
{
    EngineTask task;
    const EngineSpec spec = {
        .resource = rank * RESOURCES + resource, .duration_ns = ns, .tag = tag};
    assert_ok(engine_add(played->engine, &spec, after, n, &task));
    return task;
}

static void put_compute(Played *played, uint32_t rank, uint64_t ns, const EngineTask *after,
                        size_t n, uint64_t tag)
{
    played->last[rank] = put(played, rank, COMPUTE, ns, after, n, tag);
}

static void put_ops(Played *played, const StepFeatures *step, const Op *ops, uint32_t n)
{
    for (uint32_t rank = 0; rank < played->drawn->ranks; rank++) {
        uint32_t tokens = tokens_of(played->drawn, step, rank);
        for (uint32_t i = 0; i < n && tokens > 0; i++)
            put_compute(played, rank, played->machine->op_ns[ops[i]][tokens], NULL, 0, 0);
    }
}

/* Both ports of all that take part, from when all have come; what a rank does next waits for its
 * own. */
static void put_exchange(Played *played, const StepFeatures *step, const Shared *shared)
{
    EngineTask came[MOST_RANKS] = {0};
    const uint32_t ranks = played->drawn->ranks;
    for (uint32_t rank = 0; rank < ranks; rank++)
        if (tokens_of(played->drawn, step, rank) > 0 || shared->rows[rank] > 0)
            came[rank] = played->last[rank];
    for (uint32_t rank = 0; rank < ranks; rank++) {
        if (tokens_of(played->drawn, step, rank) == 0 && shared->rows[rank] == 0)
            continue;
        for (int i = 0; i < 2; i++)
            played->sent[rank][i] = put(played, rank, i == 0 ? PORT_OUT : PORT_IN,
                                        way_ns(played->drawn, shared), came, ranks, 0);
        put_compute(played, rank, 0, played->sent[rank], 2, 0);
    }
}

/* The time of step I, begun when all ranks are free. */
static uint64_t play_step(Played *played, uint32_t i)
{
    static const Op BEFORE[] = {OP_DENSE_FFN, OP_ROUTE};
    static const Op EMBED = OP_EMBED;
    static const Op COMBINE = OP_COMBINE;
    const StepFeatures *step = &played->drawn->step[i];
    uint64_t from_ns = engine_now(played->engine);
    EngineEvent event;
    memset(played->last, 0, sizeof played->last);
    put_ops(played, step, &EMBED, 1);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const Shared shared = share(played->drawn, i, layer);
        put_ops(played, step, BEFORE, 2);
        if (shared.sum > 0)
            put_exchange(played, step, &shared);
        for (uint32_t rank = 0; rank < played->drawn->ranks; rank++)
            if (shared.rows[rank] > 0)
                put_compute(played, rank, experts_ns(&shared, rank), NULL, 0, 1);
        if (shared.sum > 0)
            put_exchange(played, step, &shared);
        put_ops(played, step, &COMBINE, 1);
    }
    while (engine_next(played->engine, &event))
        if (event.tag == 1)
            played->experts_start_ns[event.resource / RESOURCES] = event.start_ns;
    assert_int_equal(engine_pending(played->engine), 0);
    return engine_now(played->engine) - from_ns;
}

static void open_engine(const Machine *machine, const Case *drawn, Played *played)
{
    EngineResource resources[MOST_RANKS * RESOURCES];
    for (uint32_t i = 0; i < MOST_RANKS * RESOURCES; i++)
        resources[i] = (EngineResource){ENGINE_STREAM, 1};
    *played = (Played){.machine = machine, .drawn = drawn};
    assert_ok(engine_new(resources, drawn->ranks * RESOURCES, &played->engine));
}

/* ---- what is tested ---- */

static Timing *open_timing(Machine *machine, const Plan *plan, bool records)
{
    static TraceLayer layers[LAYERS];
    Timing *timing;
    for (uint32_t i = 0; i < LAYERS; i++)
        layers[i] = (TraceLayer){
            .layer = i, .experts = EXPERTS, .top_k = 1, .d_model = D_MODEL, .expert_bytes = 1000};
    assert_ok(timing_new(&(TimingOptions){.hardware = &machine->hardware,
                                          .model = "model",
                                          .plan = plan,
                                          .layers = layers,
                                          .n_layers = LAYERS,
                                          .records = records,
                                          .bare = true},
                         &timing));
    return timing;
}

static StepTime time_step(Timing *timing, const Case *drawn, uint32_t i)
{
    StepTime time;
    assert_ok(timing_begin(timing, &drawn->step[i], 0));
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        uint16_t experts[EXPERTS];
        uint32_t rows[EXPERTS];
        uint32_t n = 0;
        for (uint16_t e = 0; e < EXPERTS; e++)
            if (drawn->rows[i][layer][e] > 0) {
                experts[n] = e;
                rows[n++] = drawn->rows[i][layer][e];
            }
        const TimingEvent event = {.layer_index = layer, .n = n, .experts = experts, .rows = rows};
        assert_ok(timing_event(timing, &event, NULL, 0));
    }
    assert_ok(timing_end(timing, &time));
    return time;
}

/* The last record of a rank's experts. */
static const TimingRecord *last_experts(const RankStep *rank)
{
    for (size_t i = rank->n_ops; i-- > 0;)
        if (rank->ops[i].op == OP_EXPERTS)
            return &rank->ops[i];
    return NULL;
}

static void check_records(const Played *played, const StepTime *time)
{
    assert_int_equal(time->n_ranks, played->drawn->ranks);
    for (uint32_t rank = 0; rank < time->n_ranks; rank++) {
        const TimingRecord *record = last_experts(&time->ranks[rank]);
        if (record != NULL)
            assert_int_equal(record->start_ns, played->experts_start_ns[rank]);
    }
}

static void check_engine(Machine *machine, const Case *drawn)
{
    for (int records = 0; records < 2; records++) {
        Played played;
        Plan plan = plan_of(drawn);
        open_engine(machine, drawn, &played);
        Timing *timing = open_timing(machine, &plan, records);
        for (uint32_t i = 0; i < STEPS; i++) {
            const StepTime time = time_step(timing, drawn, i);
            assert_int_equal(time.duration_ns, play_step(&played, i));
            if (records)
                check_records(&played, &time);
        }
        timing_free(timing);
        engine_free(played.engine);
        plan_free(&plan);
    }
}

static void ranks_take_what_their_tasks_take_on_the_engine(void **unused)
{
    (void)unused;
    uint64_t random = 5;
    for (int i = 0; i < 300; i++) {
        Machine machine;
        make_machine(&random, random_below(&random, 2), &machine);
        const Case drawn = draw_case(&random, random_below(&random, 2));
        check_engine(&machine, &drawn);
        hardware_free(&machine.hardware);
    }
}

/* Where more requests never take less time: the fullest rank's operations, exchanges there and
 * back, and the longest experts of each event. */
static uint64_t closed_form(const Machine *machine, const Case *drawn, uint32_t i)
{
    uint32_t tokens = (drawn->step[i].tokens + drawn->ranks - 1) / drawn->ranks;
    uint64_t ns = machine->op_ns[OP_EMBED][tokens];
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const Shared shared = share(drawn, i, layer);
        uint64_t longest_ns = 0;
        for (uint32_t rank = 0; rank < drawn->ranks; rank++)
            if (experts_ns(&shared, rank) > longest_ns)
                longest_ns = experts_ns(&shared, rank);
        for (int op = 0; op < OPS_OF_LAYER; op++)
            ns += machine->op_ns[PLAYED[op]][tokens];
        ns += shared.sum > 0 ? 2 * way_ns(drawn, &shared) + longest_ns : 0;
    }
    return ns;
}

static void steps_that_decode_take_the_closed_form(void **unused)
{
    (void)unused;
    uint64_t random = 6;
    for (int i = 0; i < 300; i++) {
        Machine machine;
        make_machine(&random, true, &machine);
        const Case drawn = draw_case(&random, true);
        Plan plan = plan_of(&drawn);
        Timing *timing = open_timing(&machine, &plan, false);
        for (uint32_t step = 0; step < STEPS; step++)
            assert_int_equal(time_step(timing, &drawn, step).duration_ns,
                             closed_form(&machine, &drawn, step));
        timing_free(timing);
        plan_free(&plan);
        hardware_free(&machine.hardware);
    }
}

/* What ranks compute, exchange and wait for is no more than there is, and rank 0 waits for what it
 * takes longer on another. */
static void the_time_of_each_rank_is_accounted_for(void **unused)
{
    (void)unused;
    uint64_t random = 7;
    for (int i = 0; i < 100; i++) {
        Machine machine;
        make_machine(&random, true, &machine);
        const Case drawn = draw_case(&random, true);
        Plan plan = plan_of(&drawn);
        Timing *timing = open_timing(&machine, &plan, false);
        uint64_t assignments = 0;
        uint64_t experts = 0;
        uint64_t wanted_ns = 0;
        for (uint32_t step = 0; step < STEPS; step++)
            time_step(timing, &drawn, step);
        const TimingTotals totals = timing_totals(timing);
        for (uint32_t rank = 0; rank < drawn.ranks; rank++) {
            const RankTime *of = &totals.of_ranks[rank];
            assert_true(of->compute_ns + of->exchange_ns + of->waited_ns <= totals.total.ns);
            assert_true(of->exchange_ns <= totals.all_to_all_ns);
            assignments += of->assignments;
            experts += of->experts_ns;
        }
        assert_int_equal(totals.of_ranks[0].compute_ns + totals.of_ranks[0].exchange_ns +
                             totals.of_ranks[0].waited_ns,
                         totals.total.ns);
        for (uint32_t step = 0; step < STEPS; step++)
            for (uint32_t layer = 0; layer < LAYERS; layer++) {
                const Shared shared = share(&drawn, step, layer);
                assignments -= shared.sum;
                for (uint32_t rank = 0; rank < drawn.ranks; rank++)
                    wanted_ns += experts_ns(&shared, rank);
            }
        assert_int_equal(assignments, 0);
        assert_int_equal(experts, wanted_ns);
        timing_free(timing);
        plan_free(&plan);
        hardware_free(&machine.hardware);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_take_what_their_tasks_take_on_the_engine),
        cmocka_unit_test(steps_that_decode_take_the_closed_form),
        cmocka_unit_test(the_time_of_each_rank_is_accounted_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
