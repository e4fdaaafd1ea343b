/* What passes between steps, and what all of them come to. */
#include <string.h>

#include "sim/timing_parts.h"

void timing_spread_plain(const Timing *timing, uint64_t *layer_ns)
{
    const PlainEvents *plain = &timing->plain;
    for (uint32_t i = plain->first; i < plain->first + plain->n_events; i++)
        layer_ns[timing->layers[i].layer] += plain->times * timing->layers[i].plain_ns;
}

uint64_t timing_between(Timing *timing)
{
    if (timing->ranks != NULL)
        return timing_ranks_between(timing);
    if (timing->refs.between.table == COSTS_NONE)
        return 0;
    uint64_t ns = timing_tokens_ns(timing, &timing->refs.between, timing->step.tokens);
    timing->between_ns += ns;
    timing->host_ns += ns;
    return ns;
}

uint64_t timing_now(const Timing *timing)
{
    return timing->host_ns;
}

static void add_phase(PhaseTime *sum, const PhaseTime *more)
{
    sum->steps += more->steps;
    sum->tokens += more->tokens;
    sum->ns += more->ns;
    sum->exposed_load_ns += more->exposed_load_ns;
    sum->load_ns += more->load_ns;
    sum->loads += more->loads;
    sum->bytes_loaded += more->bytes_loaded;
    sum->prefetches_cancelled += more->prefetches_cancelled;
    sum->late_loads += more->late_loads;
}

/* Puts what was added up to the operations and layers that it is of. */
static void spread_added(const Timing *timing, uint64_t op_ns[OPS])
{
    memcpy(timing->layer_sum, timing->layer_ns, timing->n_model_layers * sizeof *timing->layer_ns);
    timing_spread_plain(timing, timing->layer_sum);
    runs_spread(timing, op_ns);
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        for (uint32_t i = 0; i < timing->costs.n_ops[stack]; i++) {
            const StepOp *op = &timing->costs.ops[stack][i];
            if (!timing_is_played(timing, op))
                continue;
            op_ns[op->op] += timing->added_ns[stack][op->price];
            timing->layer_sum[op->layer] += timing->added_ns[stack][op->price];
        }
}

void timing_sum_phases(const Timing *timing, TimingTotals *totals)
{
    totals->total = (PhaseTime){0};
    for (Phase phase = PHASE_PREFILL; phase <= PHASE_MIXED; phase++) {
        totals->phases[phase] = timing->phases[phase];
        add_phase(&totals->total, &timing->phases[phase]);
    }
}

TimingTotals timing_totals(const Timing *timing)
{
    if (timing->ranks != NULL)
        return timing_ranks_totals(timing);
    TimingTotals totals = {.peak_in_use = timing->peak_in_use,
                           .rest_ns = timing->rest_ns,
                           .between_ns = timing->between_ns,
                           .ranks = 1,
                           .layer_ns = timing->layer_sum,
                           .n_model_layers = timing->n_model_layers,
                           .other_use = timing->costs.other};
    timing_sum_phases(timing, &totals);
    memcpy(totals.missing, timing->missing, sizeof totals.missing);
    totals.n_missing = timing->n_missing;
    memcpy(totals.op_ns, timing->op_ns, sizeof totals.op_ns);
    spread_added(timing, totals.op_ns);
    memcpy(totals.op_use, timing->costs.use, sizeof totals.op_use);
    return totals;
}
