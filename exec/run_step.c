#include "exec/run_step.h"

static void count_step(RunTotals *totals, const TraceStep *step)
{
    totals->steps++;
    totals->tokens += step->tokens;
    if (step->phase == PHASE_DECODE) {
        totals->decode_tokens += step->tokens;
        totals->decode_ns += step->duration_ns;
    } else {
        totals->prefill_tokens += step->tokens;
        totals->prefill_ns += step->duration_ns;
    }
}

Status run_step(const RunContext *run, TraceStep *step, const StepInput *input, StepOutput *output)
{
    StepInput given = *input;
    given.request = step->request;
    TRY(fail_in(executor_step(run->executor, &given, output), "step %u", step->step));
    step->stack = input->stack;
    step->start_ns = output->start_ns;
    step->duration_ns = output->duration_ns;
    step->experts = output->experts;
    step->weights = output->weights;
    step->score_count =
        score_rows_pack(&run->scores, step->stack, output->router_scores, step->tokens);
    step->scores = step->score_count > 0 ? run->scores.halves : NULL;
    step->n_distances = output->n_distances;
    step->predicted = output->predicted;
    step->predicted_weights = output->predicted_weights;
    count_step(run->totals, step);
    bool logged = run->residency || executor_plan(run->executor)->buffer.on;
    size_t n_residency = logged ? output->n_residency : 0;
    if (run->recorder != NULL)
        TRY(recorder_lend_step(run->recorder, step, output->kept_for, output->residency,
                               n_residency, output->timing, output->n_timing));
    if (run->observer != NULL)
        TRY(run->observer(run->argument, step, input, output));
    return OK;
}

void run_settle(const RunContext *run)
{
    if (run->recorder != NULL)
        recorder_settle(run->recorder);
}

bool run_must_stop(const RunContext *run)
{
    if (run->stop != NULL && *run->stop)
        run->totals->stopped = true;
    return run->totals->stopped;
}
