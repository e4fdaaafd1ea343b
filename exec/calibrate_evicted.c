/* Queueing after loads: as experts go through the host's caches these lose what queues a step,
 * which then takes longer, but for what was queued in the same step before. Steps that hit all are
 * compared, of which one follows a step that loaded and the other comes as late: what the host
 * needs for loads of the step itself, and what it loses by waiting, have tables of their own. */
#include <stdio.h>

#include "base/clock.h"
#include "exec/calibrate_parts.h"

enum { COLD_REPEATS = 3 };

/* What the events of a step load, for such as are measured: fewer bytes leave the caches be. */
static const double LEAST_EVENT_BYTES = 1.6e7;
static const double MOST_EVENT_BYTES = 4e8;

/* Of more than eight, operations are of more kernels. */
static const uint32_t TOKENS[] = {1, 12};

/* Steps of so many requests, whose events load ACTIVE experts, or hit them. */
typedef struct {
    StepKind kind;
    uint32_t active;
    double event_bytes;
} ColdSteps;

/* Of one half of the experts, or the other. */
static Status run(Calibration *c, const ColdSteps *steps, bool second, StepOutput *output)
{
    uint32_t top_k = c->config->max_top_k;
    uint32_t tokens = steps->kind.requests;
    double ns;
    calibration_turn_over(c, tokens, steps->active < top_k ? top_k : steps->active, second);
    if (steps->active < top_k)
        calibration_drop(c, tokens, steps->active);
    return calibration_step(c, &steps->kind, false, output, &ns);
}

/* A step as those who run steps see it, which hits its experts: row REPEAT of ROWS. */
static Status time_hits(Calibration *c, const ColdSteps *steps, bool second, uint32_t repeat,
                        double *rows)
{
    StepOutput output;
    calibration_do_other_things(c);
    TRY(run(c, steps, second, &output));
    calibration_keep_host_times(&output.host, rows + (size_t)repeat * c->max_ops, c->decide_ns);
    return OK;
}

/* Steps after such as load, into c->issue_ns; and after such as do not, but were queued as long
 * ago, into c->plain_issue_ns. The SECOND half of the experts is in place before. */
static Status time_steps(Calibration *c, const ColdSteps *steps)
{
    StepOutput output;
    bool second = true;
    calibration_seek_quiet(c);
    for (uint32_t r = 0; r < COLD_REPEATS; r += calibration_counts(c)) {
        TRY(run(c, steps, second, &output));
        second = !second;
        uint64_t start_ns = clock_ns();
        TRY(run(c, steps, second, &output));
        uint64_t elapsed_ns = calibration_elapsed(start_ns, &output);
        TRY(time_hits(c, steps, second, r, c->issue_ns));
        start_ns = clock_ns();
        TRY(run(c, steps, second, &output));
        calibration_elapse(start_ns, &output, elapsed_ns);
        TRY(time_hits(c, steps, second, r, c->plain_issue_ns));
    }
    return OK;
}

static double median_of(const Calibration *c, const double *rows, uint32_t i)
{
    double values[COLD_REPEATS];
    for (uint32_t r = 0; r < COLD_REPEATS; r++)
        values[r] = rows[(size_t)r * c->max_ops + i];
    return median_f64(values, COLD_REPEATS);
}

static Status note_all(Calibration *c, const ColdSteps *steps)
{
    static const char *const AXES[] = {"tokens", "bytes"};
    for (uint32_t i = 0; i < c->n_ops; i++) {
        const double at[] = {steps->kind.requests, steps->event_bytes};
        char name[48];
        if (!calibration_is_first(c, i))
            continue;
        double ns = median_of(c, c->issue_ns, i) - median_of(c, c->plain_issue_ns, i);
        snprintf(name, sizeof name, "cold/%s", op_name(c->op[i]));
        TRY(calibration_note(c, name, c->shape[i], UNIT_NS, AXES, 2, at, at_least_0(ns), 0));
    }
    return OK;
}

static Status measure_place(Calibration *c, uint32_t tokens, uint32_t active)
{
    const ColdSteps steps = {.kind = {.requests = tokens, .tokens = 1, .forced = true},
                             .active = active,
                             .event_bytes =
                                 active * (double)executor_expert_slot_bytes(c->executor, 0)};
    Plan plan = c->plan;
    StepOutput output;
    double ns;
    plan.buffer.slots = active;
    TRY(executor_set_plan(c->executor, &plan));
    TRY(run(c, &steps, true, &output));
    TRY(calibration_step(c, &steps.kind, true, &output, &ns));
    calibration_list(c, STACK_DECODER, &output);
    TRY(time_steps(c, &steps));
    return note_all(c, &steps);
}

static Status measure_tokens(Calibration *c, uint32_t tokens)
{
    uint32_t top_k = c->config->max_top_k;
    double bytes = (double)executor_expert_slot_bytes(c->executor, 0);
    for (uint32_t active = 1; active <= c->config->max_experts / 2; active *= 2)
        if (active * bytes >= LEAST_EVENT_BYTES && active * bytes <= MOST_EVENT_BYTES &&
            active <= tokens * top_k)
            TRY(measure_place(c, tokens, active));
    return OK;
}

Status calibrate_evicted(Calibration *c)
{
    if (2 * c->config->max_top_k > c->config->max_experts || calibration_only_counts(c) ||
        calibration_runs_at_once(c))
        return OK;
    for (size_t i = 0; i < (c->options->quick ? 1 : COUNT(TOKENS)); i++)
        if (TOKENS[i] <= c->max_requests)
            TRY(measure_tokens(c, TOKENS[i]));
    return executor_set_plan(c->executor, &c->plan);
}
