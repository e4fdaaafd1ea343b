/* Device memory: what steps have in use, and what an executor takes that is opened for them. */
#include "policies/capacity.h"
#include "sim/timing_parts.h"

/* Of a step of so many tokens, with the rows that static gating keeps free for each expert. */
static uint64_t look_activations_up(const Timing *timing, uint32_t tokens)
{
    CostUse ignored = {0};
    CostPoint point = {0};
    point.at[AXIS_TOKENS] = tokens;
    if (tokens > 0)
        point.at[AXIS_SHARE] = (double)gating_capacity(timing->options.plan, tokens) / tokens;
    return op_costs_ns(&timing->costs, &timing->refs.activations, &point, &ignored);
}

static uint64_t activations_of(Timing *timing, uint32_t tokens)
{
    if (timing->activation_tokens == tokens)
        return timing->activation_bytes;
    timing->activation_tokens = tokens;
    timing->activation_bytes = look_activations_up(timing, tokens);
    return timing->activation_bytes;
}

void timing_count_memory(Timing *timing)
{
    const HardwareMemory *memory = &timing->costs.model->memory;
    TimingMemory *in_use = &timing->out.in_use;
    /* With an encoder half of what a position takes is of the source's, which count as well. */
    double of_position = timing->costs.n_ops[STACK_ENCODER] > 0 ? 0.5 : 1;
    *in_use = (TimingMemory){.weights = memory->weights_bytes,
                             .slots = timing->resident_bytes,
                             .caches = op_costs_whole(of_position * memory->position_bytes *
                                                      (double)timing->step.positions),
                             .activations = activations_of(timing, timing->step.tokens)};
    in_use->total = in_use->weights + in_use->slots + in_use->caches + in_use->activations;
    if (in_use->total > timing->peak_in_use.total)
        timing->peak_in_use = *in_use;
}

TimingMemory timing_memory(const Timing *timing, const TraceFeatures *features)
{
    if (timing->ranks != NULL)
        return timing_ranks_memory(timing, features);
    const HardwareMemory *memory = &timing->costs.model->memory;
    double requests = features->max_requests;
    double length = features->max_length;
    TimingMemory out = {.weights = memory->weights_bytes,
                        .slots = timing->slot_bytes,
                        .caches = op_costs_whole(memory->position_bytes * requests * length +
                                                 memory->request_bytes * requests +
                                                 memory->length_bytes * length),
                        .activations = look_activations_up(timing, features->max_tokens)};
    out.total = out.weights + out.slots + out.caches + out.activations;
    return out;
}
