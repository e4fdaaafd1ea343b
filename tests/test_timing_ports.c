/* Steps of several ranks without a buffer, against the same tasks on sim/engine.h, whose resources
 * are a compute stream, an outgoing and an incoming port of each rank; and against a closed form.
 * Over random placements, copies of experts, routings and tables, to the nanosecond. */
#include "tests/ports_machine.h"

#include "sim/engine.h"

typedef enum { COMPUTE, PORT_OUT, PORT_IN, RESOURCES } Resource;

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

/* Which of an expert's RANKS has its token number TOKEN since the first step. */
static uint32_t rank_of_token(const bool *on, uint32_t ranks, uint32_t token)
{
    for (uint32_t rank = 0;; rank = (rank + 1) % ranks)
        if (on[rank] && token-- == 0)
            return rank;
}

/* Tokens of an expert go to its copies in turn; that of the layer's second expert with copies
 * begins with the second of its own, and so on. */
static Shared share(const Case *drawn, uint32_t step, uint32_t layer)
{
    Shared shared = {0};
    uint32_t copied = 0;
    for (uint32_t e = 0; e < EXPERTS; e++) {
        const bool *on = drawn->on[layer][e];
        uint32_t own[MOST_RANKS] = {0};
        uint32_t copies = 0;
        for (uint32_t rank = 0; rank < drawn->ranks; rank++)
            copies += on[rank];
        uint32_t token = copies > 1 ? copied++ : 0;
        for (uint32_t before = 0; before < step; before++)
            token += drawn->rows[before][layer][e];
        for (uint32_t i = 0; i < drawn->rows[step][layer][e]; i++)
            own[rank_of_token(on, drawn->ranks, token + i)]++;
        for (uint32_t rank = 0; rank < drawn->ranks; rank++) {
            shared.rows[rank] += own[rank];
            shared.active[rank] += own[rank] > 0;
            shared.sum += own[rank];
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
