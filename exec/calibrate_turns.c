/* Loads of which each waits for the call before it; and, of small ones, beside which other costs of
 * an event count, beginning them. */
#include <stdlib.h>

#include "exec/calibrate_parts.h"

enum {
    TURN_STEPS = 5,
    FEW_TOKENS = 2,
    LARGE_TURN_STEPS = 2,
    MOST_LARGE_LOADS = 256, /* of a step, but for what a token needs */
    MANY_TOKENS = 16,
    QUICK_TURNS = 2,
    MOST_TURNS = 4096,
    LEAST_TURNS = 4
};

/* Other kernels compute many rows, which takes more launches. */
static const uint32_t TOKENS[] = {1, MANY_TOKENS, 4 * MANY_TOKENS, 16 * MANY_TOKENS,
                                  64 * MANY_TOKENS};

static const char *const BYTES_AXIS[] = {"bytes"};
static const char *const TOKENS_AXIS[] = {"tokens"};

/* ---- the host ---- */

/* The loads of a step that follow another one of their event, one by one. */
typedef struct {
    const StepOutput *output;
    size_t next;                   /* record */
    size_t load;                   /* number of RECORD among all loads, from 1 */
    const ResidencyRecord *before; /* NULL at first */
    const ResidencyRecord *record;
} FollowingLoad;

static bool following_next(FollowingLoad *at)
{
    while (at->next < at->output->n_residency) {
        const ResidencyRecord *record = &at->output->residency[at->next++];
        if (record->bytes == 0)
            continue;
        at->before = at->record;
        at->record = record;
        at->load++;
        if (at->before != NULL && at->before->layer == record->layer)
            return true;
    }
    return false;
}

/* The host's time from beginning one load of an event to beginning the next, the mean over a step.
 */
static double mean_turn(const StepOutput *output)
{
    const HostSpan *calls = output->host.loads;
    FollowingLoad at = {.output = output};
    double ns = 0;
    double n = 0;
    for (; following_next(&at) && at.load <= output->host.n_loads; n++)
        ns += (double)(calls[at.load - 1].start_ns - calls[at.load - 2].start_ns);
    return n > 0 ? ns / n : 0;
}

/* How long the loads of an event after its first take, which wait for a call: the mean over a step.
 */
static double mean_copy(const StepOutput *output)
{
    FollowingLoad at = {.output = output};
    double ns = 0;
    double n = 0;
    for (; following_next(&at); n++)
        ns += (double)at.record->duration_ns;
    return n > 0 ? ns / n : 0;
}

/* From the end of a load to the start of the next one, between which its expert is computed. */
typedef struct {
    uint32_t rows; /* of that expert */
    double ns;
} Turn;

typedef struct {
    Turn *turns; /* [n], MOST_TURNS at the most */
    uint32_t n;
    bool large; /* loads are */
} Turns;

/* Rows that C->forced gives EXPERT of the model's layer number LAYER, of TOKENS. */
static uint32_t rows_of(const Calibration *c, uint32_t layer, uint32_t expert, uint32_t tokens)
{
    ForcedLayer at = forced_layers(c, STACK_DECODER, tokens);
    uint32_t rows = 0;
    while (forced_next(&at))
        for (size_t id = 0; at.layer->layer == layer && id < at.n_ids; id++)
            rows += at.experts[id] == expert;
    return rows;
}

static void keep_turns(const Calibration *c, const StepOutput *output, uint32_t tokens,
                       Turns *turns)
{
    FollowingLoad at = {.output = output};
    while (turns->n < MOST_TURNS && following_next(&at))
        turns->turns[turns->n++] = (Turn){
            .rows = rows_of(c, at.before->layer, at.before->expert, tokens),
            .ns = ns_between(at.before->start_ns + at.before->duration_ns, at.record->start_ns)};
}

/* The turns of FROM to END rows of an expert: the median, or of small ones the lower quartile,
 * since some wait for the host. */
static Status note_rows(Calibration *c, double tokens, const Turns *turns, uint32_t from,
                        uint32_t end, double *scratch)
{
    static const char *const AXES[] = {"tokens", "rows"};
    const double at[] = {tokens, (from + end - 1) / 2.0};
    uint32_t n = 0;
    char shape[160];
    for (uint32_t i = 0; i < turns->n; i++) {
        const Turn *turn = &turns->turns[i];
        if (turn->rows >= from && turn->rows < end)
            scratch[n++] = turn->ns;
    }
    if (n < LEAST_TURNS)
        return OK;
    qsort(scratch, n, sizeof *scratch, compare_f64);
    calibration_experts_shape(c, shape);
    return calibration_note(c, "turn", shape, UNIT_NS, AXES, 2, at,
                            scratch[turns->large ? n / 2 : n / 4], variation_f64(scratch, n));
}

static Status note_turns(Calibration *c, double tokens, const Turns *turns)
{
    double *scratch;
    TRY(mem_new(&scratch, MOST_TURNS, sizeof *scratch, "calibration: turns"));
    Status status = OK;
    for (uint32_t from = 1; from <= c->max_tokens && status == OK; from *= 2)
        status = note_rows(c, tokens, turns, from, 2 * from, scratch);
    mem_free(scratch);
    return status;
}

/* ---- both ---- */

/* Experts of a layer that take turns. */
static uint32_t turning(const Calibration *c, bool large)
{
    uint32_t active = c->config->max_experts / 2;
    uint32_t most = MOST_LARGE_LOADS / c->config->n_moe_layers;
    if (large && active > most)
        active = most;
    return active > c->config->max_top_k ? active : c->config->max_top_k;
}

/* Rows fall from expert to expert, as where a router is forced. */
static void force_turns(Calibration *c, uint32_t tokens, bool large)
{
    uint32_t top_k = c->config->max_top_k;
    if (tokens >= MANY_TOKENS)
        calibration_force_zipf(c, STACK_DECODER, tokens, turning(c, large));
    else
        calibration_force(c, STACK_DECODER, tokens, top_k, 0);
    calibration_seek_quiet(c);
}

/* Where there is room for one expert, each load waits for the call of the expert before it. A turn
 * of the host is beginning a load, making the queue wait for it, and a call. */
static Status time_turns(Calibration *c, uint32_t tokens, Turns *turns)
{
    const StepKind kind = {.requests = 1, .tokens = tokens, .forced = true};
    const double at = tokens;
    const double bytes = (double)executor_expert_slot_bytes(c->executor, 0);
    double turn_ns[TURN_STEPS];
    double copy_ns[TURN_STEPS];
    char shape[160];
    StepOutput output;
    double ns;
    force_turns(c, tokens, false);
    for (int i = -2; i < TURN_STEPS;) {
        TRY(calibration_step(c, &kind, false, &output, &ns));
        if (!calibration_counts(c))
            continue;
        turn_ns[i > 0 ? i : 0] = mean_turn(&output);
        copy_ns[i > 0 ? i : 0] = mean_copy(&output);
        if (i++ >= 0)
            keep_turns(c, &output, tokens, turns);
    }
    double copy_spread = variation_f64(copy_ns, TURN_STEPS);
    TRY(calibration_note(c, "copy/together", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                         median_f64(copy_ns, TURN_STEPS), copy_spread));
    calibration_experts_shape(c, shape);
    double spread = variation_f64(turn_ns, TURN_STEPS);
    return calibration_note(c, "issue/turn", shape, UNIT_NS, TOKENS_AXIS, 1, &at,
                            median_f64(turn_ns, TURN_STEPS), spread);
}

/* ... which the host is ahead of where loads are large. These are of as many experts as steps load,
 * at different times: what others leave of the link is in what they take. */
static Status time_large_turns(Calibration *c, uint32_t tokens, Turns *turns)
{
    const StepKind kind = {.requests = 1, .tokens = tokens, .forced = true};
    const double bytes = (double)executor_expert_slot_bytes(c->executor, 0);
    double copy_ns[LARGE_TURN_STEPS];
    StepOutput output;
    double ns;
    force_turns(c, tokens, true);
    for (int i = -1; i < LARGE_TURN_STEPS;) {
        TRY(calibration_step(c, &kind, false, &output, &ns));
        if (!calibration_counts(c) || i++ < 0)
            continue;
        keep_turns(c, &output, tokens, turns);
        copy_ns[i - 1] = mean_copy(&output);
    }
    double spread = variation_f64(copy_ns, LARGE_TURN_STEPS);
    if (copy_ns[0] == 0) /* of two experts one was still there */
        return OK;
    return calibration_note(c, "copy/h2d", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                            median_f64(copy_ns, LARGE_TURN_STEPS), spread);
}

static Status measure_turns(Calibration *c, uint32_t tokens, bool large)
{
    Turns turns = {.large = large};
    if (tokens > c->max_tokens || tokens > c->max_length)
        return OK;
    TRY(mem_new(&turns.turns, MOST_TURNS, sizeof *turns.turns, "calibration: turns"));
    Status status = large ? time_large_turns(c, tokens, &turns) : time_turns(c, tokens, &turns);
    if (status == OK)
        status = note_turns(c, tokens, &turns);
    mem_free(turns.turns);
    return status;
}

/* ---- the device ---- */

/* An event's loads in two groups, means over a step. */
typedef struct {
    double more_ns; /* that the first takes than the second, which is as large */
    double copy_ns; /* that the second takes */
    double gap_ns;  /* from the first's end to the second's start */
} Halves;

static Halves compare_halves(const StepOutput *output)
{
    const ResidencyRecord *first = NULL;
    const ResidencyRecord *last = NULL;
    Halves sums = {0};
    double n = 0;
    for (size_t i = 0; i <= output->n_residency; i++) {
        const ResidencyRecord *record = i < output->n_residency ? &output->residency[i] : NULL;
        if (record != NULL && record->bytes == 0)
            continue;
        if (first != NULL && (record == NULL || record->layer != first->layer)) {
            sums.more_ns += (double)first->duration_ns - (double)last->duration_ns;
            sums.copy_ns += (double)last->duration_ns;
            sums.gap_ns += ns_between(first->start_ns + first->duration_ns, last->start_ns);
            n++;
            first = NULL;
        }
        first = first == NULL ? record : first;
        last = record;
    }
    n = n > 0 ? n : 1;
    return (Halves){sums.more_ns / n, sums.copy_ns / n, sums.gap_ns / n};
}

/* Steps of TOKENS have twice as many experts as there is room for, ACTIVE: one half is loaded where
 * nothing is under way, while the host is still beginning it, and the other when the first has been
 * computed, which ends AWAITED_NS after its load. */
Status calibrate_halves(Calibration *c, uint32_t tokens, uint32_t active, double awaited_ns)
{
    const uint32_t requests = tokens < c->max_requests ? tokens : c->max_requests;
    const StepKind kind = {.requests = requests, .tokens = tokens / requests, .forced = true};
    const double bytes = active / 2 * (double)executor_expert_slot_bytes(c->executor, 0);
    const double at = tokens;
    double more_ns[TURN_STEPS];
    double gap_ns[TURN_STEPS];
    double copy_ns[TURN_STEPS];
    bool second = false;
    Plan plan = c->plan;
    StepOutput output;
    double ns;
    plan.buffer.slots = active / 2;
    TRY(executor_set_plan(c->executor, &plan));
    calibration_seek_quiet(c);
    for (int i = -2; i < TURN_STEPS; i += calibration_counts(c), second = !second) {
        calibration_turn_over(c, tokens, active, second);
        TRY(calibration_step(c, &kind, true, &output, &ns));
        const Halves halves = compare_halves(&output);
        more_ns[i > 0 ? i : 0] = halves.more_ns;
        gap_ns[i > 0 ? i : 0] = halves.gap_ns;
        copy_ns[i > 0 ? i : 0] = halves.copy_ns;
    }
    double spread = variation_f64(more_ns, TURN_STEPS);
    if (tokens == FEW_TOKENS)
        TRY(calibration_note(c, "start/together", "", UNIT_NS, NULL, 0, NULL,
                             at_least_0(median_f64(more_ns, TURN_STEPS)), spread));
    spread = variation_f64(copy_ns, TURN_STEPS);
    TRY(calibration_note(c, "copy/together", "", UNIT_NS, BYTES_AXIS, 1, &bytes,
                         median_f64(copy_ns, TURN_STEPS), spread));
    spread = variation_f64(gap_ns, TURN_STEPS);
    return calibration_note(c, "sync/together", "", UNIT_NS, TOKENS_AXIS, 1, &at,
                            at_least_0(median_f64(gap_ns, TURN_STEPS) - awaited_ns), spread);
}

static Status measure_all_turns(Calibration *c, bool large)
{
    Plan plan = c->plan;
    plan.buffer.slots = 1;
    TRY(executor_set_plan(c->executor, &plan));
    for (size_t i = 0; i < (c->options->quick ? QUICK_TURNS : COUNT(TOKENS)); i++)
        TRY(measure_turns(c, TOKENS[i], large));
    return OK;
}

Status calibrate_turns(Calibration *c)
{
    return measure_all_turns(c, false);
}

Status calibrate_large_turns(Calibration *c)
{
    return c->knows_queue && !c->options->quick ? OK : measure_all_turns(c, true);
}
