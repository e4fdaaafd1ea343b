#include <inttypes.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/part_input.h"
#include "cli/plan_input.h"
#include "cli/print.h"
#include "cli/service_goals.h"
#include "cli/serving_print.h"
#include "cli/table.h"
#include "cli/time_input.h"
#include "cli/trace_input.h"
#include "sim/ranked_replay.h"
#include "sim/static_gating.h"
#include "sim/sweep_learn.h"
#include "traces/packed_part.h"

typedef struct {
    OptionList traces;
    const char *plan;
    OptionList sets;
    const char *train;
    const char *test;
    TimeInput time;
    ServiceGoals goals;
    bool json;
} Arguments;

/* What is printed. */
typedef struct {
    const Arguments *arguments;
    const Plan *plan; /* as it was given */
    const PackedTrace *trace;
    TraceParts parts;
    ScoreSource scores;           /* of plans that read them */
    ReplayResult result;          /* of the test part */
    SimulatedTime time;           /* of the same, with --hardware */
    const ServingReport *serving; /* of continuous batching, else NULL */
    bool counts_gating;
    StaticGatingCounts gating; /* of the whole trace */
} Simulation;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        LIST_OPTION("trace", "FILE", "the trace to replay; repeated: shards, one after the other",
                    &arguments->traces, .required = true),
        PLAN_OPTIONS(&arguments->plan, &arguments->sets),
        TRAIN_OPTION(&arguments->train),
        TEST_OPTION(&arguments->test),
        TIME_OPTIONS(&arguments->time),
        TIMELINE_OPTION(&arguments->time),
        GOAL_OPTIONS(&arguments->goals),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "simulate",
        .summary = "Replays the routing of a trace through the expert buffer of a plan, and counts "
                   "hits, misses and bytes loaded. Routing is taken as recorded. A plan with "
                   "something to learn (a hot set, as evict static has) learns it from the "
                   "training part and is scored on the test part, from a cold start. With "
                   "--hardware it plays the operations, loads and waits of every step on the "
                   "machine that the profile describes, and says how long they take; with "
                   "batching.mode \"continuous\" requests arrive there and share steps, and "
                   "latencies and throughput are told.",
        .example = "moebius simulate --trace trace.db --plan plan.json --set buffer.slots=8\n"
                   "moebius simulate --trace trace.db --set buffer.slots=8 --set "
                   "buffer.evict=static --train 0:0.5\n"
                   "moebius simulate --trace trace.db --plan plan.json --hardware hw.json "
                   "--timeline timeline.json",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    if (arguments->time.hardware == NULL &&
        (arguments->time.timeline != NULL || arguments->time.model != NULL))
        return options_fail(&table, "--timeline and --model need --hardware");
    arguments->time.keeps_steps = arguments->json;
    arguments->time.goals = &arguments->goals;
    return OK;
}

static void add_row(Table *table, const char *name, const ReplayLayer *layer)
{
    char text[NUMBER_BYTES];
    const BufferCounts *counts = &layer->counts;
    uint64_t lookups = counts->hits + counts->misses;
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(lookups, text));
    table_cell(table, "%s", number_text(counts->hits, text));
    table_cell(table, "%s", number_text(counts->misses, text));
    table_cell(table, "%s", ratio_text(counts->misses, lookups, text));
    table_cell(table, "%s", number_text(layer->assignments, text));
    table_cell(table, "%s", ratio_text(layer->assignment_hits, layer->assignments, text));
    table_cell(table, "%s", number_text(counts->loads, text));
    table_cell(table, "%.2f", (double)counts->bytes_loaded / 1048576.0);
    table_cell(table, "%s", number_text(counts->evictions, text));
    table_cell(table, "%s", ratio_text(counts->evicted_newest, counts->evictions, text));
    table_cell(table, "%s", ratio_text(counts->evicted_young, counts->evictions, text));
}

static Status print_layers(const PackedTrace *trace, const ReplayResult *result)
{
    static const char *const TITLES[] = {
        "layer",           "lookups", "hits", "misses",    "miss ratio",     "assignments",
        "assignment hits", "loads",   "MiB",  "evictions", "newest evicted", "young"};
    Table *table;
    char name[16];
    TRY(table_new(TITLES, "rrrrrrrrrrrr", &table));
    for (uint32_t i = 0; i < result->n_layers; i++) {
        snprintf(name, sizeof name, "%" PRIu32, trace->layers[i].layer);
        add_row(table, name, &result->layers[i]);
    }
    add_row(table, "total", &result->total);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static void add_prefetch_row(Table *table, const char *name, const BufferCounts *counts)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(counts->predictions, text));
    table_cell(table, "%s", ratio_text(counts->predicted_right, counts->predictable, text));
    table_cell(table, "%s", ratio_text(counts->predicted_right, counts->predicted, text));
    table_cell(table, "%s", number_text(counts->prefetches, text));
    table_cell(table, "%s", number_text(counts->prefetch_hits, text));
    table_cell(table, "%s", number_text(counts->prefetches - counts->prefetch_hits, text));
    table_cell(table, "%.2f", (double)counts->bytes_prefetched / 1048576.0);
}

/* How good the predictions were, and what became of the loads that they asked for. */
static Status prefetch_table(const PackedTrace *trace, const ReplayResult *result, Table **table)
{
    static const char *const TITLES[] = {"layer",      "predicted", "recall", "precision",
                                         "prefetched", "useful",    "wasted", "MiB"};
    char name[16];
    TRY(table_new(TITLES, "rrrrrrrr", table));
    for (uint32_t i = 0; i < result->n_layers; i++) {
        snprintf(name, sizeof name, "%" PRIu32, trace->layers[i].layer);
        if (result->layers[i].counts.predictions > 0)
            add_prefetch_row(*table, name, &result->layers[i].counts);
    }
    add_prefetch_row(*table, "total", &result->total.counts);
    return OK;
}

static Status print_tables(const PackedTrace *trace, const Plan *plan, const ReplayResult *result)
{
    Table *prefetch = NULL;
    if (plan_prefetches(plan))
        TRY(prefetch_table(trace, result, &prefetch));
    Status status = print_layers(trace, result);
    if (status == OK && prefetch != NULL) {
        puts("");
        status = table_print(prefetch, stdout);
    }
    if (prefetch != NULL)
        table_free(prefetch);
    return status;
}

static void print_plan(const Plan *plan, const PackedTrace *trace, ScoreSource scores)
{
    char steps[NUMBER_BYTES];
    if (plan->buffer.on)
        printf("\n%s, replay order %s, scope %s; routing as recorded.\n", plan->buffer.evict,
               plan_order_name(plan->buffer.order), plan_scope_name(plan->buffer.scope));
    else
        printf("\nAll experts resident; routing as recorded.\n");
    if (plan->placement.ranks > 1)
        printf("%" PRIu32
               " ranks, placement %s: lookups, loads and the memory of experts are those "
               "of all.\n",
               plan->placement.ranks, PLACEMENT_METHOD_NAMES[plan->placement.method]);
    if (scores != SCORES_UNKNOWN)
        printf("Scores are %s.\n", scores == SCORES_OF_ROUTER
                                       ? "the router's, of every expert"
                                       : "the weights of the chosen experts: the trace has no "
                                         "others of every expert");
    if (plan_prefetches(plan))
        printf("Prefetching by %s, %" PRIu32 " MoE layers ahead: recall is the share of the "
               "lookups that was predicted,\nprecision the share of the predictions that was "
               "looked up.\n",
               plan->prefetch.predictor, plan->prefetch.distance);
    if (plan->batching.mode == BATCHING_CONTINUOUS)
        printf("Continuous batching: at most %" PRIu32 " requests and %" PRIu32
               " tokens a step: %s steps.\n",
               plan->batching.sequences, plan->batching.max_tokens,
               number_text(trace->n_steps, steps));
    else if (plan->batching.mode != BATCHING_AS_RECORDED)
        printf("Tokens regrouped: %" PRIu32 " sequences at once, prompts %s, at most %" PRIu32
               " tokens a step: %s steps.\n",
               plan->batching.sequences, plan_batching_name(plan->batching.mode),
               plan->batching.max_tokens, number_text(trace->n_steps, steps));
}

/* Where the plan's gating is static; steps that were regrouped are not looked at. */
static Status count_static_gating(const Arguments *arguments, const Plan *plan,
                                  Simulation *simulation)
{
    simulation->counts_gating =
        plan->gating.mode == GATING_STATIC && plan->batching.mode == BATCHING_AS_RECORDED;
    if (!simulation->counts_gating)
        return OK;
    return static_gating_count(arguments->traces.items, arguments->traces.count, plan,
                               &simulation->gating);
}

static double waste_factor(const StaticGatingCounts *gating)
{
    return gating->assignments > 0 ? (double)gating->slots / (double)gating->assignments : 0;
}

static void print_static_gating(const Simulation *simulation)
{
    char dropped[NUMBER_BYTES];
    const StaticGatingCounts *gating = &simulation->gating;
    if (simulation->counts_gating)
        printf("Static gating drops %s of the trace's assignments and computes %.4g rows for each "
               "one.\n",
               ratio_text(gating->dropped, gating->assignments, dropped), waste_factor(gating));
}

static Status add_static_gating(cJSON *json, const Simulation *simulation)
{
    cJSON *object;
    const StaticGatingCounts *gating = &simulation->gating;
    if (!simulation->counts_gating)
        return OK;
    TRY(json_add_object(json, "static_gating", &object));
    TRY(json_add_u64(object, "assignments", gating->assignments));
    TRY(json_add_u64(object, "dropped", gating->dropped));
    TRY(json_add_u64(object, "slots", gating->slots));
    return json_add_f64(object, "waste_factor", waste_factor(gating));
}

static void print_host_share(const Plan *plan, const BufferCounts *counts)
{
    char computed[NUMBER_BYTES];
    char misses[NUMBER_BYTES];
    char rows[NUMBER_BYTES];
    if (plan->compute.mode != COMPUTE_ON_GPU)
        printf("Compute %s: the host computes %s of %s misses, %s assignments.\n",
               plan_compute_name(plan->compute.mode), number_text(counts->host_computed, computed),
               number_text(counts->misses, misses), number_text(counts->host_rows, rows));
}

/* Before what was hit and missed: time is what it is for. */
static Status print_times(const Simulation *simulation)
{
    if (simulation->serving != NULL) {
        TRY(serving_print(simulation->serving));
        puts("");
    }
    TRY(simulated_time_print(&simulation->time, simulation->result.replay_ns));
    puts("");
    return OK;
}

static bool starts_cold(const Plan *plan)
{
    return plan->buffer.initial.table == NULL && plan->buffer.initial.choice == HOT_NONE;
}

/* By the bytes of the trace; with a profile stands above what the device takes for them. */
static void print_experts_memory(const Simulation *simulation)
{
    char memory[NUMBER_BYTES];
    if (simulation->arguments->time.hardware != NULL)
        return;
    if (simulation->result.memory_bytes > 0)
        printf("Experts take %s of device memory. ",
               bytes_text(simulation->result.memory_bytes, memory));
    else
        printf("The trace does not say how large experts are. ");
}

static Status print_people(const Simulation *simulation)
{
    char lookups[NUMBER_BYTES];
    char assignments[NUMBER_BYTES];
    char duration[NUMBER_BYTES];
    const ReplayResult *result = &simulation->result;
    const BufferCounts *counts = &result->total.counts;
    if (simulation->arguments->time.hardware != NULL)
        TRY(print_times(simulation));
    TRY(print_tables(simulation->trace, simulation->plan, result));
    print_plan(simulation->plan, simulation->trace, simulation->scores);
    print_static_gating(simulation);
    part_input_print(&simulation->parts, simulation->trace->n_steps,
                     starts_cold(simulation->plan) ? "cold" : "with the plan's initial experts");
    printf("Miss ratio is of %s lookups (one per step, layer and expert needed); assignment hits "
           "of %s\nassignments (token and slot). Newest evicted: evictions that took the expert "
           "loaded last;\nyoung: one of the newest eighth. ",
           number_text(counts->hits + counts->misses, lookups),
           number_text(result->total.assignments, assignments));
    print_experts_memory(simulation);
    printf("Replayed in %s.\n", duration_text(result->replay_ns, duration));
    print_host_share(simulation->plan, counts);
    return OK;
}

static Status fill_json(cJSON *json, const Simulation *simulation)
{
    cJSON *canonical;
    TRY(trace_input_json(json, &simulation->arguments->traces));
    TRY(json_add_text(json, "routing", "as recorded"));
    if (simulation->scores != SCORES_UNKNOWN)
        TRY(json_add_text(json, "scores", score_source_name(simulation->scores)));
    TRY(add_static_gating(json, simulation));
    TRY(part_input_json(json, &simulation->parts));
    if (cJSON_GetObjectItemCaseSensitive(json, "memory_bytes") == NULL)
        TRY(json_add_u64(json, "memory_bytes", simulation->result.memory_bytes));
    if (simulation->arguments->time.hardware != NULL)
        TRY(simulated_time_json(&simulation->time, json));
    if (simulation->serving != NULL)
        TRY(serving_report_json(simulation->serving, json));
    TRY(plan_to_json(simulation->plan, &canonical));
    return json_attach(json, "plan", canonical);
}

static Status print_result_json(const Simulation *simulation)
{
    cJSON *json;
    TRY(replay_result_json(&simulation->result, simulation->trace->layers, &json));
    return print_json_end(json, fill_json(json, simulation));
}

/* What time is simulated with. */
static Status open_time(Simulation *simulation)
{
    const Arguments *arguments = simulation->arguments;
    if (arguments->time.hardware == NULL)
        return OK;
    return simulated_time_open(&arguments->time, arguments->traces.items[0], &simulation->time);
}

/* Replays the test part under the plan with what it learnt. */
static Status replay(Simulation *simulation, const TraceSignals *signals, const Plan *learnt)
{
    const Steps *steps = &simulation->parts.test;
    const PackedTrace test = packed_trace_part(simulation->trace, steps->first, steps->end);
    ReplayFuture future = {.signals = signals,
                           .signals_skipped =
                               packed_trace_part_first_event(simulation->trace, steps->first)};
    Status status = replay_prepare(&test, learnt, &future);
    if (status == OK && simulation->arguments->time.hardware != NULL)
        status = simulated_time_run(&simulation->time, &simulation->arguments->time, &test,
                                    steps->first, learnt, &future, &simulation->result);
    else if (status == OK)
        status = plan_replay_run(&test, learnt, &future, &simulation->result);
    replay_future_free(&future);
    if (signals != NULL)
        simulation->scores = trace_signals_source(signals);
    return status;
}

static Status print_simulation(const Simulation *simulation)
{
    return simulation->arguments->json ? print_result_json(simulation) : print_people(simulation);
}

/* Continuous batching: the steps come of the simulation. */
static Status simulate_served(const Arguments *arguments, const Plan *plan)
{
    Simulation simulation = {.arguments = arguments, .plan = plan};
    ServedPlan served;
    if (arguments->train != NULL || arguments->test != NULL)
        return fail(ERR_USAGE, "--train and --test do not go with batching.mode \"continuous\", "
                               "whose steps are not those of the trace");
    TRY(plan_check_learned(plan));
    Status status =
        simulated_time_serve(&simulation.time, &arguments->time, arguments->traces.items,
                             arguments->traces.count, plan, &served);
    if (status == OK) {
        simulation.trace = &served.trace;
        simulation.parts.test = (Steps){0, served.trace.n_steps};
        simulation.result = served.result;
        simulation.serving = &served.serving;
        status = print_simulation(&simulation);
        served_plan_free(&served);
    }
    simulated_time_close(&simulation.time);
    return status;
}

/* Learns from one part of the trace and replays the other. */
static Status learn_and_replay(Simulation *simulation, const TraceSignals *signals)
{
    Plan learnt;
    TRY(learn_plan(simulation->trace, signals, &simulation->parts, simulation->plan, &learnt));
    Status status = count_static_gating(simulation->arguments, simulation->plan, simulation);
    if (status == OK)
        status = open_time(simulation);
    if (status == OK)
        status = replay(simulation, signals, &learnt);
    plan_free(&learnt);
    return status;
}

static Status simulate(Simulation *simulation)
{
    const Arguments *arguments = simulation->arguments;
    const Plan *plan = simulation->plan;
    PartsAsked asked;
    TraceSignals *signals;
    TRY(part_input(arguments->train, arguments->test, &asked));
    if (arguments->train == NULL)
        TRY(plan_check_learned(plan));
    TRY(trace_parts_choose(&asked, plan_unlearned(plan) != NULL, simulation->trace->n_steps,
                           &simulation->parts));
    TRY(trace_input_signals(&arguments->traces, plan, 1, &signals));
    Status status = learn_and_replay(simulation, signals);
    trace_signals_free(signals);
    if (status == OK) {
        status = print_simulation(simulation);
        replay_result_free(&simulation->result);
    }
    return status;
}

static Status load_and_simulate(const Arguments *arguments, const Plan *plan)
{
    PackedTrace trace;
    Simulation simulation = {.arguments = arguments, .plan = plan, .trace = &trace};
    if (plan->batching.mode == BATCHING_CONTINUOUS && arguments->time.hardware != NULL)
        return simulate_served(arguments, plan);
    if (arguments->time.hardware != NULL)
        TRY(trace_input_timed(&arguments->traces, plan, true, &trace, &simulation.time.features));
    else
        TRY(trace_input(&arguments->traces, plan, &trace));
    Status status = simulate(&simulation);
    simulated_time_close(&simulation.time);
    packed_trace_free(&trace);
    return status;
}

Status command_simulate(int argc, char **argv)
{
    Arguments arguments = {0};
    Plan plan = {0};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = plan_input(arguments.plan, &arguments.sets, &plan);
    if (status == OK)
        status = service_goals_check(&arguments.goals, plan.batching.mode == BATCHING_CONTINUOUS);
    if (status == OK)
        status = time_input_measure(&arguments.time, arguments.traces.items[0], &plan);
    if (status == OK)
        status = plan_input_blame(load_and_simulate(&arguments, &plan), arguments.plan);
    plan_free(&plan);
    option_list_free(&arguments.sets);
    option_list_free(&arguments.traces);
    return status;
}
