/* The plan: every policy choice of one run, as one JSON file that simulator and executor both read.
 *
 * policies/plan.schema.json says the same for editors. Unknown keys, wrong types and values out of
 * range are refused with the key's path. */
#ifndef POLICIES_PLAN_H
#define POLICIES_PLAN_H

#include <stdbool.h>

#include "base/json.h"
#include "policies/arrivals.h"
#include "policies/plan_table.h"
#include "policies/scheduler.h"
#include "traces/trace.h"

typedef enum { GATING_DYNAMIC, GATING_STATIC } GatingMode;
typedef enum { DISPATCH_PADDED, DISPATCH_MASK } Dispatch;
typedef enum { SCOPE_LAYER, SCOPE_DEVICE } BufferScopeKind;
typedef enum { ORDER_SERIAL, ORDER_BATCH, ORDER_STAGED, REPLAY_ORDERS } ReplayOrder;

/* What may be learnt from a trace: a plan names it, and says with a table what was learnt. */
typedef struct {
    uint32_t choice;        /* what to learn, below; 0: nothing, and where TABLE is given */
    const PlanTable *table; /* what was learnt, or the user's own; NULL: none */
} PlanLearned;

/* Where an expert runs that an event misses (policies/buffer.h). */
typedef enum { COMPUTE_ON_GPU, COMPUTE_ON_HOST, COMPUTE_SPLIT } ComputeMode;

typedef enum { COMPUTE_COSTS_NONE, COMPUTE_COSTS_MEASURED } CostsChoice; /* of host_ns, load_ns */
typedef enum { HOT_NONE, HOT_HOTTEST } HotChoice;                        /* of hot, initial */
typedef enum { TABLE_ONLINE, TABLE_TRAINED } PredictorTable;             /* of prefetch.table */
typedef enum { PLACEMENT_MAP_AS_GIVEN, PLACEMENT_MAP_TRAINED } PlacementMapChoice;
typedef enum {
    PLACEMENT_CONTIGUOUS, /* these three follow from the numbers of experts and ranks, and the seed
                           */
    PLACEMENT_ROUND_ROBIN,
    PLACEMENT_RANDOM,
    PLACEMENT_GREEDY,
    PLACEMENT_ANTICORRELATED,
    PLACEMENT_ANTICORRELATED_SCALED,
    PLACEMENT_REPLICATE,
    PLACEMENT_GIVEN, /* the user's own map */
    PLACEMENT_METHODS
} PlacementMethod; /* policies/placement.h */
typedef enum { BUDGET_UNIFORM, BUDGET_SKEW, BUDGET_OPTIMAL } BudgetChoice;

/* What one expert of a layer costs, as measured. */
typedef struct {
    uint32_t n;
    const uint32_t *rows;    /* [n] ascending, from 1 up */
    const uint32_t *host_ns; /* [n] to compute so many rows on the host, one expert at a time */
    uint32_t load_ns;        /* to load it */
    uint32_t event_ns[2];    /* what an event costs besides, of which the host computes any, and in
                                which any is loaded */
} ExpertCosts;

/* Plain data but for the tables, which a copy shares without owning them: see plan_free(). */
typedef struct {
    char name[128];
    uint64_t seed; /* fixes every random choice */
    struct {
        GatingMode mode;
        double capacity_factor; /* static: capacity = ceil(factor * tokens of the step) */
        Dispatch dispatch;
    } gating;
    struct {
        bool on; /* false: every expert is resident from the start */
        BufferScopeKind scope;
        uint32_t slots;     /* per scope; 0 when the budget is in bytes, or BUDGET has a table */
        uint64_t bytes;     /* per scope; 0 when the budget is in slots, or BUDGET has a table */
        PlanLearned budget; /* BudgetChoice: how the layers share as much for each; the slots of
                               every layer, which then keep to slots or bytes where given */
        ReplayOrder order;
        char evict[32];  /* a name in policies/eviction.h's table */
        PlanLearned hot; /* HotChoice; the set that evict "static" keeps: experts of each layer */
        PlanLearned initial; /* HotChoice; the residents at the start: experts of each layer */
        double alpha; /* of params: the share of the newest score in ema-score's average; 0: 0.5 */
    } buffer;
    struct {
        char predictor[48];    /* "none", or a form of policies/predictor.h's table */
        uint32_t distance;     /* MoE layers ahead */
        uint32_t max_inflight; /* experts prefetched whose layer has not begun */
        PlanLearned table;     /* PredictorTable; frequency: [[events of each expert]] by layer;
                                  transition: for each expert of a layer that predicts, pairs of an
                                  expert     that follows it and its share */
        uint32_t successors;   /* of each expert, in a table that transition learns; 0: 8 */
        uint32_t experts; /* predicted of a layer; 0: what the predictor names, or, where it only
                             ranks them, as many as the event needs that predicts */
    } prefetch;
    struct {
        ComputeMode mode;
        PlanLearned host_ns;  /* CostsChoice; split: [rows, ns] of one expert on the host, by layer,
                                 rows ascending */
        PlanLearned load_ns;  /* CostsChoice; split: ns of one expert's load, by layer */
        PlanLearned event_ns; /* CostsChoice; split: [ns, ns] by layer, as ExpertCosts says; without
                                 a table 0 */
    } compute;
    struct {
        uint32_t ranks;
        PlacementMethod method;
        PlanLearned map;   /* the ranks of each expert, by layer; none where METHOD says it all */
        uint32_t replicas; /* copies in each layer beyond one of every expert */
    } placement;
    struct {
        uint32_t max_tokens; /* of one step */
        BatchingMode mode;
        uint32_t sequences;    /* running at once, where the mode is not as recorded; else 0 */
        ArrivalsKind arrivals; /* mode continuous */
        double requests_per_s; /* of arrivals that have a rate; else 0 */
    } batching;
    struct {
        double h2d_gb_per_s; /* throttle of host-to-device loads; 0: none */
    } link;
} Plan;

/* As in the JSON. */
const char *plan_scope_name(BufferScopeKind scope);
const char *plan_order_name(ReplayOrder order);
const char *plan_compute_name(ComputeMode mode);

/* What of PLAN must be learnt from a trace before it can run, as the path of the key
 * ("buffer.hot"); NULL: nothing. */
const char *plan_unlearned(const Plan *plan);
/* The same of what must come from a hardware profile ("compute.host_ns"). */
const char *plan_unmeasured(const Plan *plan);
/* Fails with ERR_PLAN where plan_unlearned() or plan_unmeasured(). */
Status plan_check_learned(const Plan *plan);
/* Puts measured costs of the experts of LAYERS in the place of what PLAN leaves to be measured.
 * Fails with ERR_INPUT where they are no costs that a plan may have (policies/plan.schema.json). */
Status plan_measure(Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                    const ExpertCosts *costs);
/* buffer.alpha, or what stands for 0. */
double plan_alpha(const Plan *plan);
/* True when PLAN prefetches. */
bool plan_prefetches(const Plan *plan);
/* True when PLAN's eviction or its predictor needs the future. */
bool plan_needs_future(const Plan *plan);

/* The PLAN_LEARNABLE things that a plan can learn, the first PLAN_TRAINED from a trace, the next
 * from a hardware profile, or carries as tables: number I of PLAN, and its path ("buffer.hot") at
 * *PATH. */
enum { PLAN_TRAINED = 5, PLAN_LEARNABLE = 8 };
PlanLearned *plan_learned(Plan *plan, size_t i, const char **path);
/* Puts TABLE, which PLAN then owns as well, in the place of what is learnt. */
void plan_learn(PlanLearned *learned, const PlanTable *table);

/* All experts resident, dynamic gating, 4096 tokens a step. */
Plan plan_default(void);
Status plan_load(const char *path, Plan *plan);
/* Gives back the tables of PLAN, which plan_load(), plan_from_json() or plan_share() made its
 * owner; a plan without tables needs no freeing. */
void plan_free(Plan *plan);
/* A copy that owns the tables too. */
Plan plan_share(const Plan *plan);
/* FILE names the origin in errors. */
Status plan_from_json(const cJSON *json, const char *file, Plan *plan);
/* The canonical form, every key present: plan_from_json(plan_to_json(p)) == p. Freed with
 * cJSON_Delete. */
Status plan_to_json(const Plan *plan, cJSON **json);
/* One line of JSON; freed with mem_free. */
Status plan_to_text(const Plan *plan, char **text);
/* How PLAN puts tokens into steps (policies/scheduler.h). */
Batching plan_batching(const Plan *plan);
Arrivals plan_arrivals(const Plan *plan);
/* "as-recorded", "apart", "mixed", "continuous" */
const char *plan_batching_name(BatchingMode mode);
/* Sets one value of a plan's JSON: ASSIGNMENT is "buffer.slots=8". Objects on the way are made. The
 * value is parsed as JSON, and taken as a string where it is none. Check the result with
 * plan_from_json. */
Status plan_json_set(cJSON *json, const char *assignment);
/* Puts a copy of VALUE at PATH ("buffer.slots"). */
Status plan_json_put(cJSON *json, const char *path, const cJSON *value);

/* TABLE, of KEY, lists experts of LAYERS: fails with ERR_PLAN where it has another layer, an
 * expert that its layer has not, or one twice. NULL: an empty one. */
Status plan_lists_check(const char *key, const PlanTable *table, const TraceLayer *layers,
                        uint32_t n_layers);
/* Slots per scope under PLAN for LAYERS: resolves a byte budget, caps nothing. A share of the
 * budget that is still to be learnt counts as uniform; a table must have every layer. A budget in
 * bytes over experts of different sizes gives as many as fit of the smallest. Fails when the budget
 * has no room for one expert (order staged holds those of the event besides, so it may have none).
 * With the buffer off, the slots that hold everything. Per layer for scope layer (*slots is
 * [n_layers]), one for device (*slots[0]). */
Status plan_slots(const Plan *plan, const TraceLayer *layers, uint32_t n_layers, uint32_t *slots);
/* True when the budget of PLAN's buffer has room for every expert of LAYERS: once all are there,
 * they stay. (The slots of order staged are no sign of it: it may keep more for an event.) */
bool plan_holds_all(const Plan *plan, const TraceLayer *layers, uint32_t n_layers);

#endif
