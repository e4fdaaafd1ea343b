/* The CUDA backend's device: its queues, its memory and the events that time it. Shared by the
 * files of the backend's table (exec/cuda/backend*.c) only.
 *
 * One stream computes, one copies experts into slots; events order the two. Device memory is one
 * block: the caller's part, then what the operations need for themselves. */
#ifndef EXEC_CUDA_DEVICE_H
#define EXEC_CUDA_DEVICE_H

#include "base/memory.h"
#include "base/threads.h"
#include "exec/cpu/host_experts.h"
#include "exec/cuda/device_arena.h"
#include "exec/cuda/experts.h"
#include "exec/cuda/ops.h"
#include "exec/cuda/pinned.h"
#include "exec/cuda/small_copies.h"
#include "exec/cuda/static_gating.h"

enum {
    /* Pinned host memory through which weights pass that must be converted. */
    STORE_STAGING_BYTES = 32 << 20,
    /* Shapes of steps that are remembered, and how many of them may have a graph. */
    MOST_SHAPES = 512,
    MOST_GRAPHS = 128
};

/* A load runs between its two events, in the stream of the copies; one that is copied together with
 * others, between those of the first of them. */
typedef struct {
    cudaEvent_t start;
    cudaEvent_t end;
    uint32_t first; /* ticket of the load whose events count */
    uint64_t order; /* of the end in the stream */
    bool timed;     /* what follows is known */
    uint64_t start_ns;
    uint64_t duration_ns;
} LoadEvents;

/* A step's shape, and what it queued as a graph, or NULL when it came only once. */
typedef struct {
    StepShape shape;
    cudaGraphExec_t executable;
    uint64_t last_step;
} StepGraph;

enum { HOST_BUFFERS = 2 };

/* Results of host experts on their way. */
typedef struct {
    void *out;           /* pinned [host_experts_rows()][d_model] */
    uint32_t *rows;      /* pinned [host_experts_rows()]: the assignment of each */
    cudaEvent_t fetched; /* by the GPU */
    bool used;           /* in this call */
} HostBuffer;

/* Experts on the host (exec/cuda/backend_host.c); with options.host only. */
typedef struct {
    HostExperts *experts;
    Pinned memory;         /* of the arrays */
    float *in;             /* [max_tokens][d_model] */
    uint32_t *group_first; /* [max_experts + 1] RowGroups */
    uint32_t *group_rows;  /* [max_tokens * max_top_k] */
    HostBuffer buffers[HOST_BUFFERS];
    cudaStream_t results; /* puts results among the rows */
} HostSide;

struct Device {
    DeviceOptions options;
    ComputeType compute; /* COMPUTE_F32 or COMPUTE_BF16 */
    ThreadPool *pool;    /* converts weights */
    cudaStream_t stream; /* computes */
    cudaStream_t copies; /* loads */
    Cublas cublas;
    OpsQueue queue;
    ExpertsWork experts;
    StaticGating gating; /* with options.capacity only */
    DeviceArena memory;
    Pinned host_memory;   /* what allocate_host() handed out */
    Pinned kept;          /* what keep_expert() made */
    size_t kept_bytes;    /* of it used */
    Pinned staging;       /* floats of weights that are converted */
    void *staging_device; /* the same on the device */
    size_t staged;        /* bytes of both that the queue may still read */
    bool reads_sources;   /* the queue may still read what it was given to store */
    HostSide host_side;
    void *expert_dense;       /* device: an expert before it is packed */
    void *expert_form;        /* device: an expert in a slot's form */
    uint64_t *throttle_start; /* device: when the throttled load began */
    LoadEvents *loads;        /* [n_loads] */
    uint32_t n_loads;
    uint64_t load_order; /* of the load that was begun last ... */
    uint32_t last_load;  /* ... and its ticket */
    Tell tells[MOST_TELLS];
    uint32_t n_tells; /* that the next wait() is for */
    uint32_t told;    /* the number that the last of them ended with */
    Pinned told_word; /* where it appears */
    bool is_telling;  /* it has not been seen there */
    uint32_t held;    /* times that the queue was held */
    Pinned held_word; /* how many of these are over */
    uint64_t asked_ns;
    Arena tables;        /* of the array below */
    cudaEvent_t *stamps; /* [max_stamps] */
    cudaEvent_t queued;  /* what a load comes after */
    cudaEvent_t anchor;  /* at ANCHOR_NS in clock_ns() */
    uint64_t anchor_ns;
    bool anchored;                 /* since the last stamp or load */
    StepGraph graphs[MOST_SHAPES]; /* [n_graphs] */
    uint32_t n_graphs;
    uint64_t step;       /* number of the one that began last */
    StepGraph *again;    /* of the present step, whose shape came before; NULL: it did not, or the
                            step repeats its graph */
    StepGraph *captured; /* whose step is being captured; NULL: none */
    char description[512];
};

/* Bytes of an element of a matrix. */
size_t cuda_weight_bytes(const Device *device);

Status cuda_store(Device *device, const Part *part, void *to);
Status cuda_store_floats(Device *device, const Part *part, float *to);
Status cuda_store_ffn(Device *device, const FfnShape *shape, const FfnTensors *tensors, void *to);
Status cuda_store_expert(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                         void *to);
Status cuda_keep_expert(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                        const void **kept);

/* Backend.begin_step and Backend.end_step (exec/cuda/backend_graphs.c) */
Status cuda_begin_step(Device *device, const StepShape *shape, bool *repeated);
Status cuda_end_step(Device *device, bool whole, bool *again);
void cuda_forget_graphs(Device *device);

/* Backend.tell, Backend.wait, Backend.poll, Backend.hold and Backend.release
 * (exec/cuda/backend_wait.c) */
Status cuda_tell(Device *device, void *to, const void *from, size_t bytes);
Status cuda_wait(Device *device);
Status cuda_hold(Device *device);
void cuda_release(Device *device);
Status cuda_poll(Device *device, bool *done);

/* Backend.begin_anew (exec/cuda/backend_loads.c) */
Status cuda_begin_anew(Device *device, uint32_t max_loads);
/* Makes the events of N loads, where there are fewer. */
Status cuda_make_loads(Device *device, uint32_t n);
void cuda_free_loads(Device *device);
/* Open and close device->host_side. */
Status cuda_open_host(Device *device);
void cuda_close_host(Device *device);
Status cuda_offer_host(Device *device, const ExpertBatch *batch, const float *in);
Status cuda_run_host(Device *device, const ExpertBatch *batch, const HostJob *jobs, uint32_t n_jobs,
                     const float *in, void *out);
Status cuda_time_host(Device *device, const FfnShape *shape, const HostJob *jobs, uint32_t n_jobs,
                      uint64_t *ns);

Status cuda_load(Device *device, const Load *loads, uint32_t n);
Status cuda_await_loads(Device *device, const uint32_t *tickets, uint32_t n);
Status cuda_link_idle(Device *device, bool *idle);
Status cuda_load_time(Device *device, uint32_t ticket, uint64_t *start_ns, uint64_t *duration_ns);
Status cuda_stamp(Device *device, uint32_t index);
Status cuda_stamp_times(Device *device, uint32_t n, uint64_t *ns);

#endif
