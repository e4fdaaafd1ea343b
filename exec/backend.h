/* What a device must be able to do for a forward pass: one table of functions per backend.
 *
 * The forward pass (exec/forward.c) is written once over this table. Pointers called "device" point
 * into device memory: only the backend may look behind them, but they may be offset by the host.
 * All device memory is one block, taken once by allocate(); nothing else is allocated after the
 * executor is open. Activations are f32 in memory (a backend may round them to its compute type
 * inside an operation), matrices and KV caches have elements of the backend's choice, vectors
 * (norms, biases, tables) are f32.
 *
 * Operations are queued: they happen on the device in the order of the calls, and the host waits
 * for them only in wait(), download() and upload(). Host memory that fetch(), tell(), send() and
 * load() touch must be allocate_host()'s or the checkpoint's, and stay as it is until wait(). Only
 * while the plan's buffer has loads to make does the host wait inside a step (for the counts of an
 * event); else a step is one uninterrupted queue, with counts and offsets on the device, which
 * depends on nothing but the step's shape: begin_step() and end_step() stand around it, so that a
 * backend may capture and replay it.
 *
 * Every function returns OK or has written the error record. One thread at a time. */
#ifndef EXEC_BACKEND_H
#define EXEC_BACKEND_H

#include "exec/checkpoint.h"
#include "exec/ffn_layout.h"

/* One opened device. */
typedef struct Device Device;

/* The most that a step will ask of a device. */
typedef struct {
    const ModelConfig *config;
    ComputeType compute;
    size_t threads;        /* 0: all; cuda: all but one */
    uint32_t max_requests; /* KV cache slots */
    uint32_t max_length;   /* positions of one slot, and tokens of one source */
    uint32_t max_tokens;   /* of one step */
    uint32_t max_loads;    /* tickets of one step; begin_anew() may ask for more */
    uint32_t max_stamps;   /* of one step */
    uint32_t capacity;     /* of run_static() for max_tokens; 0: it is not called */
    bool mask;             /* expert rows may be gathered by one-hot products */
    bool host;             /* run_host() is called */
} DeviceOptions;

/* What DeviceOptions make of sizes, in bytes. */
typedef struct {
    size_t weight;     /* of an element of a matrix */
    size_t cache;      /* of an element of a KV cache */
    size_t expert_out; /* of what run_experts() gives for a step of max_tokens, in the backend's
                          form */
    size_t own; /* of device memory that the backend takes beside what allocate() is asked for */
} BackendSizes;

/* A weight in device memory: [rows][columns]; BIAS [rows] f32 or NULL. */
typedef struct {
    void *data;
    float *bias;
    uint32_t rows;
    uint32_t columns;
} Matrix;

/* out = in * weight / sqrt(mean(in^2) + eps) per row, or with the mean taken off and BIAS added. */
typedef struct {
    NormKind kind;
    float eps;
    const float *weight; /* device */
    const float *bias;   /* device, or NULL */
} Norm;

/* Consecutive tokens of one request in a step, and what they attend to. */
typedef struct {
    uint32_t kv_slot;
    uint32_t first_token; /* row in the step's arrays */
    uint32_t tokens;
    uint32_t position; /* of the first one */
    uint32_t keys;     /* in the cache, these tokens' included */
} Span;

/* The spans of a step, on both sides. Their tokens are consecutive from 0 and ascend; spans without
 * tokens come last. An operation that is queued may depend on n, tokens and most_keys, but not on
 * what HOST has. */
typedef struct {
    const Span *host;   /* [n] */
    const Span *device; /* the same */
    uint32_t n;
    uint32_t tokens;    /* of all spans */
    uint32_t most_keys; /* that a span may have */
} Spans;

/* What the queue of a step depends on: steps of the same shape queue the same operations. */
typedef struct {
    uint32_t stack;
    uint32_t tokens;
    uint32_t spans;
    uint32_t most_keys;
    uint32_t most_source_keys;
    uint32_t variant; /* bits: the caller's */
} StepShape;

/* A layer's part of a cache, of elements of BackendSizes.cache bytes. Position P of slot S has its
 * keys at element (S * positions + P) * key_stride of KEYS, its values likewise. Latent attention
 * keeps [latent, rotated key] as the one key head, whose first kv_rank elements are its value too:
 * values == keys. */
typedef struct {
    void *keys;
    void *values;
    size_t key_stride; /* elements from position to position */
    size_t value_stride;
    uint32_t positions;
} CacheLayer;

/* How queries, keys and values become what attend() wants. */
typedef struct {
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t key_dim;
    uint32_t value_dim;
    const float *q_norm; /* device: RMS norm weights [key_dim], of a row when row_norm; or NULL */
    const float *k_norm;
    bool row_norm;
    float norm_eps;
    float clip; /* after the norm; 0: none */
    RotaryKind rotary;
    uint32_t rotary_dims;
    const float *cosine; /* device [max_length][rotary_dims / 2] */
    const float *sine;
    CacheLayer cache;
} AppendLayer;

/* Latent attention's: the query is [nope, rotary] per head, what it becomes [kv_rank, rotary]. */
typedef struct {
    uint32_t n_heads;
    uint32_t nope_dim;
    uint32_t kv_rank;
    Norm latent_norm;
    RotaryKind rotary;
    uint32_t rotary_dims;
    const float *cosine;
    const float *sine;
    CacheLayer cache;
} LatentLayer;

typedef struct {
    uint32_t n_heads;
    uint32_t n_kv_heads; /* n_heads is a multiple; consecutive heads share one */
    uint32_t key_dim;
    uint32_t value_dim;
    float scale;
    bool causal;        /* the token at position P sees keys 0 to P; else all keys of its span */
    uint32_t window;    /* ... and of these only the last so many; 0: all */
    const float *sinks; /* device [n_heads]: a logit in the softmax that gives nothing; or NULL */
    /* device [n_heads][2 * cache.positions - 1], added to the scaled product of the query at P and
     * the key at K: element K - P + cache.positions - 1; or NULL */
    const float *relative_bias;
    CacheLayer cache;
    size_t query_stride; /* floats from token to token; heads lie together */
} AttendLayer;

/* One matrix per head, [heads][rows][columns], and where a token's heads lie. */
typedef struct {
    const void *weights;
    uint32_t heads;
    uint32_t rows;
    uint32_t columns;
    size_t in_token; /* floats from token to token, and from head to head */
    size_t in_head;
    size_t out_token;
    size_t out_head;
} HeadMatrices;

/* A feed-forward network that all tokens take. HIDDEN [rows][first->rows] and INSIDE [rows][d_ff]
 * are room for what lies between its parts. */
typedef struct {
    const FfnShape *shape;
    const Matrix *first; /* gate, then up; or just up */
    const Matrix *second;
    const float *gates; /* device [rows]: its output is times their sigmoid; or NULL */
    float *hidden;
    float *inside;
} DenseFfn;

/* Device arrays of one MoE layer's routing. */
typedef struct {
    float *scores;     /* [tokens][experts] probabilities */
    uint16_t *experts; /* [tokens][top_k] */
    float *weights;    /* same shape */
} Routing;

typedef struct {
    const RouterConfig *config;
    Matrix matrix;           /* [experts][d_model]; its bias is the logits' */
    const float *correction; /* device [experts] or NULL */
    uint32_t top_k;
} Router;

/* Rows by expert, on the device: expert e has rows[first[e]] to rows[first[e + 1] - 1]. Row
 * token * top_k + slot belongs to (token, slot); rows of an expert are in token order. */
typedef struct {
    uint32_t *first; /* [experts + 1] */
    uint32_t *rows;  /* [tokens * top_k] */
} RowGroups;

/* The tokens of a MoE layer on the way to their experts, of SHAPE. */
typedef struct {
    const FfnShape *shape;
    const Norm *norm; /* NULL: IN is normed */
    const float *in;  /* [tokens][d_model] */
    float *normed;    /* where the experts find it; IN without a norm */
    uint32_t tokens;
    const Router *router;
    const uint16_t *forced; /* as of route() */
    const float *forced_weights;
    uint32_t capacity; /* as of limit(); 0: none */
    bool normalise_kept;
    Routing routing;
    RowGroups groups;
} MoeEntry;

/* The weights of EXPERT lie in SLOT. */
typedef struct {
    uint32_t expert;
    uint32_t slot;
} ExpertJob;

/* EXPERT is to be computed on the host, from KEPT, which is keep_expert()'s. */
typedef struct {
    uint32_t expert;
    const void *kept;
} HostJob;

enum { HOST_TIMED_EXPERTS = 16 /* of one call of Backend.time_host at the most */ };

/* What run_experts computes for any of the layer's experts. */
typedef struct {
    const FfnShape *shape;
    uint32_t tokens;
    uint32_t top_k;
    uint32_t n_experts;
    /* Rows computed per expert by run_static(), padded with zeros; run_experts() may leave the
     * padding out. 0: just those it has. */
    uint32_t capacity;
    bool mask; /* gather and scatter by products with one-hot matrices */
    Routing routing;
    RowGroups groups;           /* of ROUTING, by the last group() */
    const unsigned char *slots; /* device: an expert's weights lie at slots + slot * slot_stride */
    size_t slot_stride;
    const ExpertJob *placed; /* device [n_experts]: that of each; NULL: in the slot of its number */
} ExpertBatch;

/* A copy from host to a slot. */
typedef struct {
    const FfnShape *shape;
    const void *kept; /* by keep_expert() */
    void *slot;       /* device */
    /* SLOT is read by operations that are queued already: the copy comes after them. Else it may
     * begin at once, beside them. */
    bool after_queue;
    bool ahead;           /* nobody waits for it soon, while others compute: it may take longer */
    uint64_t at_least_ns; /* how long it occupies the link at the least; 0: as it comes */
    uint32_t ticket;      /* below max_loads, once per step */
    /* Only parts [first_part, end_part) of PARTS equal ones, which come in their order, by calls of
     * their own that the ticket's time spans. PARTS 0: all of it. A backend may copy all of it with
     * the first part. */
    uint32_t first_part;
    uint32_t end_part;
    uint32_t parts;
} Load;

typedef struct {
    const char *name;
    bool loads_at_first_call; /* what an operation needs, which takes long */

    /* SIZE_MAX stands for what fits in no address. Nothing is opened; a device whose sizes depend
     * on the hardware must be there. */
    Status (*sizes)(const DeviceOptions *options, BackendSizes *sizes);
    Status (*open)(const DeviceOptions *options, Device **device);
    void (*close)(Device *device);
    /* "cpu: AMD EPYC 9000, 2 threads, OpenBLAS 0.3.21" */
    const char *(*describe)(const Device *device);
    /* Of device memory that allocate() took, what the backend needs for itself included. */
    size_t (*memory_bytes)(const Device *device);

    /* All device memory that the caller will use, zeroed, aligned to 64 bytes; called once. */
    Status (*allocate)(Device *device, size_t bytes, void **memory);
    /* Zeroed host memory that copies may run beside the host's work from; freed by close(). */
    Status (*allocate_host)(Device *device, size_t bytes, void **memory);
    /* Copies that are done on return. */
    Status (*upload)(Device *device, void *to, const void *from, size_t bytes);
    Status (*download)(Device *device, void *to, const void *from, size_t bytes);
    /* Queued copies: host to device, device to host, and within the device (no overlap). */
    Status (*send)(Device *device, void *to, const void *from, size_t bytes);
    Status (*fetch)(Device *device, void *to, const void *from, size_t bytes);
    Status (*move)(Device *device, void *to, const void *from, size_t bytes);
    /* Device to host like fetch(), but at the end of the queue that the next wait() waits for: of
     * few bytes, which the host is about to wait for. Until then FROM stays as it is. */
    Status (*tell)(Device *device, void *to, const void *from, size_t bytes);
    /* Returns when everything queued has happened; loads that nothing queued awaits may go on. */
    Status (*wait)(Device *device);
    /* Whether it has: a caller who asks until it has, and queues nothing but loads meanwhile, has
     * waited. */
    Status (*poll)(Device *device, bool *done);

    /* What is queued in between is a step of SHAPE: operations, stamps and copies, no loads. Where
     * *REPEATED, the backend has queued what it noted of an earlier one, and the caller queues
     * nothing. Each begin_step() that succeeded is followed by one end_step(), with WHOLE false
     * when the step could not be queued to its end; only then does it never fail. Where end_step()
     * says *AGAIN, the caller queues the same once more, of which nothing happens but that it is
     * noted, and calls end_step() for it. */
    Status (*begin_step)(Device *device, const StepShape *shape, bool *repeated);
    Status (*end_step)(Device *device, bool whole, bool *again);
    /* Between steps: whatever was noted of steps is forgotten, since the next ones find other
     * things in other places; they may have MAX_LOADS tickets. */
    Status (*begin_anew)(Device *device, uint32_t max_loads);

    /* Converts PART to matrix elements [rows][columns], or to floats. Done on return, or queued
     * when PART is made up. */
    Status (*store)(Device *device, const Part *part, void *to);
    Status (*store_floats)(Device *device, const Part *part, float *to);
    Status (*store_ffn)(Device *device, const FfnShape *shape, const FfnTensors *tensors, void *to);
    /* An expert into its slot, in the form that run_experts() reads; it has ffn_layout()'s bytes.
     */
    Status (*store_expert)(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                           void *to);
    /* Makes the host's copy of an expert that loads read: in the slot's own form and in memory that
     * is fast to copy from, or just TENSORS. Kept until close(). */
    Status (*keep_expert)(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                          const void **kept);

    /* Begins N loads; loads follow each other in the order of the calls and of LOADS. Neighbours of
     * one size of at most LOADED_TOGETHER_BYTES (policies/link.h) may be copied together, and then
     * have one time. */
    Status (*load)(Device *device, const Load *loads, uint32_t n);
    /* What is queued from now on comes after the loads of TICKETS[n]. */
    Status (*await_loads)(Device *device, const uint32_t *tickets, uint32_t n);
    /* Whether every load that was begun is over. */
    Status (*link_idle)(Device *device, bool *idle);
    /* Waits for the load of this step: when it ran, in clock_ns(). */
    Status (*load_time)(Device *device, uint32_t ticket, uint64_t *start_ns, uint64_t *duration_ns);

    /* Marks this place of the queue as stamp INDEX; after wait(), NS[n] are the times of stamps 0
     * to N - 1 in clock_ns(). */
    Status (*stamp)(Device *device, uint32_t index);
    Status (*stamp_times)(Device *device, uint32_t n, uint64_t *ns);
    /* What is queued after hold() begins when release() is called, not as it is queued: nothing
     * waits for the host in between. Until then the caller must not wait for the queue. A release
     * is of all holds before it; one that was forgotten comes by itself after a second, and one
     * too many does nothing. */
    Status (*hold)(Device *device);
    void (*release)(Device *device);

    /* out[i] = scale * row ids[i] of TABLE, plus row places[i] of POSITIONS (device
     * [..][columns]; NULL: nothing). */
    Status (*embed)(Device *device, const Matrix *table, const uint32_t *ids, uint32_t tokens,
                    float scale, const float *positions, const uint32_t *places, float *out);
    /* out[i] = norm of row pick[i] (PICK NULL: of row i) of IN, rows of COLUMNS. */
    Status (*norm)(Device *device, const Norm *norm, const float *in, const uint32_t *pick,
                   uint32_t rows, uint32_t columns, float *out);
    /* out[rows][weight->rows] = in[rows][weight->columns] * weight^T + bias, added to OUT when ADD.
     */
    Status (*linear)(Device *device, const float *in, const Matrix *weight, uint32_t rows, bool add,
                     float *out);
    /* out = norm(in) * weight^T + bias. NORMED [rows][weight->columns] is room for norm(in), and
     * undefined on return. */
    Status (*norm_linear)(Device *device, const Norm *norm, const float *in, const Matrix *weight,
                          uint32_t rows, float *normed, float *out);
    /* found[row] = 1 where row ROW of IN [rows][columns] has a NaN, else 0. */
    Status (*find_nan)(Device *device, const float *in, uint32_t rows, size_t columns,
                       uint32_t *found);
    /* best[row] = the place of the largest in row ROW of IN [rows][columns], the lowest of equals;
     * UINT32_MAX where the row has a NaN. */
    Status (*find_best)(Device *device, const float *in, uint32_t rows, uint32_t columns,
                        uint32_t *best);
    /* out[token][head] = in[token][head] * weights[head]^T */
    Status (*linear_heads)(Device *device, const HeadMatrices *matrices, const float *in,
                           uint32_t tokens, float *out);
    /* out[rows][d_model] += FFN of in[rows][d_model] */
    Status (*ffn)(Device *device, const DenseFfn *ffn, const float *in, uint32_t rows, float *out);

    /* QKV [tokens][n_heads key_dim + n_kv_heads (key_dim + value_dim)]: norm, clip and rotary
     * embedding of the queries in place, and of the keys into the cache at the spans' positions;
     * values into the cache. n_heads may be 0: a cross attention's cache is filled so. */
    Status (*append)(Device *device, const AppendLayer *layer, const Spans *spans, float *qkv);
    /* KV [tokens][kv_rank + rotary_dims] -> the cache, normed and rotated; the rotary part of each
     * head of QUERIES [tokens][n_heads][nope_dim + rotary_dims], rotated, -> the end of each head
     * of ABSORBED [tokens][n_heads][kv_rank + rotary_dims]. */
    Status (*append_latent)(Device *device, const LatentLayer *layer, const Spans *spans,
                            const float *kv, const float *queries, float *absorbed);
    /* out[tokens][n_heads * value_dim] = softmax(scale * queries * keys^T + bias) * values */
    Status (*attend)(Device *device, const AttendLayer *layer, const Spans *spans,
                     const float *queries, float *out);
    /* The same; MIXED is room for OUT's floats, and has it in the form that linear_mixed() reads.
     */
    Status (*attend_mixed)(Device *device, const AttendLayer *layer, const Spans *spans,
                           const float *queries, void *mixed);
    /* out += mixed * weight^T + bias */
    Status (*linear_mixed)(Device *device, const void *mixed, const Matrix *weight, uint32_t rows,
                           float *out);

    /* Scores, choice and weights of the router for IN [tokens][d_model], all in f32. Choices in
     * descending order (ties: lower id). Where FORCED (device [tokens][top_k], EXPERT_DROPPED
     * allowed) is not NULL the choice is its, and the weights are FORCED_WEIGHTS or, when that is
     * NULL, what the router gives to these. A NaN in a row makes its weights NaN. */
    Status (*route)(Device *device, const Router *router, const float *in, uint32_t tokens,
                    const uint16_t *forced, const float *forced_weights, const Routing *routing);
    /* Drops what is over CAPACITY as gating_limit() does (exec/gating.h). With NORMALISE each
     * token's kept weights are divided by their sum. */
    Status (*limit)(Device *device, uint32_t capacity, uint32_t tokens, uint32_t top_k,
                    uint32_t n_experts, bool normalise, const Routing *routing);
    /* Sorts the rows of EXPERTS by expert; dropped ones are left out. */
    Status (*group)(Device *device, const uint16_t *experts, uint32_t tokens, uint32_t top_k,
                    uint32_t n_experts, const RowGroups *groups);
    /* norm(), route(), limit() and group() in one. */
    Status (*enter_moe)(Device *device, const MoeEntry *entry);
    /* For the rows of each job's expert, its FFN of in[row / top_k] into OUT
     * (BackendSizes.expert_out); JOBS NULL: of every expert, where batch->placed says, once after
     * group(). Which jobs share a call changes no row's numbers. JOBS may be reused on return. */
    Status (*run_experts)(Device *device, const ExpertBatch *batch, const ExpertJob *jobs,
                          uint32_t n_jobs, const float *in, void *out);
    /* Queues what run_host() reads of the batch and of IN: before the wait() that tells which
     * experts the host computes. */
    Status (*offer_host)(Device *device, const ExpertBatch *batch, const float *in);
    /* Computes the rows of N_JOBS experts on the host's cores, beside what is queued, and queues
     * what they give into OUT, as run_experts() would put it there: what is queued from now on
     * comes after it. Returns when they are computed. */
    Status (*run_host)(Device *device, const ExpertBatch *batch, const HostJob *jobs,
                       uint32_t n_jobs, const float *in, void *out);
    /* What one row of each of N_JOBS experts, HOST_TIMED_EXPERTS at the most, takes the host's
     * cores now, for nobody. Not while run_host() may be called, or what it queued is under way. */
    Status (*time_host)(Device *device, const FfnShape *shape, const HostJob *jobs, uint32_t n_jobs,
                        uint64_t *ns);
    /* Static gating with all experts in the slots of their own numbers: run_experts() and
     * combine() in one, the whole BATCH->capacity of every expert computed. ROWS is room for
     * what run_experts() would give. */
    Status (*run_static)(Device *device, const ExpertBatch *batch, float scale, const float *in,
                         void *rows, float *out);
    /* out[token] += scale * sum over slots, in order, of weights[token][slot] * what run_experts()
     * has put into IN for (token, slot); a slot that was dropped is not read. */
    Status (*combine)(Device *device, const ExpertBatch *batch, float scale, const void *in,
                      float *out);
} Backend;

extern const Backend BACKEND_CPU;
#ifdef HAVE_CUDA
extern const Backend BACKEND_CUDA;
#endif

/* Backend.enter_moe by BACKEND's operations one after the other. */
Status backend_enter_moe(const Backend *backend, Device *device, const MoeEntry *entry);

/* The backend NAME; ERR_UNSUPPORTED names those there are. */
Status backend_find(const char *name, const Backend **backend);

#endif
