/* Small loads, beside which other costs of an event count: beginning them, and where each waits for
 * the call before it. */
#include "exec/calibrate_parts.h"

enum { TURN_STEPS = 5, MANY_TOKENS = 16 };

/* The host is ahead of the device where this takes so much longer. */
static const double HOST_AHEAD = 1.05;

/* Where there is room for one expert, each load waits for the call of the expert before it: means
 * over the turns of a step. */
typedef struct {
    double host_ns[TURN_STEPS]; /* from beginning one load to beginning the next */
    double turn_ns[TURN_STEPS]; /* from its start to the next one's */
    double copy_ns[TURN_STEPS];
} Turns;

/* Turns but the first of an event, for which more is queued. */
static void add_turns(const StepOutput *output, Turns *turns, uint32_t at)
{
    const HostSpan *calls = output->host.loads;
    const ResidencyRecord *before = NULL;
    size_t load = 0;
    double n = 0;
    turns->host_ns[at] = turns->turn_ns[at] = turns->copy_ns[at] = 0;
    for (size_t i = 0; i < output->n_residency && load < output->host.n_loads; i++) {
        const ResidencyRecord *record = &output->residency[i];
        if (record->bytes == 0)
            continue;
        if (before != NULL && before->layer == record->layer) {
            turns->host_ns[at] += (double)(calls[load].start_ns - calls[load - 1].start_ns);
            turns->turn_ns[at] += (double)record->start_ns - (double)before->start_ns;
            turns->copy_ns[at] += (double)record->duration_ns;
            n++;
        }
        before = record;
        load++;
    }
    turns->host_ns[at] /= n > 0 ? n : 1;
    turns->turn_ns[at] /= n > 0 ? n : 1;
    turns->copy_ns[at] /= n > 0 ? n : 1;
}

static Status time_turns(Calibration *c, const StepKind *kind, Turns *turns)
{
    StepOutput output;
    double ns;
    uint32_t top_k = c->config->max_top_k;
    uint32_t half = c->config->max_experts / 2;
    bool many = kind->tokens >= MANY_TOKENS && half > top_k;
    calibration_force(c, STACK_DECODER, kind->tokens, many ? half : top_k, 0);
    for (int i = -2; i < TURN_STEPS; i++) {
        calibration_seek_quiet(c);
        TRY(calibration_step(c, kind, true, &output, &ns));
        add_turns(&output, turns, i > 0 ? (uint32_t)i : 0);
    }
    return OK;
}

/* *NS from the end of queueing a call of one expert, which is there, to its end. */
static Status time_call(Calibration *c, const StepKind *kind, double *ns)
{
    double after_ns[TURN_STEPS];
    StepOutput output;
    double ignored;
    calibration_force(c, STACK_DECODER, kind->tokens, c->config->max_top_k, 0);
    calibration_drop(c, kind->tokens, 1);
    for (int i = -2; i < TURN_STEPS; i++) {
        calibration_seek_quiet(c);
        TRY(calibration_step(c, kind, true, &output, &ignored));
        calibration_around(&output, &ignored, &after_ns[i > 0 ? i : 0]);
    }
    *ns = calibration_median(after_ns, TURN_STEPS) - c->queue_stamp_ns;
    return OK;
}

/* What is left of a turn on the device but its load and its call, AFTER_NS included that passes
 * between the two: handing over to the next load. Nothing is known where the host is slower. */
static Status note_handing_over(Calibration *c, Turns *turns, double host_ns, double call_ns)
{
    double turn_ns = calibration_median(turns->turn_ns, TURN_STEPS);
    double spread = calibration_spread(turns->turn_ns, TURN_STEPS);
    if (turn_ns < HOST_AHEAD * host_ns)
        return OK;
    return calibration_note(
        c, "sync/together", "", UNIT_NS, NULL, 0, NULL,
        at_least_0(turn_ns - calibration_median(turns->copy_ns, TURN_STEPS) - call_ns), spread);
}

/* A turn is beginning a load, which takes the host BEGIN_NS, making the queue wait for it, and a
 * call, which begins AFTER_NS after the load. */
static Status measure_turns(Calibration *c, uint32_t tokens, double begin_ns, double after_ns)
{
    static const char *const AXIS[] = {"tokens"};
    const StepKind kind = {.requests = 1, .tokens = tokens, .forced = true};
    const double at = tokens;
    char shape[160] = "";
    double call_ns;
    Turns turns;
    if (tokens > c->max_tokens || tokens > c->max_length)
        return OK;
    TRY(time_turns(c, &kind, &turns));
    TRY(time_call(c, &kind, &call_ns));
    calibration_experts_shape(c, shape);
    double host_ns = calibration_median(turns.host_ns, TURN_STEPS);
    TRY(note_handing_over(c, &turns, host_ns, call_ns + after_ns));
    return calibration_note(c, "issue/again", shape, UNIT_NS, AXIS, 1, &at,
                            at_least_0(host_ns - begin_ns),
                            calibration_spread(turns.host_ns, TURN_STEPS));
}

/* The mean over events of how much longer their first load takes than their last; 0 where these are
 * the same. */
static double first_beyond_last(const StepOutput *output)
{
    const ResidencyRecord *first = NULL;
    const ResidencyRecord *last = NULL;
    double ns = 0;
    double n = 0;
    for (size_t i = 0; i <= output->n_residency; i++) {
        const ResidencyRecord *record = i < output->n_residency ? &output->residency[i] : NULL;
        if (record != NULL && record->bytes == 0)
            continue;
        if (first != NULL && (record == NULL || record->layer != first->layer)) {
            ns += (double)first->duration_ns - (double)last->duration_ns;
            n += first->start_ns != last->start_ns;
            first = NULL;
        }
        first = first == NULL ? record : first;
        last = record;
    }
    return n > 0 ? ns / n : 0;
}

/* Two tokens have twice as many experts as there is room for: one half is loaded where nothing is
 * under way, the other when the first has been computed, and both are as many. */
static Status measure_start(Calibration *c)
{
    const StepKind kind = {.requests = 2, .tokens = 1, .forced = true};
    uint32_t active = 2 * c->config->max_top_k;
    double more_ns[TURN_STEPS] = {0};
    Plan plan = c->plan;
    StepOutput output;
    double ns;
    if (2 * active > c->config->max_experts || c->max_requests < 2)
        return OK;
    plan.buffer.slots = c->config->max_top_k;
    TRY(executor_set_plan(c->executor, &plan));
    for (int i = -2; i < TURN_STEPS; i++) {
        calibration_seek_quiet(c);
        calibration_turn_over(c, 2, active, i % 2 != 0);
        TRY(calibration_step(c, &kind, true, &output, &ns));
        more_ns[i > 0 ? i : 0] = first_beyond_last(&output);
    }
    return calibration_note(c, "start/together", "", UNIT_NS, NULL, 0, NULL,
                            at_least_0(calibration_median(more_ns, TURN_STEPS)),
                            calibration_spread(more_ns, TURN_STEPS));
}

Status calibrate_turns(Calibration *c, double begin_ns, double after_ns)
{
    Plan plan = c->plan;
    if (c->config->max_top_k < 3)
        return OK;
    TRY(measure_start(c));
    plan.buffer.slots = 1;
    TRY(executor_set_plan(c->executor, &plan));
    TRY(measure_turns(c, 1, begin_ns, after_ns));
    TRY(measure_turns(c, MANY_TOKENS, begin_ns, after_ns));
    return c->options->quick ? OK : measure_turns(c, 16 * MANY_TOKENS, begin_ns, after_ns);
}
