#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/front_print.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/part_input.h"
#include "cli/plan_input.h"
#include "cli/print.h"
#include "cli/table.h"
#include "cli/time_input.h"
#include "cli/trace_input.h"
#include "sim/curve.h"
#include "sim/sweep.h"
#include "traces/packed_part.h"

typedef struct {
    OptionList traces;
    const char *study;
    const char *out;
    const char *train;
    const char *test;
    int sizes;
    uint32_t jobs;
    TimeInput time;
    bool progress;
    bool json;
} Arguments;

enum { SIZES_GIVEN, SIZES_ALL };
static const char *const SIZES[] = {"given", "all", NULL};

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        LIST_OPTION("trace", "FILE", "the trace to replay; repeated: shards, one after the other",
                    &arguments->traces, .required = true),
        TEXT_OPTION("study", "FILE", "the study: which plans (JSON)", &arguments->study,
                    .required = true),
        TEXT_OPTION("out", "FILE", "study.db; continued when it exists", &arguments->out,
                    .required = true),
        TRAIN_OPTION(&arguments->train),
        TEST_OPTION(&arguments->test),
        TIME_OPTIONS(&arguments->time),
        CHOICE_OPTION(
            "sizes", "given|all",
            "the study's (default), or all from 1 slot to every expert, where the study need "
            "not give any",
            SIZES, &arguments->sizes),
        U32_OPTION("jobs", "N", "threads, of each process under mpirun (default: all processors)",
                   1, 1024, &arguments->jobs),
        PROGRESS_OPTION(&arguments->progress),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "sweep",
        .summary =
            "Replays a trace under every plan of a study and writes one row for each into an "
            "SQLite file. A sweep that was stopped goes on where it was when it is run again. With "
            "--sizes all every plan gets every size; stack policies under order serial (lru, mru, "
            "lfu, belady, belady-admit) take one pass for all of them. Under mpirun the processes "
            "share the plans; only the first writes, and reads anything but the scores and "
            "predictions of the trace. Where a plan has something to learn (evict static a hot "
            "set, placements a map), all plans are scored on the steps that none learnt from: the "
            "second half, after learning from the first, unless --train and --test say else. With "
            "--hardware every plan has its time, throughput and device memory, simulated, and the "
            "plans that none beats in both are shown.",
        .example =
            "moebius sweep --trace trace.db --study study.json --out study.db\n"
            "moebius sweep --trace trace.db --study study.json --hardware hw.json --out times.db",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    if (arguments->time.model != NULL && arguments->time.hardware == NULL)
        return options_fail(&table, "--model needs --hardware");
    return OK;
}

/* With --sizes all: below how many slots lru gets no hit at all in order serial, by scope; 0 where
 * the study has no plan of that scope on one rank. */
typedef struct {
    uint32_t slots[2]; /* by BufferScopeKind */
} LruCliff;

static Status find_cliff(const PackedTrace *trace, BufferScopeKind scope, uint32_t *slots)
{
    const ReplayFuture none = {0};
    MissCurve curve;
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.order = ORDER_SERIAL;
    plan.buffer.scope = scope;
    plan.buffer.slots = 1;
    TRY(curve_run(trace, &plan, &none, &curve));
    *slots = curve_first_hit(&curve);
    curve_free(&curve);
    return OK;
}

/* Of the STEPS that were scored. */
static Status find_cliffs(const PackedTrace *trace, const Study *study, const Steps *steps,
                          LruCliff *cliff)
{
    const PackedTrace test = packed_trace_part(trace, steps->first, steps->end);
    bool wanted[2] = {false};
    for (size_t i = 0; i < study->n_plans; i++)
        if (study->plans[i].buffer.on && study->plans[i].placement.ranks == 1)
            wanted[study->plans[i].buffer.scope] = true;
    for (int scope = SCOPE_LAYER; scope <= SCOPE_DEVICE; scope++)
        if (wanted[scope])
            TRY(find_cliff(&test, (BufferScopeKind)scope, &cliff->slots[scope]));
    return OK;
}

static Status add_cliff(cJSON *json, const LruCliff *cliff)
{
    cJSON *slots;
    TRY(json_add_object(json, "lru_first_hit_slots", &slots));
    for (int scope = SCOPE_LAYER; scope <= SCOPE_DEVICE; scope++)
        if (cliff->slots[scope] > 0)
            TRY(json_add_u64(slots, plan_scope_name((BufferScopeKind)scope), cliff->slots[scope]));
    return OK;
}

/* Of plans that can be run. */
static Status find_front(const Arguments *arguments, StudyFront *front)
{
    const StudyConditions runnable = {.misses_at_most = 1};
    return study_front(arguments->out, &runnable, front);
}

static Status add_front(cJSON *json, const Arguments *arguments)
{
    StudyFront front;
    TRY(find_front(arguments, &front));
    Status status = json_add_text(json, "hardware", arguments->time.hardware);
    if (status == OK)
        status = front_json(&front, json);
    study_front_free(&front);
    return status;
}

/* ... and where that profile did not say what plans asked of it. */
static Status add_guesses(cJSON *json, const CostGuesses *guesses)
{
    cJSON *costs;
    cJSON *list;
    TRY(json_add_object(json, "costs", &costs));
    TRY(json_add_array(costs, "tables_missing", &list));
    for (uint32_t i = 0; i < guesses->n_missing; i++)
        TRY(json_push(list, cJSON_CreateString(guesses->missing[i])));
    TRY(json_add_array(costs, "ops_extrapolated", &list));
    for (Op op = 0; op < OPS; op++)
        if ((guesses->ops & UINT32_C(1) << op) != 0)
            TRY(json_push(list, cJSON_CreateString(op_name(op))));
    return OK;
}

static void print_guesses(const CostGuesses *guesses)
{
    const char *before = "EXTRAPOLATED, at the utilisation of the nearest measured place: ";
    for (Op op = 0; op < OPS; op++) {
        if ((guesses->ops & UINT32_C(1) << op) == 0)
            continue;
        printf("%s%s", before, op_name(op));
        before = ", ";
    }
    if (guesses->ops != 0)
        puts(".");
    for (uint32_t i = 0; i < guesses->n_missing; i++)
        printf("%s%s%s", i == 0 ? "MISSING in the profile, and counted as nothing: " : ", ",
               guesses->missing[i], i + 1 == guesses->n_missing ? ".\n" : "");
}

static Status print_front(const Arguments *arguments)
{
    StudyFront front;
    TRY(find_front(arguments, &front));
    Status status = front_print(&front);
    study_front_free(&front);
    return status;
}

static Status fill_json(cJSON *json, const Arguments *arguments, const SweepTotals *totals,
                        const LruCliff *cliff)
{
    TRY(trace_input_json(json, &arguments->traces));
    TRY(json_add_text(json, "study", arguments->study));
    TRY(json_add_text(json, "out", arguments->out));
    TRY(json_add_u64(json, "plans", totals->plans));
    TRY(json_add_u64(json, "bounds", totals->bounds));
    TRY(json_add_u64(json, "kept", totals->kept));
    TRY(json_add_u64(json, "done", totals->done));
    TRY(json_add_u64(json, "lookups", totals->lookups));
    TRY(part_input_json(json, &totals->parts));
    TRY(json_add_u64(json, "elapsed_ns", totals->elapsed_ns));
    if (arguments->sizes == SIZES_ALL)
        TRY(add_cliff(json, cliff));
    if (arguments->time.hardware != NULL && totals->done + totals->kept > 0)
        TRY(add_front(json, arguments));
    if (arguments->time.hardware != NULL)
        TRY(add_guesses(json, &totals->guesses));
    TRY(json_add_u64(json, "ranks", totals->ranks));
    return json_add_bool(json, "complete", !totals->stopped);
}

static Status print_totals_json(const Arguments *arguments, const SweepTotals *totals,
                                const LruCliff *cliff)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, arguments, totals, cliff));
}

static void print_totals(const Arguments *arguments, const SweepTotals *totals,
                         const LruCliff *cliff)
{
    char lookups[NUMBER_BYTES];
    char duration[NUMBER_BYTES];
    printf("%s: %" PRIu64 " plans (%" PRIu64 " of them bounds added for comparison): %" PRIu64
           " replayed now, %" PRIu64 " kept\n",
           arguments->out, totals->plans, totals->bounds, totals->done, totals->kept);
    printf("%s lookups in %s", number_text(totals->lookups, lookups),
           duration_text(totals->elapsed_ns, duration));
    if (totals->ranks > 1)
        printf(" by %" PRIu32 " processes", totals->ranks);
    putchar('\n');
    part_input_print(&totals->parts, totals->steps, "cold but where a plan has initial experts");
    for (int scope = SCOPE_LAYER; scope <= SCOPE_DEVICE; scope++)
        if (cliff->slots[scope] > 0)
            printf("lru in order serial has its first hit at %" PRIu32 " slots per %s\n",
                   cliff->slots[scope], plan_scope_name((BufferScopeKind)scope));
}

static Status sweep(const Arguments *arguments, const PackedTrace *trace, const Study *study,
                    const TraceSignals *signals, const PlanTimer *timer, SweepRanks *ranks,
                    SweepTotals *totals)
{
    Progress progress;
    char *name;
    PartsAsked parts;
    TRY(part_input(arguments->train, arguments->test, &parts));
    TRY(trace_input_text(&arguments->traces, &name));
    progress_start(&progress, "sweep", "plans", 0);
    if (arguments->progress)
        progress_in_lines(&progress);
    const SweepOptions options = {.parts = parts,
                                  .jobs = arguments->jobs,
                                  .stop = interrupt_watch(),
                                  .progress = progress_show,
                                  .argument = &progress,
                                  .signals = signals,
                                  .timer = timer,
                                  .ranks = ranks};
    Status status = plan_input_blame(
        sweep_run(trace, name, study, arguments->out, &options, totals), arguments->study);
    interrupt_unwatch();
    progress_end(&progress);
    mem_free(name);
    return status;
}

static Status report(const Arguments *arguments, const SweepTotals *totals, const LruCliff *cliff)
{
    if (arguments->json)
        TRY(print_totals_json(arguments, totals, cliff));
    else
        print_totals(arguments, totals, cliff);
    if (!arguments->json && arguments->time.hardware != NULL && totals->done + totals->kept > 0)
        TRY(print_front(arguments));
    if (!arguments->json)
        print_guesses(&totals->guesses);
    if (!totals->stopped)
        return OK;
    uint64_t finished = totals->kept + totals->done;
    return fail(ERR_INTERRUPTED,
                "%s: stopped with %" PRIu64 " of %" PRIu64 " plans done; run again to continue",
                arguments->out, finished, totals->plans);
}

/* What is scored. With continuous batching the trace tells of layers and of what it is, and the
 * steps come of the simulation. */
static Status load_trace(const Arguments *arguments, const Study *study, PackedTrace *trace,
                         TraceFeatures *features)
{
    Plan view = study->plans[0];
    if (arguments->time.hardware == NULL)
        return trace_input(&arguments->traces, &view, trace);
    if (view.batching.mode != BATCHING_CONTINUOUS)
        return trace_input_timed(&arguments->traces, &view, false, trace, features);
    view.batching = plan_default().batching;
    return trace_input(&arguments->traces, &view, trace);
}

static Status load_signals(const Arguments *arguments, const Study *study, TraceSignals **signals)
{
    *signals = NULL;
    if (study->plans[0].batching.mode == BATCHING_CONTINUOUS)
        return OK;
    return trace_input_signals(&arguments->traces, study->plans, study->n_plans, signals);
}

static Status time_and_sweep(const Arguments *arguments, const PackedTrace *trace,
                             const Study *study, SimulatedTime *time, SweepRanks *ranks,
                             SweepTotals *totals)
{
    const OptionList *traces = &arguments->traces;
    TraceSignals *signals = NULL;
    PlanTimer timer;
    const bool timed = arguments->time.hardware != NULL;
    Status status = load_signals(arguments, study, &signals);
    if (status == OK && timed)
        status = plan_timer_input(&arguments->time, traces->items, traces->count, &study->plans[0],
                                  time, &timer);
    if (status == OK)
        status = sweep(arguments, trace, study, signals, timed ? &timer : NULL, ranks, totals);
    trace_signals_free(signals);
    return status;
}

static Status load_and_sweep(const Arguments *arguments, SweepRanks *ranks, SweepTotals *totals,
                             LruCliff *cliff)
{
    Study study;
    PackedTrace trace;
    SimulatedTime time = {0};
    TRY(study_load(arguments->study, arguments->sizes == SIZES_ALL, &study));
    Status status = load_trace(arguments, &study, &trace, &time.features);
    if (status != OK) {
        study_free(&study);
        return status;
    }
    if (arguments->sizes == SIZES_ALL)
        status = study_every_size(&study, trace.layers, trace.n_layers);
    if (status == OK)
        status = time_and_sweep(arguments, &trace, &study, &time, ranks, totals);
    if (status == OK && arguments->sizes == SIZES_ALL)
        status = find_cliffs(&trace, &study, &totals->parts.test, cliff);
    simulated_time_close(&time);
    packed_trace_free(&trace);
    study_free(&study);
    return status;
}

/* Rank 0, or the only process. */
static Status run(int argc, char **argv, SweepRanks *ranks)
{
    Arguments arguments = {0};
    SweepTotals totals;
    LruCliff cliff = {0};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = load_and_sweep(&arguments, ranks, &totals, &cliff);
    if (status == OK)
        status = report(&arguments, &totals, &cliff);
    option_list_free(&arguments.traces);
    return status;
}

/* What a rank that follows was started with; rank 0 has checked it. */
typedef struct {
    int argc;
    char **argv;
} Line;

static Status read_signals(void *argument, const Plan *plans, size_t n_plans,
                           TraceSignals **signals)
{
    const Line *line = argument;
    Arguments arguments = {0};
    Status status = parse(line->argc, line->argv, &arguments);
    if (status == OK)
        status = trace_input_signals(&arguments.traces, plans, n_plans, signals);
    option_list_free(&arguments.traces);
    return status;
}

static Status follow(int argc, char **argv, SweepRanks *ranks)
{
    Line line = {argc, argv};
    const SweepSignals signals = {.load = read_signals, .argument = &line};
    Status status = sweep_follow(ranks, &signals, interrupt_watch());
    interrupt_unwatch();
    return fail_in(status, "rank %" PRIu32, ranks->rank);
}

Status command_sweep(int argc, char **argv)
{
    SweepRanks *ranks;
    TRY(sweep_ranks_join(&ranks));
    if (ranks != NULL && ranks->rank > 0)
        return sweep_ranks_leave(ranks, follow(argc, argv, ranks));
    Status status = run(argc, argv, ranks);
    Status dismissed = sweep_dismiss(ranks);
    return sweep_ranks_leave(ranks, status == OK || status == STATUS_END ? dismissed : status);
}
