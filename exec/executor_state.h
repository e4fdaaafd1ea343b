/* The inside of an executor; for exec/executor*.c only. */
#ifndef EXEC_EXECUTOR_STATE_H
#define EXEC_EXECUTOR_STATE_H

#include "exec/forward.h"

/* What a plan asks of the device beside its slots. */
typedef struct {
    uint32_t capacity; /* DeviceOptions.capacity */
    bool mask;
    uint32_t distance; /* MoE layers ahead whose routers it asks; 0: none */
    bool host;         /* experts are computed on the host */
} PlanDemands;

struct Executor {
    Plan plan;
    PlanDemands laid_out; /* the most of the plans that it was opened for */
    const ModelConfig *config;
    Forward forward;
    ExecutorOptions options;
    Arena tables; /* trace_layers, layer weights, slots: known before the device is open */
    Arena device; /* pieces of the device's memory; not ours to free */
    Arena pinned; /* pieces of what the device copies to and from; not ours to free */
    Arena host;
    Arena deciding;           /* what the decisions of the present plan work in */
    TraceLayer *trace_layers; /* [n_moe_layers] */
    uint32_t *kv_length;      /* [max_requests] positions that each slot holds */
    uint32_t *kv_padding;     /* [max_requests] padding tokens among them */
    uint32_t *source_length;  /* [max_requests] tokens of the source in each slot; 0: none */
    uint32_t *kv_seen; /* [max_requests] number of the step that last used the slot, plus 1 */
    uint32_t step_number;
    uint32_t *forced_seen; /* [max_experts] which check of forced routing last saw the expert */
    uint32_t n_checks;
};

/* The most MoE layers that a layer of MODEL has ahead of it. */
uint32_t executor_most_ahead(const ModelConfig *config);
PlanDemands executor_demands(const Executor *executor, const Plan *plan);
/* Fails with ERR_UNSUPPORTED for a plan that no executor runs. */
Status executor_check_plan(const Plan *plan);
/* Has the forward pass bring what the decisions of PLAN ask for. */
void executor_decide_by(Executor *executor, const Plan *plan);

/* Runs steps that leave nothing behind, where operations take longer when they are first called. */
Status executor_warm_up(Executor *executor);

/* What the device is opened with. */
DeviceOptions executor_device_options(const Executor *executor);
/* Take the host arrays; the device's memory; and what it copies to and from. */
Status executor_take_host(Executor *executor);
Status executor_take_device(Executor *executor);
Status executor_take_pinned(Executor *executor);
void executor_lay_out_deciding(Executor *executor, Arena *arena);
/* Only adds up what executor_take_device() and executor_take_pinned() would take. */
Status executor_add_up(Executor *executor, ExecutorMemory *memory);

#endif
