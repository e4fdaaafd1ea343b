/* The executor: one model, one plan, one backend; runs steps and tells what was routed and what was
 * loaded.
 *
 * The forward pass is written once over exec/backend.h. All experts lie in the host store (the
 * mapped checkpoint); slots lie in the device arena; every residency decision is
 * policies/buffer.h's. Nothing is allocated in a step. */
#ifndef EXEC_EXECUTOR_H
#define EXEC_EXECUTOR_H

#include "exec/checkpoint.h"
#include "exec/host_times.h"
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
    /* Plans that executor_set_plan() will be asked for: there will be memory for them too. NULL:
     * none but those that fit in what PLAN needs. Not used after executor_open(). */
    const Plan *others;
    size_t n_others;
    const char *device;    /* "cpu" */
    size_t threads;        /* 0: all; with cuda all but one */
    uint32_t max_requests; /* KV cache slots */
    uint32_t max_length;   /* tokens of one request, prompt and output; at most the model's
                              max_positions */
    uint32_t max_tokens;   /* of one step */
    LogitsWanted logits;   /* the most that a step will ask for */
    ComputeType compute;   /* of matrix products; ERR_UNSUPPORTED when the device has it not */
    uint32_t predictions; /* MoE layers ahead whose routing every step predicts; 0: none. Changes no
                             number of the step, costs a norm and a router each. */
    bool warm_up; /* What a device does only the first time it does when it is opened: a second on a
                     GPU, after which no step takes longer for being the first of its size. For who
                     serves or measures every step. */
} ExecutorOptions;

/* CHECKPOINT must outlive the executor. Sizes everything up front; ERR_MEMORY names the sizes when
 * it does not fit; ERR_UNSUPPORTED for a device or plan that cannot be run. */
Status executor_open(const Checkpoint *checkpoint, const ExecutorOptions *options,
                     Executor **executor);
void executor_close(Executor *executor);

/* Bytes of device memory by what they are for, and of host memory that the device copies from and
 * to (the experts that loads read not among it). */
typedef struct {
    size_t weights; /* without the experts */
    size_t slots;   /* of experts: the plan's, or all when its buffer is off */
    size_t cache;
    size_t activations;
    size_t own; /* of the backend: workspaces, staging */
    size_t pinned;
} ExecutorMemory;

/* What executor_open() would take, without opening anything: the device's five sum up to
 * executor_device_bytes(). Fails as executor_open() does, but for want of memory. For device cuda
 * there must be a GPU, which is only asked for its number of multiprocessors. */
Status executor_memory(const Checkpoint *checkpoint, const ExecutorOptions *options,
                       ExecutorMemory *memory);

/* The MoE layers as the trace describes them; [*count]. Valid while the executor lives. */
const TraceLayer *executor_layers(const Executor *executor, uint32_t *count);
/* The compute type NAME, "f32" or "bf16"; NULL: COMPUTE_DEFAULT. Fails with ERR_USAGE. */
Status executor_find_compute(const char *name, ComputeType *compute);
/* The name of what COMPUTE is on DEVICE. */
const char *executor_compute_name(const char *device, ComputeType compute);
/* "cpu: AMD EPYC ..., 2 threads, OpenBLAS 0.3.21 ..." */
const char *executor_device(const Executor *executor);
/* Device memory of the expert slots of the plan, bytes, in the compute type. */
uint64_t executor_slot_bytes(const Executor *executor);
/* All of its device memory, bytes. */
uint64_t executor_device_bytes(const Executor *executor);
/* ... and of one slot of MoE layer number MOE_LAYER. */
uint64_t executor_expert_slot_bytes(const Executor *executor, uint32_t moe_layer);
/* How fast the host's cores are now, between two steps: what a few experts take them that nobody
 * asked for, in *NS; other experts each time, that no cache holds where there are so many. 0 where
 * no plan of the executor computes on the host. */
Status executor_time_host(Executor *executor, uint64_t *ns);
/* Experts on the host read the same memory as loads: how many times as long they take beside loads,
 * and loads beside them. For executors whose slots hold nothing that is wanted any more. */
Status executor_time_beside(Executor *executor, double *host, double *load);
/* Begins anew under PLAN: the expert buffer is empty, or holds what the plan begins with, and its
 * decisions are those of an executor that was just opened; KV slots stay as they are. Any plan does
 * whose slots fit in the memory that the executor was opened with, and that asks for no more static
 * gating and predicts no further ahead: ERR_UNSUPPORTED else, with the sizes. After that, after
 * what buffer_new() refuses, and without memory for the decisions all is as it was; when an expert
 * cannot be put in place, the executor may only be closed. Where there was no buffer before, the
 * experts' copies in host memory are made now. */
Status executor_set_plan(Executor *executor, const Plan *plan);
/* What it was opened with, but the plan, which is the executor's own copy and the present one. */
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
    bool greedy;                 /* of each row of logits OUTPUT->best is wanted, and no more */
    bool timing;                 /* OUTPUT->timing is wanted; costs a little */
    bool held;                   /* ... of what the device takes: where the step waits for events,
                                    it begins what comes between two of them when all of it is
                                    queued, so that no operation waits for the host */
    bool scores;                 /* OUTPUT->router_scores are wanted; large, for prompts */
    /* Forced routing, or NULL to ask the router: per MoE layer of the stack [tokens][top_k], one
     * after the other. */
    const uint16_t *forced_experts;
    bool forced_known;           /* they are of the layer and differ, or are dropped: nobody looks
                                    at them while the device waits for the step */
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
    uint32_t kept_for; /* EXPERTS and WEIGHTS stay as they are until this many more steps begin: 1,
                          and more where they are large, so that they can be read beside the steps
                          that follow */
    const uint16_t *experts; /* per MoE layer of the stack [tokens][top_k], EXPERT_DROPPED where
                                dropped */
    const float *weights;    /* same shape; 0 where dropped */
    const ResidencyRecord *residency;
    size_t n_residency;
    const float *logits; /* [n_logits][vocabulary] in token order, or NULL */
    uint32_t n_logits;
    const uint32_t *best;       /* [n_logits] of a greedy step: the token with the largest logit, of
                                   equals the lowest; else NULL */
    const float *router_scores; /* per MoE layer [tokens][experts] probabilities over all experts;
                                   NULL unless wanted */
    /* As in TraceStep, of options.predictions distances. */
    uint32_t n_distances;
    const uint16_t *predicted;
    const float *predicted_weights;
    const TimingRecord *timing; /* ops of traces/ops.h; times in clock_wall_ns() */
    size_t n_timing;
    HostTimes host;
} StepOutput;

/* Tokens of the largest step whose experts and weights are kept for one step only. */
uint32_t executor_copied_tokens(const Executor *executor);
/* ERR_UNSUPPORTED when the plan needs a future that INPUT (NULL: no step) does not bring. */
Status executor_check_future(const Executor *executor, const StepInput *input);
/* Fails with ERR_INPUT for a token or position out of range (checked first), ERR_INPUT when NaN
 * appears. */
Status executor_step(Executor *executor, const StepInput *input, StepOutput *output);
/* The next step of any shape is as the first of it: what was noted of earlier ones to repeat them
 * is forgotten. */
Status executor_forget_steps(Executor *executor);
/* Frees a KV slot, and the source of that number, for another request. */
void executor_release(Executor *executor, uint32_t kv_slot);
/* Forgets what the request in KV_SLOT has from position LENGTH on, none of it padding. */
void executor_rewind(Executor *executor, uint32_t kv_slot, uint32_t length);
/* Makes the request in slot TO a copy of that in FROM (beams that part). */
Status executor_copy_slot(Executor *executor, uint32_t from, uint32_t to);

#endif
