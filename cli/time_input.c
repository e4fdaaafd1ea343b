#include "cli/time_input.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "cli/table.h"
#include "policies/plan_measured.h"

/* Whether the notes of a run say that its routing was laid on the model; others' may say anything.
 */
static bool is_forced(const char *notes)
{
    cJSON *json;
    if (notes == NULL)
        return false;
    if (json_parse(notes, strlen(notes), "notes", &json) != OK) {
        error_clear();
        return false;
    }
    const cJSON *routing = cJSON_GetObjectItemCaseSensitive(json, "routing");
    bool forced = cJSON_IsString(routing) && strcmp(routing->valuestring, "gate") != 0;
    cJSON_Delete(json);
    return forced;
}

/* The model that the trace names, and how it was routed. */
static Status read_run(const char *path, SimulatedTime *time)
{
    TraceReader *reader;
    TRY(trace_reader_open(path, &reader));
    const TraceRun *run = trace_reader_run(reader);
    time->forced = is_forced(run->notes);
    Status status = mem_new(&time->model, strlen(run->model) + 1, 1, "model name");
    if (status == OK)
        memcpy(time->model, run->model, strlen(run->model) + 1);
    trace_reader_close(reader);
    return status;
}

Status simulated_time_open(const TimeInput *input, const char *path, SimulatedTime *time)
{
    TRY(hardware_load(input->hardware, &time->hardware));
    return read_run(path, time);
}

Status time_input_measure(const TimeInput *input, const char *path, Plan *plan)
{
    SimulatedTime time = {0};
    TraceReader *reader;
    uint32_t n_layers;
    if (input->hardware == NULL || plan_unmeasured(plan) == NULL)
        return OK;
    TRY(trace_reader_open(path, &reader));
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    Status status = simulated_time_open(input, path, &time);
    if (status == OK)
        status = fail_in(plan_measure_on(plan, &time.hardware,
                                         input->model != NULL ? input->model : time.model, layers,
                                         n_layers),
                         "%s", input->hardware);
    simulated_time_close(&time);
    trace_reader_close(reader);
    return status;
}

static Status read_tokens(const char *const *paths, size_t count, RebatchTokens **tokens)
{
    TraceShards *shards;
    TRY(trace_shards_open(paths, count, &shards));
    Status status = rebatch_tokens_read(shards, tokens);
    trace_shards_close(shards);
    return status;
}

Status plan_timer_input(const TimeInput *input, const char *const *paths, size_t count,
                        const Plan *plan, SimulatedTime *time, PlanTimer *timer)
{
    TRY(simulated_time_open(input, paths[0], time));
    if (plan->batching.mode == BATCHING_CONTINUOUS)
        TRY(read_tokens(paths, count, &time->tokens));
    *timer = (PlanTimer){.hardware = &time->hardware,
                         .model = input->model != NULL ? input->model : time->model,
                         .features = &time->features,
                         .tokens = time->tokens,
                         .forced = time->forced};
    return OK;
}

static TimelineMemory memory_of(const TimingMemory *in_use)
{
    return (TimelineMemory){.weights = in_use->weights,
                            .slots = in_use->slots,
                            .caches = in_use->caches,
                            .activations = in_use->activations};
}

/* What OF did in STEP: rank RANK of several, or all there is. */
static Status draw(Timeline *timeline, const StepFeatures *features, const StepTime *step,
                   const RankStep *of, uint32_t rank)
{
    return timeline_add(timeline, TIMELINE_SIMULATOR,
                        &(TimelineStep){.step = features->step,
                                        .phase = features->phase,
                                        .tokens = of->tokens,
                                        .start_ns = step->start_ns,
                                        .duration_ns = step->duration_ns,
                                        .ops = of->ops,
                                        .n_ops = of->n_ops,
                                        .residency = of->residency,
                                        .n_residency = of->n_residency,
                                        .memory = memory_of(&of->in_use),
                                        .rank = rank,
                                        .ranks = step->n_ranks,
                                        .ports = of->ports,
                                        .n_ports = of->n_ports});
}

Status simulated_step_draw(Timeline *timeline, const StepFeatures *features, const StepTime *step)
{
    if (step->n_ranks == 0)
        return draw(timeline, features, step,
                    &(RankStep){.tokens = features->tokens,
                                .ops = step->ops,
                                .n_ops = step->n_ops,
                                .residency = step->residency,
                                .n_residency = step->n_residency,
                                .in_use = step->in_use},
                    0);
    for (uint32_t rank = 0; rank < step->n_ranks; rank++)
        TRY(draw(timeline, features, step, &step->ranks[rank], rank));
    return OK;
}

static Status keep_step(SimulatedTime *time, const StepFeatures *features, const StepTime *step)
{
    TRY(mem_grow(&time->steps, &time->steps_room, time->n_steps, sizeof *time->steps,
                 "simulated steps"));
    time->steps[time->n_steps++] = (SimulatedStep){.step = features->step,
                                                   .phase = features->phase,
                                                   .tokens = features->tokens,
                                                   .start_ns = step->start_ns,
                                                   .duration_ns = step->duration_ns,
                                                   .exposed_load_ns = step->exposed_load_ns,
                                                   .bytes_loaded = step->bytes_loaded};
    return OK;
}

static Status note_step(void *argument, const StepFeatures *features, const StepTime *step)
{
    SimulatedTime *time = argument;
    if (time->keeps_steps)
        TRY(keep_step(time, features, step));
    return time->timeline != NULL ? simulated_step_draw(time->timeline, features, step) : OK;
}

/* WARM: other steps ran before. */
static Status open_timing(SimulatedTime *time, const TimeInput *input, const TraceLayer *layers,
                          uint32_t n_layers, const Plan *plan, bool warm)
{
    const TimingOptions options = {.hardware = &time->hardware,
                                   .model = input->model != NULL ? input->model : time->model,
                                   .plan = plan,
                                   .layers = layers,
                                   .n_layers = n_layers,
                                   .logits = true,
                                   .forced = time->forced,
                                   .warm = warm,
                                   .records = input->timeline != NULL};
    time->keeps_steps = input->keeps_steps;
    TRY(timing_check_plan(plan, options.layers, options.n_layers));
    TRY(fail_in(timing_new(&options, &time->timing), "%s", input->hardware));
    return input->timeline != NULL ? timeline_open(input->timeline, &time->timeline) : OK;
}

/* Puts the time line in its place. */
static Status close_timeline(SimulatedTime *time)
{
    Timeline *done = time->timeline;
    time->timeline = NULL;
    return done != NULL ? timeline_close(done) : OK;
}

Status simulated_time_run(SimulatedTime *time, const TimeInput *input, const PackedTrace *trace,
                          uint64_t first, const Plan *plan, const ReplayFuture *future,
                          ReplayResult *result)
{
    TRY(open_timing(time, input, trace->layers, trace->n_layers, plan, first > 0));
    time->memory = timing_memory(time->timing, &time->features);
    TRY(timed_replay(trace, future, time->timing, &time->features, first, plan, note_step, time,
                     result));
    Status status = close_timeline(time);
    if (status != OK)
        replay_result_free(result);
    return status;
}

static Status serve(SimulatedTime *time, const TimeInput *input, const Plan *plan, Rebatch *rebatch,
                    ServedPlan *served)
{
    uint32_t n_layers;
    const TraceLayer *layers = rebatch_layers(rebatch, &n_layers);
    TRY(open_timing(time, input, layers, n_layers, plan, false));
    TRY(timed_serve(rebatch, plan, time->timing, input->goals, note_step, time, served));
    time->memory = served->memory;
    Status status = close_timeline(time);
    if (status != OK)
        served_plan_free(served);
    return status;
}

Status simulated_time_serve(SimulatedTime *time, const TimeInput *input, const char *const *paths,
                            size_t count, const Plan *plan, ServedPlan *served)
{
    const Batching batching = plan_batching(plan);
    const Arrivals arrivals = plan_arrivals(plan);
    TraceShards *shards;
    Rebatch *rebatch = NULL;
    TRY(simulated_time_open(input, paths[0], time));
    TRY(trace_shards_open(paths, count, &shards));
    Status status = rebatch_open(shards, &batching, &arrivals, &rebatch);
    if (status == OK)
        status = serve(time, input, plan, rebatch, served);
    rebatch_close(rebatch);
    trace_shards_close(shards);
    return status;
}

void simulated_time_close(SimulatedTime *time)
{
    timeline_abandon(time->timeline);
    timing_free(time->timing);
    trace_features_free(&time->features);
    rebatch_tokens_free(time->tokens);
    hardware_free(&time->hardware);
    mem_free(time->steps);
    mem_free(time->model);
}

/* ---- for people ---- */

/* Of several links the mean is told. */
static void add_phase(Table *table, const char *name, const PhaseTime *phase, uint32_t links)
{
    char text[NUMBER_BYTES];
    double ns = (double)phase->ns;
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(phase->steps, text));
    table_cell(table, "%s", number_text(phase->tokens, text));
    table_cell(table, "%s", duration_text(phase->ns, text));
    table_cell(table, "%s", duration_text(phase->steps > 0 ? phase->ns / phase->steps : 0, text));
    table_cell(table, "%.0f", ns > 0 ? 1e9 * (double)phase->tokens / ns : 0);
    table_cell(table, "%s", duration_text(phase->exposed_load_ns, text));
    table_cell(table, "%.1f %%", ns > 0 ? 100 * (double)phase->exposed_load_ns / ns : 0);
    table_cell(table, "%.1f %%", ns > 0 ? 100 * (double)phase->load_ns / links / ns : 0);
}

static Status print_phases(const TimingTotals *totals)
{
    static const char *const TITLES[] = {
        "time",    "steps",    "tokens", "simulated", "a step", "tokens/s", "waited for misses",
        "of time", "link busy"};
    Table *table;
    TRY(table_new(TITLES, "lrrrrrrrr", &table));
    for (Phase phase = PHASE_PREFILL; phase <= PHASE_MIXED; phase++)
        if (totals->phases[phase].steps > 0)
            add_phase(table, phase_name(phase), &totals->phases[phase], totals->ranks);
    add_phase(table, "total", &totals->total, totals->ranks);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status print_ops(const TimingTotals *totals)
{
    static const char *const TITLES[] = {"operation", "simulated", "share"};
    char text[NUMBER_BYTES];
    Table *table;
    double all = totals->total.ns > 0 ? (double)totals->total.ns : 1;
    TRY(table_new(TITLES, "lrr", &table));
    for (Op op = 0; op < OPS; op++) {
        if (totals->op_ns[op] == 0)
            continue;
        table_cell(table, "%s", op_name(op));
        table_cell(table, "%s", duration_text(totals->op_ns[op], text));
        table_cell(table, "%.1f %%", 100 * (double)totals->op_ns[op] / all);
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static void add_rank(Table *table, uint32_t number, const RankTime *rank, uint64_t total_ns)
{
    char text[NUMBER_BYTES];
    double all = total_ns > 0 ? (double)total_ns : 1;
    table_cell(table, "%" PRIu32, number);
    table_cell(table, "%s", number_text(rank->assignments, text));
    table_cell(table, "%s", duration_text(rank->compute_ns, text));
    table_cell(table, "%s", duration_text(rank->experts_ns, text));
    table_cell(table, "%s", duration_text(rank->exchange_ns, text));
    table_cell(table, "%s", duration_text(rank->waited_ns, text));
    table_cell(table, "%.1f %%", 100 * (double)rank->compute_ns / all);
    table_cell(table, "%.1f %%", 100 * (double)timing_idle_ns(rank, total_ns) / all);
    table_cell(table, "%.1f %%", 100 * (double)rank->load_ns / all);
}

/* What each of several ranks did, and what it costs that they are not equally full. */
static Status print_ranks(const TimingTotals *totals)
{
    static const char *const TITLES[] = {"rank",          "assignments", "computed",
                                         "of it experts", "all-to-all",  "waited for others",
                                         "computing",     "idle",        "link busy"};
    char all_to_all[NUMBER_BYTES];
    char imbalance[NUMBER_BYTES];
    Table *table;
    if (totals->of_ranks == NULL)
        return OK;
    TRY(table_new(TITLES, "rrrrrrrrr", &table));
    for (uint32_t i = 0; i < totals->ranks; i++)
        add_rank(table, i, &totals->of_ranks[i], totals->total.ns);
    puts("");
    Status status = table_print(table, stdout);
    table_free(table);
    printf("\n%u ranks, each with its share of the requests and its experts. Operations above are "
           "rank 0's: of its experts\n%s are all-to-all, before and after. That one rank computes "
           "longer than the mean of all costs %s,\n%.1f %% of the time. No executor runs this: "
           "these times are not confirmed.\n",
           totals->ranks, duration_text(totals->all_to_all_ns, all_to_all),
           duration_text(totals->imbalance_ns, imbalance),
           totals->total.ns > 0 ? 100 * (double)totals->imbalance_ns / (double)totals->total.ns
                                : 0);
    return status;
}

/* Whose costs are guesses from other places. */
static void print_extrapolated(const TimingTotals *totals)
{
    char text[NUMBER_BYTES];
    const char *before = "EXTRAPOLATED, at the utilisation of the nearest measured place: ";
    for (Op op = 0; op < OPS; op++) {
        uint64_t n = totals->op_use[op].n[COST_EXTRAPOLATED];
        if (n == 0)
            continue;
        printf("%s%s (%s)", before, op_name(op), number_text(n, text));
        before = ", ";
    }
    if (before[0] == ',')
        puts(".");
}

static void print_missing(const TimingTotals *totals)
{
    for (uint32_t i = 0; i < totals->n_missing; i++)
        printf("%s%s%s", i == 0 ? "MISSING in the profile, and counted as nothing: " : ", ",
               totals->missing[i], i + 1 == totals->n_missing ? ".\n" : "");
}

/* What costs were not measured where they were asked for. */
static void print_costs(const TimingTotals *totals)
{
    CostUse sum = totals->other_use;
    char text[NUMBER_BYTES];
    for (Op op = 0; op < OPS; op++)
        for (CostStatus s = COST_OK; s < COST_STATUSES; s++)
            sum.n[s] += totals->op_use[op].n[s];
    printf("Costs looked up:");
    for (CostStatus s = COST_OK; s < COST_STATUSES; s++)
        printf("%s %s %s", s == COST_OK ? "" : ",", number_text(sum.n[s], text),
               cost_status_name(s));
    puts(".");
    print_extrapolated(totals);
    print_missing(totals);
    for (Op op = 0; op < OPS; op++)
        if (totals->op_use[op].n[COST_MISSING] > 0)
            printf("%s has no costs in the profile and counts as no time.\n", op_name(op));
}

Status simulated_time_print(const SimulatedTime *time, uint64_t simulated_ns)
{
    char peak[NUMBER_BYTES];
    char parts[4][NUMBER_BYTES];
    const TimingTotals totals = timing_totals(time->timing);
    const TimingMemory *memory = &time->memory;
    TRY(print_phases(&totals));
    puts("");
    TRY(print_ops(&totals));
    TRY(print_ranks(&totals));
    printf("\nOn %s.\nDevice memory %s%s: weights %s, expert slots %s, caches %s, activations and "
           "the rest %s.\n",
           time->hardware.device, totals.ranks > 1 ? "of the fullest rank " : "",
           bytes_text(memory->total, peak), bytes_text(memory->weights, parts[0]),
           bytes_text(memory->slots, parts[1]), bytes_text(memory->caches, parts[2]),
           bytes_text(memory->activations, parts[3]));
    print_costs(&totals);
    if (simulated_ns > 0)
        printf("Simulated %.0f times as fast as it would run.\n",
               (double)totals.total.ns / (double)simulated_ns);
    return OK;
}

static Status add_step(cJSON *list, const SimulatedStep *step)
{
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(json_add_u64(item, "step", step->step));
    TRY(json_add_text(item, "phase", phase_name(step->phase)));
    TRY(json_add_u64(item, "tokens", step->tokens));
    TRY(json_add_u64(item, "start_ns", step->start_ns));
    TRY(json_add_u64(item, "total_ns", step->duration_ns));
    TRY(json_add_u64(item, "exposed_load_ns", step->exposed_load_ns));
    return json_add_u64(item, "bytes_loaded", step->bytes_loaded);
}

static Status add_steps(cJSON *json, const SimulatedTime *time)
{
    cJSON *list;
    if (!time->keeps_steps)
        return OK;
    TRY(json_add_array(json, "per_step", &list));
    for (size_t i = 0; i < time->n_steps; i++)
        TRY(add_step(list, &time->steps[i]));
    return OK;
}

Status simulated_time_json(const SimulatedTime *time, cJSON *json)
{
    cJSON *object;
    TRY(timing_json(time->timing, &time->memory, &object));
    TRY(json_attach(json, "time", object));
    return add_steps(object, time);
}
