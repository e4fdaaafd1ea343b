#include "sim/sweep.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "policies/plan_measured.h"
#include "sim/curve.h"
#include "sim/sweep_lead.h"
#include "sim/sweep_learn.h"
#include "sim/sweep_message.h"
#include "traces/packed_part.h"

static size_t keep_missing(StudyEntry *entries, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (!entries[i].done)
            entries[kept++] = entries[i];
    return kept;
}

/* Plans that differ in nothing but their size, as far as a replay sees. */
static bool is_same_curve(const Plan *left, const Plan *right)
{
    return curve_is_exact(right) && left->buffer.scope == right->buffer.scope &&
           strcmp(left->buffer.evict, right->buffer.evict) == 0;
}

/* A pass answers for all sizes. It costs as much as a replay for each 64 experts or so of a scope
 * that its lookups must go by; those of lru go by none. */
static bool is_worth_a_pass(const SweepWork *work, const Plan *plan, size_t first)
{
    size_t experts = 0;
    size_t count = 0;
    for (uint32_t i = 0; i < work->trace->n_layers; i++)
        experts += work->trace->layers[i].experts;
    if (plan->buffer.scope == SCOPE_LAYER)
        experts /= work->trace->n_layers;
    if (strcmp(plan->buffer.evict, "lru") == 0)
        experts = 0;
    for (size_t i = first; i < work->n_entries; i++)
        count += is_same_curve(plan, &work->plans[work->entries[i].plan]);
    return count >= 4 + experts / 64;
}

/* Writes the results of all plans from FIRST on that lie on the same curve. */
static Status write_curve(StudyDb *db, SweepWork *work, StudyEntry *entries, size_t first,
                          SweepTotals *totals)
{
    MissCurve curve;
    const Plan *of = &work->plans[entries[first].plan];
    TRY(curve_run(work->trace, of, work->future, &curve));
    totals->lookups += work->trace->n_lookups;
    Status status = OK;
    for (size_t i = first; i < work->n_entries && status == OK; i++) {
        const Plan *plan = &work->plans[entries[i].plan];
        ReplayResult result;
        if (!is_same_curve(of, plan))
            continue;
        status = curve_result(&curve, work->trace, plan, &result);
        if (status == OK)
            status = study_db_result(db, entries[i].plan_id, &result, work->trace->layers);
        replay_result_free(&result);
        entries[i].done = status == OK;
        totals->done += status == OK;
    }
    curve_free(&curve);
    return status == OK ? study_db_commit(db, false) : status;
}

/* One pass for the sizes of each stack policy; what is left for replays stays in ENTRIES. */
static Status answer_curves(StudyDb *db, SweepWork *work, StudyEntry *entries, SweepTotals *totals)
{
    const SweepOptions *options = work->options;
    const size_t n_missing = work->n_entries;
    Status status = OK;
    for (size_t i = 0; i < work->n_entries && status == OK; i++) {
        const Plan *plan = &work->plans[entries[i].plan];
        bool stop = options->stop != NULL && *options->stop != 0;
        if (stop || entries[i].done || !curve_is_exact(plan) || !is_worth_a_pass(work, plan, i))
            continue;
        status = write_curve(db, work, entries, i, totals);
        if (options->progress != NULL)
            options->progress(options->argument, totals->done, n_missing);
    }
    work->n_entries = keep_missing(entries, work->n_entries);
    return status == OK ? study_db_commit(db, true) : status;
}

static Status prepare_futures(const SweepWork *work, ReplayFuture *future)
{
    for (size_t i = 0; i < work->n_entries; i++)
        TRY(replay_prepare(work->trace, &work->plans[work->entries[i].plan], future));
    return OK;
}

static Status run_missing(StudyDb *db, SweepWork *work, StudyEntry *entries, SweepTotals *totals)
{
    ReplayFuture future = {.signals = work->options->signals,
                           .signals_skipped = work->signals_skipped};
    Status status = prepare_futures(work, &future);
    work->future = &future;
    if (status == OK && work->timer == NULL)
        status = answer_curves(db, work, entries, totals);
    if (status == OK && work->n_entries > 0)
        status = sweep_lead(work, db, totals);
    work->future = NULL;
    replay_future_free(&future);
    return status;
}

static bool needs_training(const Study *study)
{
    for (size_t i = 0; i < study->n_plans; i++)
        if (plan_unlearned(&study->plans[i]) != NULL)
            return true;
    return false;
}

/* Replays what OUT lacks. */
static Status score(SweepWork *work, const StudyScored *scored, const Study *study,
                    const char *trace_path, const char *out, SweepTotals *totals)
{
    StudyEntry *entries = NULL;
    size_t n_entries = 0;
    StudyDb *db = NULL;
    Status status = mem_new(&entries, study->n_plans, sizeof *entries, "sweep");
    if (status == OK)
        status = study_db_open(out, scored, &db);
    if (status == OK)
        status = study_db_add(db, study, work->plans, work->trace, trace_path, entries, &n_entries);
    const size_t n_missing = keep_missing(entries, n_entries);
    totals->plans = n_entries;
    totals->kept = n_entries - n_missing;
    work->entries = entries;
    work->n_entries = n_missing;
    if (status == OK)
        status = run_missing(db, work, entries, totals);
    study_db_close(db);
    mem_free(entries);
    totals->stopped = status == OK && totals->done < n_missing;
    return status;
}

/* Continuous batching is played in time, over all of the trace. */
static Status check_times(const Study *study, const SweepOptions *options)
{
    const bool served = study->n_plans > 0 && study->plans[0].batching.mode == BATCHING_CONTINUOUS;
    if (options->timer != NULL && options->ranks != NULL && options->ranks->count > 1)
        return fail(ERR_UNSUPPORTED,
                    "--hardware: several processes of mpirun do not share simulated "
                    "times, one has to");
    if (served && options->timer == NULL)
        return fail(ERR_PLAN, "batching.mode: \"continuous\" plays arrivals in time: it needs "
                              "--hardware");
    if (served && (options->parts.train.given || options->parts.test.given))
        return fail(ERR_INPUT, "sweep: batching.mode \"continuous\" has steps of its own, of which "
                               "no part can be chosen");
    for (size_t i = 0; i < study->n_plans && served; i++)
        if (plan_unlearned(&study->plans[i]) != NULL)
            return fail_in(plan_check_learned(&study->plans[i]), "plan \"%s\"",
                           study->plans[i].name);
    return OK;
}

/* What PLAN leaves to be measured comes of the profile. */
static Status measure_plan(const PackedTrace *trace, const SweepOptions *options, Plan *plan)
{
    Status status = OK;
    if (options->timer != NULL)
        status = plan_measure_on(plan, options->timer->hardware, options->timer->model,
                                 trace->layers, trace->n_layers);
    return plan->name[0] != '\0' ? fail_in(status, "plan \"%s\"", plan->name) : status;
}

/* Copies of the plans of STUDY, measured; freed with sweep_forget(). */
static Status measure_plans(const PackedTrace *trace, const SweepOptions *options,
                            const Study *study, Plan **out)
{
    Plan *plans;
    Status status = OK;
    TRY(mem_new(&plans, study->n_plans, sizeof *plans, "study"));
    for (size_t i = 0; i < study->n_plans && status == OK; i++) {
        plans[i] = plan_share(&study->plans[i]);
        status = measure_plan(trace, options, &plans[i]);
    }
    if (status == OK)
        *out = plans;
    else
        sweep_forget(plans, study->n_plans);
    return status;
}

static Status check_learned(const Plan *plans, size_t n_plans)
{
    Status status = OK;
    for (size_t i = 0; i < n_plans && status == OK; i++) {
        status = plan_check_learned(&plans[i]);
        if (plans[i].name[0] != '\0')
            status = fail_in(status, "plan \"%s\"", plans[i].name);
    }
    return status;
}

/* The plans of STUDY with nothing left to measure or to learn, which some do by replays and then
 * with what was measured. Freed with sweep_forget(). */
static Status complete_plans(const PackedTrace *trace, const TraceParts *parts, const Study *study,
                             const SweepOptions *options, Plan **complete)
{
    Study measured = *study;
    TRY(measure_plans(trace, options, study, &measured.plans));
    Status status = sweep_learn(trace, options->signals, parts, &measured, complete);
    sweep_forget(measured.plans, measured.n_plans);
    TRY(status);
    status = check_learned(*complete, study->n_plans);
    if (status != OK)
        sweep_forget(*complete, study->n_plans);
    return status;
}

Status sweep_run(const PackedTrace *trace, const char *trace_path, const Study *study,
                 const char *out, const SweepOptions *options, SweepTotals *totals)
{
    uint64_t start_ns = clock_ns();
    StudyScored scored = {.digest = study_trace_digest(trace, options->signals),
                          .n_steps = trace->n_steps};
    Plan *learnt = NULL;
    *totals = (SweepTotals){.bounds = study->n_bounds, .steps = trace->n_steps};
    totals->ranks = options->ranks != NULL ? options->ranks->count : 1;
    TRY(check_times(study, options));
    TRY(trace_parts_choose(&options->parts, needs_training(study), trace->n_steps, &scored.parts));
    if (options->timer != NULL)
        plan_timer_name(options->timer->hardware, scored.hardware, sizeof scored.hardware);
    TRY(complete_plans(trace, &scored.parts, study, options, &learnt));
    PackedTrace test = packed_trace_part(trace, scored.parts.test.first, scored.parts.test.end);
    PlanTimer timer = {0};
    if (options->timer != NULL) {
        timer = *options->timer;
        timer.first = scored.parts.test.first;
    }
    SweepWork work = {.trace = &test,
                      .plans = learnt,
                      .n_plans = study->n_plans,
                      .signals_skipped =
                          packed_trace_part_first_event(trace, scored.parts.test.first),
                      .timer = options->timer != NULL ? &timer : NULL,
                      .options = options};
    Status status = score(&work, &scored, study, trace_path, out, totals);
    sweep_forget(learnt, study->n_plans);
    totals->parts = scored.parts;
    totals->elapsed_ns = clock_ns() - start_ns;
    return status;
}

Status sweep_dismiss(SweepRanks *ranks)
{
    SweepMessage message = {.kind = SWEEP_END};
    if (ranks == NULL || ranks->dismissed)
        return OK;
    for (uint32_t i = 1; i < ranks->count; i++)
        TRY(sweep_message_send(ranks, i, &message));
    ranks->dismissed = true;
    return OK;
}
