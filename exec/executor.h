/* The executor: one model, one plan, one backend; runs steps and tells what was routed and what was
 * loaded.
 *
 * The forward pass is written once over exec/backend.h. All experts lie in the host store (the
 * mapped checkpoint); slots lie in the device arena; every residency decision is
 * policies/buffer.h's. Nothing is allocated in a step. */
#ifndef EXEC_EXECUTOR_H
#define EXEC_EXECUTOR_H

#include "exec/checkpoint.h"
#include "policies/plan.h"
#include "traces/trace.h"

typedef struct Executor Executor;

typedef enum {
    LOGITS_NONE,
    LOGITS_LAST /* of each request in the step */,
    LOGITS_ALL
} LogitsWanted;

typedef struct {
    const Plan *plan;
    const char *device;    /* "cpu" */
    size_t threads;        /* 0: all */
    uint32_t max_requests; /* KV cache slots */
    uint32_t max_length;   /* tokens of one request, prompt and output; at most the model's
                              max_positions */
    uint32_t max_tokens;   /* of one step */
    LogitsWanted logits;   /* the most that a step will ask for */
    ComputeType compute;   /* of matrix products; ERR_UNSUPPORTED when the device has it not */
    uint32_t predictions; /* MoE layers ahead whose routing every step predicts; 0: none. Changes no
                             number of the step, costs a norm and a router each. */
} ExecutorOptions;

/* CHECKPOINT must outlive the executor. Sizes everything up front; ERR_MEMORY names the sizes when
 * it does not fit; ERR_UNSUPPORTED for a device or plan that cannot be run. */
Status executor_open(const Checkpoint *checkpoint, const ExecutorOptions *options,
                     Executor **executor);
void executor_close(Executor *executor);

/* The MoE layers as the trace describes them; [*count]. Valid while the executor lives. */
const TraceLayer *executor_layers(const Executor *executor, uint32_t *count);
/* The compute type NAME, "f32" or "bf16"; NULL: COMPUTE_DEFAULT. Fails with ERR_USAGE. */
Status executor_find_compute(const char *name, ComputeType *compute);
/* "cpu: AMD EPYC ..., 2 threads, OpenBLAS 0.3.21 ..." */
const char *executor_device(const Executor *executor);
/* Device memory of the expert slots, bytes, in the compute type. */
uint64_t executor_slot_bytes(const Executor *executor);
/* All of its device memory, bytes. */
uint64_t executor_device_bytes(const Executor *executor);
/* Empties the expert buffer and gives it SLOTS slots, of the memory that it was opened with: for
 * plans with a budget in slots, at least 1 and at most as many as then. */
Status executor_set_slots(Executor *executor, uint32_t slots);
/* What it was opened with; the plan is the executor's own copy. */
const Plan *executor_plan(const Executor *executor);
const ExecutorOptions *executor_options(const Executor *executor);
/* True when steps must bring the future: the plan's eviction or its predictor needs it. */
bool executor_needs_future(const Executor *executor);

/* One step. Tokens of one request are consecutive and in position order, and position counts on
 * from what the request has in its KV slot. A step runs one stack: an encoder's step takes whole
 * sources, from position 0, in slots that the decoder's steps then look at. */
typedef struct {
    Stack stack; /* 0: the decoder */
    uint32_t tokens;
    const uint32_t *token;    /* [tokens] */
    const uint32_t *kv_slot;  /* [tokens] below max_requests */
    const uint32_t *position; /* [tokens] below max_length */
    const uint32_t *request;  /* [tokens] whose they are, for plans that decide by it; else NULL */
    const uint32_t *source_slot; /* [tokens] the source that each token's request looks at; NULL:
                                    the one in the slot of the same number */
    LogitsWanted logits;         /* an encoder has none */
    bool timing;                 /* OUTPUT->timing is wanted; costs a little */
    bool scores;                 /* OUTPUT->router_scores are wanted; large, for prompts */
    /* Forced routing, or NULL to ask the router: per MoE layer of the stack [tokens][top_k], one
     * after the other. */
    const uint16_t *forced_experts;
    const float *forced_weights; /* NULL: the router's own probabilities of the forced experts */
    /* Future for policies that need it: per MoE layer, one after the other, of its active experts
     * ascending. */
    const uint32_t *next_use;
    /* Future for predictors that need it: how many experts each MoE layer of the stack will need,
     * and which, ascending, one layer after the other. */
    const uint16_t *n_coming;
    const uint16_t *coming;
} StepInput;

/* Arrays belong to the executor and are valid until the next step. */
typedef struct {
    uint64_t start_ns; /* clock_wall_ns */
    uint64_t duration_ns;
    const uint16_t *experts; /* per MoE layer of the stack [tokens][top_k], EXPERT_DROPPED where
                                dropped */
    const float *weights;    /* same shape; 0 where dropped */
    const ResidencyRecord *residency;
    size_t n_residency;
    const float *logits; /* [n_logits][vocabulary] in token order, or NULL */
    uint32_t n_logits;
    const float *router_scores; /* per MoE layer [tokens][experts] probabilities over all experts;
                                   NULL unless wanted */
    /* As in TraceStep, of options.predictions distances. */
    uint32_t n_distances;
    const uint16_t *predicted;
    const float *predicted_weights;
    const TimingRecord *timing; /* ops of traces/ops.h; times in clock_wall_ns() */
    size_t n_timing;
} StepOutput;

/* ERR_UNSUPPORTED when the plan needs a future that INPUT (NULL: no step) does not bring. */
Status executor_check_future(const Executor *executor, const StepInput *input);
/* Fails with ERR_INPUT for a token or position out of range (checked first), ERR_INPUT when NaN
 * appears. */
Status executor_step(Executor *executor, const StepInput *input, StepOutput *output);
/* Frees a KV slot, and the source of that number, for another request. */
void executor_release(Executor *executor, uint32_t kv_slot);
/* Makes the request in slot TO a copy of that in FROM (beams that part). */
Status executor_copy_slot(Executor *executor, uint32_t from, uint32_t to);

#endif
