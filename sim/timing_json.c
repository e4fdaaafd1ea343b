/* Simulated time as JSON. */
#include "sim/timed_replay.h"

#include <stdio.h>

static double tokens_per_s(const PhaseTime *phase)
{
    return phase->ns > 0 ? 1e9 * (double)phase->tokens / (double)phase->ns : 0;
}

static Status add_phase(cJSON *object, const PhaseTime *phase)
{
    TRY(json_add_u64(object, "steps", phase->steps));
    TRY(json_add_u64(object, "tokens", phase->tokens));
    TRY(json_add_u64(object, "total_ns", phase->ns));
    TRY(json_add_f64(object, "tokens_per_s", tokens_per_s(phase)));
    TRY(json_add_u64(object, "exposed_load_ns", phase->exposed_load_ns));
    TRY(json_add_u64(object, "load_ns", phase->load_ns));
    TRY(json_add_u64(object, "loads", phase->loads));
    TRY(json_add_u64(object, "bytes_loaded", phase->bytes_loaded));
    TRY(json_add_u64(object, "prefetches_cancelled", phase->prefetches_cancelled));
    return json_add_u64(object, "late_loads", phase->late_loads);
}

static Status add_phases(cJSON *json, const TimingTotals *totals)
{
    cJSON *list;
    TRY(json_add_array(json, "phases", &list));
    for (Phase phase = PHASE_PREFILL; phase <= PHASE_MIXED; phase++) {
        if (totals->phases[phase].steps == 0)
            continue;
        cJSON *item = cJSON_CreateObject();
        TRY(json_push(list, item));
        TRY(json_add_text(item, "phase", phase_name(phase)));
        TRY(add_phase(item, &totals->phases[phase]));
    }
    return OK;
}

static Status add_ops(cJSON *json, const TimingTotals *totals)
{
    cJSON *object;
    TRY(json_add_object(json, "ops_ns", &object));
    for (Op op = 0; op < OPS; op++)
        if (totals->op_ns[op] > 0)
            TRY(json_add_u64(object, op_name(op), totals->op_ns[op]));
    TRY(json_add_object(json, "layers_ns", &object));
    for (uint32_t i = 0; i < totals->n_model_layers; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", i);
        TRY(json_add_u64(object, name, totals->layer_ns[i]));
    }
    return OK;
}

Status timing_costs_json(cJSON *json, const TimingTotals *totals)
{
    cJSON *object;
    cJSON *list;
    CostUse sum = totals->other_use;
    for (Op op = 0; op < OPS; op++)
        cost_use_add(&sum, &totals->op_use[op]);
    TRY(json_add_object(json, "costs", &object));
    for (CostStatus s = COST_OK; s < COST_STATUSES; s++)
        TRY(json_add_u64(object, cost_status_name(s), sum.n[s]));
    TRY(json_add_array(object, "ops_missing", &list));
    for (Op op = 0; op < OPS; op++)
        if (totals->op_use[op].n[COST_MISSING] > 0)
            TRY(json_push(list, cJSON_CreateString(op_name(op))));
    TRY(json_add_array(object, "tables_missing", &list));
    for (uint32_t i = 0; i < totals->n_missing; i++)
        TRY(json_push(list, cJSON_CreateString(totals->missing[i])));
    TRY(json_add_array(object, "ops_extrapolated", &list));
    for (Op op = 0; op < OPS; op++)
        if (totals->op_use[op].n[COST_EXTRAPOLATED] > 0)
            TRY(json_push(list, cJSON_CreateString(op_name(op))));
    return OK;
}

static Status fill_memory(cJSON *object, const TimingMemory *memory)
{
    TRY(json_add_u64(object, "weights_bytes", memory->weights));
    TRY(json_add_u64(object, "slots_bytes", memory->slots));
    TRY(json_add_u64(object, "caches_bytes", memory->caches));
    return json_add_u64(object, "activations_bytes", memory->activations);
}

/* What an executor takes, and what of it ever holds something at one time. */
static Status add_memory(cJSON *json, const TimingMemory *memory, const TimingMemory *in_use)
{
    cJSON *object;
    TRY(json_add_u64(json, "peak_bytes", memory->total));
    TRY(json_add_object(json, "memory", &object));
    TRY(fill_memory(object, memory));
    TRY(json_add_u64(json, "peak_in_use_bytes", in_use->total));
    TRY(json_add_object(json, "memory_in_use", &object));
    return fill_memory(object, in_use);
}

static Status add_rank(cJSON *list, uint32_t number, const RankTime *rank, uint64_t total_ns)
{
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(json_add_u64(item, "rank", number));
    TRY(json_add_f64(item, "utilisation",
                     total_ns > 0 ? (double)rank->compute_ns / (double)total_ns : 0));
    TRY(json_add_u64(item, "compute_ns", rank->compute_ns));
    TRY(json_add_u64(item, "experts_ns", rank->experts_ns));
    TRY(json_add_u64(item, "all_to_all_ns", rank->exchange_ns));
    TRY(json_add_u64(item, "waited_ns", rank->waited_ns));
    TRY(json_add_u64(item, "idle_ns", timing_idle_ns(rank, total_ns)));
    TRY(json_add_u64(item, "assignments", rank->assignments));
    TRY(json_add_u64(item, "loads", rank->loads));
    TRY(json_add_u64(item, "bytes_loaded", rank->bytes_loaded));
    return json_add_u64(item, "load_ns", rank->load_ns);
}

static Status add_ranks(cJSON *json, const TimingTotals *totals)
{
    cJSON *list;
    TRY(json_add_u64(json, "ranks", totals->ranks));
    TRY(json_add_u64(json, "all_to_all_ns", totals->all_to_all_ns));
    TRY(json_add_u64(json, "imbalance_ns", totals->imbalance_ns));
    if (totals->of_ranks == NULL)
        return OK;
    TRY(json_add_array(json, "per_rank", &list));
    for (uint32_t i = 0; i < totals->ranks; i++)
        TRY(add_rank(list, i, &totals->of_ranks[i], totals->total.ns));
    return OK;
}

static Status fill(cJSON *json, const Timing *timing, const TimingMemory *memory)
{
    const TimingTotals totals = timing_totals(timing);
    TRY(add_phase(json, &totals.total));
    TRY(add_memory(json, memory, &totals.peak_in_use));
    TRY(add_phases(json, &totals));
    TRY(add_ops(json, &totals));
    TRY(json_add_u64(json, "rest_ns", totals.rest_ns));
    TRY(json_add_u64(json, "between_ns", totals.between_ns));
    TRY(add_ranks(json, &totals));
    return timing_costs_json(json, &totals);
}

Status timing_json(const Timing *timing, const TimingMemory *memory, cJSON **json)
{
    *json = cJSON_CreateObject();
    if (*json == NULL)
        return fail_memory("JSON", sizeof **json);
    Status status = fill(*json, timing, memory);
    if (status != OK) {
        cJSON_Delete(*json);
        *json = NULL;
    }
    return status;
}
