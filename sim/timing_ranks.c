/* Steps under expert parallelism: every rank takes its share of the step's requests, and computes
 * the experts that the plan's placement gives it, of the tokens of all.
 *
 * Each rank is played as a machine of its own (its compute stream, its host), from experts to
 * experts; there they wait for one another at the exchanges between their ports
 * (sim/timing_ports.c). A step begins on all ranks when the one before has ended on all. Requests
 * are dealt out one by one from the first rank on, those with one token in the step first, each
 * with the mean of its group; a rank that gets none computes experts alone.
 *
 * With a buffer each rank has the plan's slots for its own experts, a link of its own to load over,
 * and a host that decides when the tokens of its experts have come (sim/ranked_replay.h).
 *
 * Nothing overlaps an exchange, as layers follow one another; what hosts do to learn how much comes
 * from whom is not in it, nor that links of one host may share its memory. */
#include "base/memory.h"
#include "sim/ranked_replay.h"
#include "sim/timing_ranks.h"

static Status check_plan(const Plan *plan)
{
    if (plan->gating.mode != GATING_DYNAMIC)
        return fail(ERR_PLAN,
                    "placement.ranks: %u, times of more than one rank are with dynamic gating",
                    plan->placement.ranks);
    return plan->buffer.on ? ranked_replay_check(plan) : OK;
}

/* An imported trace may not say how much a token's activations are. */
static Status check_widths(const Plan *plan, const TraceLayer *layers, uint32_t n_layers)
{
    for (uint32_t i = 0; i < n_layers; i++)
        if (layers[i].d_model == 0)
            return fail(ERR_INPUT,
                        "layer %u: the trace does not say its d_model, by which times of %u ranks "
                        "are told",
                        layers[i].layer, plan->placement.ranks);
    return OK;
}

static Status check_ranks(const Plan *plan, const TraceLayer *layers, uint32_t n_layers)
{
    RankSplit split;
    TRY(check_plan(plan));
    TRY(check_widths(plan, layers, n_layers));
    Status status = rank_split_open(plan, layers, n_layers, &split);
    rank_split_close(&split);
    return status;
}

Status timing_check_plan(const Plan *plan, const TraceLayer *layers, uint32_t n_layers)
{
    const Plan one = plan_of_one_rank(plan);
    ExpertBuffer *buffer;
    if (plan->placement.ranks > 1)
        TRY(check_ranks(plan, layers, n_layers));
    TRY(buffer_new(&one, layers, n_layers, &buffer));
    buffer_free(buffer);
    return OK;
}

static Status find_exchange(Ranks *ranks)
{
    char shape[160];
    CostRef issue;
    uint32_t n = ranks->split.ranks;
    OpCosts *costs = &ranks->of[0].timing->costs;
    const CostPoint point = {0};
    hardware_ranks_shape(n, n, shape);
    TRY(op_costs_find(costs, "all-to-all", shape, &ranks->exchange));
    if (ranks->exchange.table == COSTS_NONE)
        return fail(ERR_INPUT,
                    "hardware profile: it has no table \"all-to-all\" of %s, which times of this "
                    "plan need: mpirun -n %u moebius calibrate --add",
                    shape, n);
    TRY(op_costs_find(costs, "issue/all-to-all", shape, &issue));
    if (issue.table != COSTS_NONE)
        ranks->issue_ns = op_costs_ns(costs, &issue, &point, &costs->other);
    return OK;
}

static Status open_rank(Timing *timing, uint32_t rank)
{
    Ranks *ranks = timing->ranks;
    TimingOptions options = timing->options;
    options.plan = &ranks->plan;
    options.layers = rank_split_layers(&ranks->split, rank);
    TRY(timing_new(&options, &ranks->of[rank].timing));
    ranks->of[rank].timing->is_rank = true;
    return OK;
}

Status timing_ranks_open(Timing *timing)
{
    const TimingOptions *options = &timing->options;
    Ranks *ranks;
    TRY(check_plan(options->plan));
    TRY(check_widths(options->plan, options->layers, options->n_layers));
    TRY(mem_new(&timing->ranks, 1, sizeof *timing->ranks, "simulated ranks"));
    ranks = timing->ranks;
    ranks->plan = plan_of_one_rank(options->plan);
    ranks->prefetches = plan_prefetches(options->plan);
    TRY(rank_split_open(options->plan, options->layers, options->n_layers, &ranks->split));
    uint32_t n = ranks->split.ranks;
    TRY(mem_new(&ranks->of, n, sizeof *ranks->of, "simulated ranks"));
    TRY(mem_new(&ranks->steps, n, sizeof *ranks->steps, "simulated ranks"));
    TRY(mem_new(&ranks->totals, n, sizeof *ranks->totals, "simulated ranks"));
    for (uint32_t rank = 0; rank < n; rank++)
        TRY(open_rank(timing, rank));
    bool halves = strcmp(ranks->of[0].timing->costs.model->compute, "f32") != 0;
    ranks->value_bytes = halves ? 2 : 4;
    return find_exchange(ranks);
}

void timing_ranks_close(Timing *timing)
{
    Ranks *ranks = timing->ranks;
    if (ranks == NULL)
        return;
    for (uint32_t rank = 0; ranks->of != NULL && rank < ranks->split.ranks; rank++) {
        timing_free(ranks->of[rank].timing);
        mem_free(ranks->of[rank].ports);
    }
    mem_free(ranks->of);
    mem_free(ranks->steps);
    mem_free(ranks->totals);
    rank_split_close(&ranks->split);
    mem_free(ranks);
}

/* ---- steps ---- */

static uint32_t part_of(uint64_t whole, uint64_t part, uint64_t all)
{
    return (uint32_t)((whole * part + all - 1) / all);
}

/* Of a group's requests, before which DEALT were, each with the mean of all. */
static SpanGroup share_of(const SpanGroup *group, uint32_t dealt, uint32_t ranks, uint32_t rank)
{
    uint32_t place = (rank + ranks - dealt % ranks) % ranks;
    uint32_t requests = group->requests / ranks + (place < group->requests % ranks);
    if (requests == 0)
        return (SpanGroup){0};
    return (SpanGroup){.requests = requests,
                       .tokens = part_of(group->tokens, requests, group->requests),
                       .context = group->context * requests / group->requests,
                       .source = group->source * requests / group->requests};
}

/* What RANK has of STEP. */
static StepFeatures share_step(const StepFeatures *step, uint32_t ranks, uint32_t rank)
{
    StepFeatures share = *step;
    uint32_t dealt = 0;
    share.tokens = share.requests = 0;
    for (int i = 0; i < SPAN_GROUPS; i++) {
        share.groups[i] = share_of(&step->groups[i], dealt, ranks, rank);
        dealt += step->groups[i].requests;
        share.tokens += share.groups[i].tokens;
        share.requests += share.groups[i].requests;
    }
    share.positions = (step->positions + ranks - 1) / ranks;
    return share;
}

/* The costs of a rank without requests are those of one. */
static StepFeatures share_of_none(const StepFeatures *share)
{
    StepFeatures one = *share;
    one.tokens = one.requests = 1;
    one.groups[SPANS_ONE] = (SpanGroup){.requests = 1, .tokens = 1};
    return one;
}

Status timing_ranks_begin(Timing *timing, const StepFeatures *step, uint64_t earliest_ns)
{
    Ranks *ranks = timing->ranks;
    timing->step = *step;
    timing->start_ns = later(timing->host_ns, earliest_ns);
    timing->out = (StepTime){.start_ns = timing->start_ns};
    for (uint32_t i = 0; i < ranks->split.ranks; i++) {
        Rank *rank = &ranks->of[i];
        StepFeatures share = share_step(step, ranks->split.ranks, i);
        rank->timing->idle = share.tokens == 0;
        rank->n_ports = 0;
        if (rank->timing->idle)
            share = share_of_none(&share);
        TRY(timing_begin(rank->timing, &share, timing->start_ns));
        if (!rank->timing->waits)
            rank->timing->host_ns = rank->timing->gpu_ns;
    }
    return OK;
}

/* Gives the experts of a rank's records the ids that they have in the trace. */
static void name_experts(const RankSplit *split, uint32_t rank, Timing *timing)
{
    for (size_t i = 0; i < timing->out.n_residency; i++) {
        ResidencyRecord *record = &timing->residency[i];
        uint32_t layer_index = 0;
        while (split->of[layer_index].layer != record->layer)
            layer_index++;
        record->expert = rank_split_expert(split, rank, layer_index, record->expert);
    }
}

/* The step of rank NUMBER ends. */
static Status end_rank(Timing *timing, uint32_t number)
{
    Rank *rank = &timing->ranks->of[number];
    StepTime step;
    uint64_t from_ns = rank->timing->gpu_ns;
    TRY(timing_end(rank->timing, &step));
    name_experts(&timing->ranks->split, number, rank->timing);
    rank->sums.compute_ns += rank->timing->gpu_ns - from_ns;
    rank->sums.load_ns += step.load_ns;
    rank->sums.loads += step.loads;
    rank->sums.bytes_loaded += step.bytes_loaded;
    timing->ranks->steps[number] =
        (RankStep){.tokens = rank->timing->idle ? 0 : rank->timing->step.tokens,
                   .ops = step.ops,
                   .n_ops = step.n_ops,
                   .residency = step.residency,
                   .n_residency = step.n_residency,
                   .ports = rank->ports,
                   .n_ports = rank->n_ports,
                   .in_use = step.in_use};
    timing->out.prefetches_cancelled += step.prefetches_cancelled;
    timing->out.late_loads += step.late_loads;
    timing->out.load_ns += step.load_ns;
    timing->out.loads += step.loads;
    timing->out.bytes_loaded += step.bytes_loaded;
    if (step.in_use.total > timing->out.in_use.total)
        timing->out.in_use = step.in_use;
    return OK;
}

Status timing_ranks_end(Timing *timing, StepTime *step)
{
    Ranks *ranks = timing->ranks;
    uint64_t end_ns = timing->start_ns;
    for (uint32_t i = 0; i < ranks->split.ranks; i++) {
        const Timing *rank = ranks->of[i].timing;
        TRY(end_rank(timing, i));
        uint64_t own_ns = rank->idle ? later(rank->gpu_ns, rank->prefetched_ns) : rank->host_ns;
        end_ns = later(end_ns, own_ns);
    }
    timing->rest_ns +=
        end_ns > ranks->of[0].timing->gpu_ns ? end_ns - ranks->of[0].timing->gpu_ns : 0;
    for (uint32_t i = 0; i < ranks->split.ranks; i++)
        ranks->of[i].timing->host_ns = end_ns;
    timing->host_ns = end_ns;
    timing->out.duration_ns = end_ns - timing->start_ns;
    timing->out.ranks = ranks->steps;
    timing->out.n_ranks = ranks->split.ranks;
    if (timing->out.in_use.total > timing->peak_in_use.total)
        timing->peak_in_use = timing->out.in_use;
    timing_count_step(timing);
    *step = timing->out;
    return OK;
}

uint64_t timing_ranks_between(Timing *timing)
{
    Ranks *ranks = timing->ranks;
    uint64_t ns = timing_between(ranks->of[0].timing);
    timing->between_ns += ns;
    timing->host_ns += ns;
    return ns;
}

/* ---- results ---- */

static void add_use(TimingTotals *totals, const OpCosts *costs)
{
    cost_use_add(&totals->other_use, &costs->other);
    for (Op op = 0; op < OPS; op++)
        cost_use_add(&totals->op_use[op], &costs->use[op]);
}

TimingTotals timing_ranks_totals(const Timing *timing)
{
    const Ranks *ranks = timing->ranks;
    TimingTotals totals = timing_totals(ranks->of[0].timing);
    timing_sum_phases(timing, &totals);
    totals.peak_in_use = timing->peak_in_use;
    totals.rest_ns = timing->rest_ns;
    totals.between_ns = timing->between_ns;
    totals.ranks = ranks->split.ranks;
    totals.of_ranks = ranks->totals;
    totals.all_to_all_ns = ranks->exchange_ns;
    totals.imbalance_ns = ranks->imbalance_ns;
    for (uint32_t i = 0; i < ranks->split.ranks; i++)
        ranks->totals[i] = ranks->of[i].sums;
    for (uint32_t i = 1; i < ranks->split.ranks; i++)
        add_use(&totals, &ranks->of[i].timing->costs);
    return totals;
}

/* The most tokens of a step that a rank has: requests are not divided. */
static uint32_t most_tokens(const TraceFeatures *features, uint32_t ranks)
{
    uint32_t most = part_of(features->max_tokens, 1, ranks);
    for (uint64_t i = 0; i < features->n_steps; i++)
        for (uint32_t rank = 0; rank < ranks; rank++) {
            const StepFeatures share = share_step(&features->steps[i], ranks, rank);
            most = share.tokens > most ? share.tokens : most;
        }
    return most;
}

TimingMemory timing_ranks_memory(const Timing *timing, const TraceFeatures *features)
{
    const Ranks *ranks = timing->ranks;
    uint32_t n = ranks->split.ranks;
    TraceFeatures room = *features;
    TimingMemory most = {0};
    room.max_requests = part_of(room.max_requests, 1, n);
    room.max_tokens = most_tokens(features, n);
    for (uint32_t i = 0; i < n; i++) {
        const TimingMemory memory = timing_memory(ranks->of[i].timing, &room);
        if (memory.total > most.total)
            most = memory;
    }
    return most;
}
