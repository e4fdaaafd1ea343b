/* Stamps of a step: what they take, and what is held until all of it is queued, as where operations
 * are stamped (exec/executor.h). */
#include "base/memory.h"
#include "sim/timing_parts.h"

void timing_price_stamps(Timing *timing)
{
    static const CostPoint point = {0};
    uint64_t tokens = timing->step.tokens;
    uint64_t ns = timing->graph_stamp_ns;
    if (!timing->waits)
        return;
    tokens = tokens < timing->most_stamped ? tokens : timing->most_stamped;
    if (timing->refs.queue_stamp.table != COSTS_NONE)
        ns = (uint64_t)op_costs_by_number(&timing->costs, &timing->refs.queue_stamp, &point,
                                          AXIS_TOKENS, (uint32_t)tokens, true, &timing->queue_stamp,
                                          &timing->costs.other);
    timing->tell_ns = ns;
    timing->queue_stamp_ns = timing->options.stamped ? ns : 0;
    timing->queued_more_ns = 0;
    if (!timing->one_thread && timing->graph_stamp_ns > ns)
        timing->queued_more_ns = timing->graph_stamp_ns - ns;
}

/* What comes from here on up to the next event begins when all of it is queued. */
void timing_hold(Timing *timing)
{
    timing->holds = timing->options.stamped && timing->waits && !timing->one_thread;
    if (!timing->holds)
        return;
    timing->first_held = timing->out.n_ops;
    timing->held_ns = timing->gpu_ns;
    timing->host_ns += timing->issue_stamp_ns;
}

/* It is: where the compute stream was free, all of it comes as much later. */
void timing_release(Timing *timing)
{
    uint64_t from_ns = timing->host_ns + timing->lag_ns;
    uint64_t later_ns = from_ns > timing->held_ns ? from_ns - timing->held_ns : 0;
    if (!timing->holds)
        return;
    timing->holds = false;
    for (size_t i = timing->first_held; i < timing->out.n_ops; i++)
        timing->ops[i].start_ns += later_ns;
    timing->gpu_ns += later_ns;
    timing->stamp_at_ns += later_ns;
}

Status timing_stamp(Timing *timing, const StepOp *op)
{
    uint64_t ns = timing->gpu_ns - timing->stamp_at_ns;
    timing->op_ns[op->op] += ns;
    timing->layer_ns[op->layer] += ns;
    if (timing->options.records) {
        TRY(mem_grow(&timing->ops, &timing->op_room, timing->out.n_ops, sizeof *timing->ops,
                     "simulated operations"));
        timing->ops[timing->out.n_ops++] = (TimingRecord){
            .layer = op->layer, .op = op->op, .start_ns = timing->stamp_at_ns, .duration_ns = ns};
    }
    timing->stamp_at_ns = timing->gpu_ns;
    return OK;
}

uint64_t timing_stamp_beside_ns(Timing *timing, uint64_t ns)
{
    bool copies = timing->stamp_beside_ns > 0 && link_copies(timing, timing->gpu_ns + ns);
    return copies ? timing->stamp_beside_ns : 0;
}

/* What an operation of NS takes, with its stamp where it has one. */
uint64_t timing_with_stamp(Timing *timing, const OpPrice *price, uint64_t ns)
{
    if (!timing->waits)
        return ns + timing->stamp_ns;
    if (price->held.table == COSTS_NONE)
        return ns + timing->queued_more_ns + timing->queue_stamp_ns + link_slows(timing);
    if (!timing->options.stamped)
        return moved(ns, price->held_ns - (int64_t)timing->tell_ns) + link_slows(timing);
    ns = moved(ns, price->held_ns);
    return ns + timing_stamp_beside_ns(timing, ns);
}
