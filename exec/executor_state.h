/* The inside of an executor; for exec/executor*.c only. */
#ifndef EXEC_EXECUTOR_STATE_H
#define EXEC_EXECUTOR_STATE_H

#include "exec/forward.h"

struct Executor {
    Plan plan;
    uint32_t opened_slots; /* of the plan that it was opened with */
    const ModelConfig *config;
    Forward forward;
    ExecutorOptions options;
    Arena tables; /* trace_layers, layer weights, slots: known before the device is open */
    Arena device; /* pieces of the device's memory; not ours to free */
    Arena pinned; /* pieces of what the device copies to and from; not ours to free */
    Arena host;
    TraceLayer *trace_layers; /* [n_moe_layers] */
    uint32_t *kv_length;      /* [max_requests] positions that each slot holds */
    uint32_t *kv_padding;     /* [max_requests] padding tokens among them */
    uint32_t *source_length;  /* [max_requests] tokens of the source in each slot; 0: none */
    uint32_t *kv_seen; /* [max_requests] number of the step that last used the slot, plus 1 */
    uint32_t step_number;
};

#endif
