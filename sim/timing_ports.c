/* An event of several ranks: what they send one another, and what each computes.
 *
 * As in a grouped exchange of NCCL, one begins for all that take part when the last of them has
 * come to it, and holds the outgoing and the incoming port of each until it is over: tables have
 * the time until the last rank has what it waits for (policies/hardware.h), by the bytes that the
 * fullest receives, or sends back, and how much fuller it is. A rank takes part that has requests
 * in the step, or experts to compute. */
#include "base/memory.h"
#include "sim/timing_ranks.h"

static bool takes_part(const Ranks *ranks, uint32_t rank)
{
    return !ranks->of[rank].timing->idle || ranks->split.parts[rank].n > 0;
}

/* One way: assignments come from all ranks alike, so that one of RANKS parts is there already. */
static uint64_t exchange_ns(Ranks *ranks, uint32_t row_bytes)
{
    const RankSplit *split = &ranks->split;
    OpCosts *costs = &ranks->of[0].timing->costs;
    KnownExchange *known = &ranks->known[(split->fullest + 8 * split->sum) % KNOWN_EXCHANGES];
    CostPoint point = {0};
    double n = split->ranks;
    if (known->most == split->fullest && known->sum == split->sum && known->row_bytes == row_bytes)
        return known->ns;
    point.at[AXIS_SKEW] = (double)split->fullest * n / (double)split->sum;
    point.at[AXIS_BYTES] = (double)((uint64_t)split->fullest * row_bytes) * (n - 1) / n;
    *known = (KnownExchange){
        .most = split->fullest,
        .row_bytes = row_bytes,
        .sum = split->sum,
        .ns = op_costs_ns(costs, &ranks->exchange, &point, &costs->other),
    };
    return known->ns;
}

/* The rank has come to an exchange, which its host has queued where that queues operations. */
static void come(const Ranks *ranks, Rank *rank)
{
    Timing *timing = rank->timing;
    rank->ready_ns = timing->gpu_ns;
    if (timing->waits && !timing->one_thread) {
        rank->ready_ns = later(rank->ready_ns, timing->host_ns + timing->lag_ns);
        timing->host_ns += ranks->issue_ns;
    }
}

/* What it sends of an event's assignments, in RANKS parts of a row, and what it receives. */
static Status note_ports(const Ranks *ranks, uint32_t number, const TraceLayer *layer, bool back,
                         uint64_t start_ns, uint64_t ns)
{
    uint64_t row_bytes = ranks->value_bytes * layer->d_model;
    Rank *rank = &ranks->of[number];
    const RankSplit *split = &ranks->split;
    uint64_t own = split->parts[number].sum;
    uint64_t given = (split->sum - own) * row_bytes / split->ranks;
    uint64_t taken = own * (split->ranks - 1) * row_bytes / split->ranks;
    if (!rank->timing->options.records)
        return OK;
    TRY(mem_grow(&rank->ports, &rank->port_room, rank->n_ports, sizeof *rank->ports,
                 "simulated exchanges"));
    rank->ports[rank->n_ports++] = (PortRecord){.layer = layer->layer,
                                                .back = back,
                                                .sent_bytes = back ? taken : given,
                                                .received_bytes = back ? given : taken,
                                                .start_ns = start_ns,
                                                .duration_ns = ns};
    return OK;
}

static void move_to(Timing *timing, uint64_t ns)
{
    timing->gpu_ns = ns;
    /* Where the host queues nothing it is no part of it. */
    if (timing->one_thread || !timing->waits)
        timing->host_ns = ns;
}

/* All that take part send and receive for NS. */
static Status exchange(Ranks *ranks, const TraceLayer *layer, bool back, uint64_t ns)
{
    uint64_t start_ns = 0;
    for (uint32_t i = 0; i < ranks->split.ranks; i++) {
        Rank *rank = &ranks->of[i];
        if (!takes_part(ranks, i))
            continue;
        come(ranks, rank);
        start_ns = later(start_ns, later(rank->ready_ns, later(rank->sends_ns, rank->receives_ns)));
    }
    for (uint32_t i = 0; i < ranks->split.ranks; i++) {
        Rank *rank = &ranks->of[i];
        if (!takes_part(ranks, i))
            continue;
        TRY(note_ports(ranks, i, layer, back, start_ns, ns));
        rank->sums.waited_ns += start_ns - rank->timing->gpu_ns;
        rank->sums.exchange_ns += ns;
        rank->sends_ns = rank->receives_ns = start_ns + ns;
        move_to(rank->timing, start_ns + ns);
    }
    ranks->exchange_ns += ns;
    return OK;
}

static Status reach(Timing *timing, uint32_t layer_index)
{
    Ranks *ranks = timing->ranks;
    for (uint32_t i = 0; i < ranks->split.ranks; i++) {
        Rank *rank = &ranks->of[i];
        uint64_t from_ns = rank->timing->gpu_ns;
        TRY(timing_reach(rank->timing, layer_index, &rank->op));
        rank->sums.compute_ns += rank->timing->gpu_ns - from_ns;
    }
    return OK;
}

/* The host of a rank that computes nothing learns that. */
static void learn_of_none(Timing *timing)
{
    if (timing->waits && !timing->one_thread && !timing->idle)
        timing->host_ns = later(timing->host_ns, timing->gpu_ns) + timing->wake_ns;
}

static Status compute(Ranks *ranks, uint32_t number, uint32_t layer_index,
                      const RankDecision *decided)
{
    Rank *rank = &ranks->of[number];
    const RankPart *part = &ranks->split.parts[number];
    const TimingEvent event = {
        .layer_index = layer_index, .n = part->n, .experts = part->experts, .rows = part->rows};
    uint64_t exposed_ns = rank->timing->out.exposed_load_ns;
    rank->compute_from_ns = rank->timing->gpu_ns;
    rank->experts_ns = rank->exposed_ns = 0;
    if (part->n == 0 && (!ranks->prefetches || !rank->timing->waits)) {
        learn_of_none(rank->timing);
        return OK;
    }
    TRY(timing_compute(rank->timing, &event, decided->actions, decided->n_actions, rank->op));
    rank->experts_ns = rank->timing->gpu_ns - rank->compute_from_ns;
    rank->exposed_ns = rank->timing->out.exposed_load_ns - exposed_ns;
    rank->sums.experts_ns += rank->experts_ns;
    rank->sums.compute_ns += rank->experts_ns;
    rank->sums.assignments += part->sum;
    return OK;
}

/* How long the longest rank took, and how much less than that had every lookup hit. */
static void count_experts(Timing *timing)
{
    Ranks *ranks = timing->ranks;
    uint64_t sum_ns = 0;
    uint64_t most_ns = 0;
    uint64_t most_hits_ns = 0;
    for (uint32_t i = 0; i < ranks->split.ranks; i++) {
        const Rank *rank = &ranks->of[i];
        sum_ns += rank->experts_ns;
        most_ns = later(most_ns, rank->experts_ns);
        most_hits_ns = later(most_hits_ns, rank->experts_ns - rank->exposed_ns);
    }
    ranks->imbalance_ns += most_ns - sum_ns / ranks->split.ranks;
    timing->out.exposed_load_ns += most_ns - most_hits_ns;
}

/* A record of experts is of what the rank computes, not of what it waits for. */
static Status stamp(Rank *rank, bool computed)
{
    Timing *timing = rank->timing;
    TRY(timing_stamp(timing, rank->op));
    if (!timing->options.records)
        return OK;
    TimingRecord *record = &timing->ops[timing->out.n_ops - 1];
    record->start_ns = rank->compute_from_ns;
    record->duration_ns = rank->experts_ns;
    timing->out.n_ops -= !computed;
    return OK;
}

RankSplit *timing_split(Timing *timing)
{
    return timing->ranks != NULL ? &timing->ranks->split : NULL;
}

Status timing_event_split(Timing *timing, uint32_t layer_index, const RankDecision *decided)
{
    static const RankDecision NONE = {0};
    Ranks *ranks = timing->ranks;
    const RankSplit *split = &ranks->split;
    const TraceLayer *layer = &timing->options.layers[layer_index];
    uint64_t ns = split->sum > 0 ? exchange_ns(ranks, ranks->value_bytes * layer->d_model) : 0;
    TRY(reach(timing, layer_index));
    if (split->sum > 0)
        TRY(exchange(ranks, layer, false, ns));
    for (uint32_t i = 0; i < split->ranks; i++)
        TRY(compute(ranks, i, layer_index, decided != NULL ? &decided[i] : &NONE));
    count_experts(timing);
    if (split->sum > 0)
        TRY(exchange(ranks, layer, true, ns));
    for (uint32_t i = 0; i < split->ranks; i++)
        TRY(stamp(&ranks->of[i], split->parts[i].n > 0));
    return OK;
}

Status timing_ranks_event(Timing *timing, const TimingEvent *event)
{
    rank_split_event(&timing->ranks->split, event->layer_index, event->n, event->experts,
                     event->rows);
    return timing_event_split(timing, event->layer_index, NULL);
}
