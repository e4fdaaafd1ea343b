/* The CPU backend's device: threads and their scratch. Shared by the files of exec/cpu/ only. */
#ifndef EXEC_CPU_CPU_H
#define EXEC_CPU_CPU_H

#include "base/memory.h"
#include "base/threads.h"
#include "exec/backend.h"

enum {
    TILE_ROWS = 128, /* rows of one product on one thread, whatever the number of threads */
    QUERY_ROWS = 64  /* queries of one head that attend together */
};

/* Rows [first, first + rows) of those of EXPERT, whose weights lie in SLOT. */
typedef struct {
    uint32_t expert;
    uint32_t slot;
    uint32_t first;
    uint32_t rows;
} ExpertTile;

typedef struct {
    uint64_t start_ns;
    uint64_t end_ns; /* when the throttled link is through with it */
} LoadTime;

struct HostExperts;

struct Device {
    ThreadPool *pool;
    struct HostExperts *host; /* with DeviceOptions.host only */
    uint32_t *host_rows;      /* [host_experts_rows()] */
    Arena memory;             /* what allocate() handed out */
    Arena host_memory;        /* what allocate_host() handed out */
    size_t threads;
    Arena arena;    /* of the pointers below, but for loads */
    float *scratch; /* [threads][scratch_floats] */
    size_t scratch_floats;
    uint32_t *span_block; /* [max_tokens + 1] first query block of each span */
    uint32_t *counts;     /* [max_experts + 1] */
    ExpertTile *tiles;
    size_t max_tiles;
    LoadTime *loads; /* [n_loads] */
    uint32_t n_loads;
    uint64_t link_free_ns; /* when the throttled link has done what it was given */
    uint64_t *stamps;      /* [max_stamps] */
    uint32_t d_model;
    char description[256];
};

static inline float *cpu_scratch(const Device *device, size_t worker)
{
    return device->scratch + worker * device->scratch_floats;
}

static inline uint32_t divide_up(uint32_t a, uint32_t b)
{
    return a / b + (a % b != 0);
}

static inline uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Floats of scratch that one thread needs. */
size_t cpu_attention_scratch(const DeviceOptions *options);
size_t cpu_experts_scratch(const DeviceOptions *options);
/* Tiles that one call of run_experts may have. */
size_t cpu_experts_tiles(const DeviceOptions *options);

/* c[m][n] = scale * a[m][k] * b[n][k]^T + beta * c, with row strides; on the calling thread. */
void cpu_multiply_transposed(uint32_t m, uint32_t n, uint32_t k, float scale, const float *a,
                             size_t a_stride, const float *b, size_t b_stride, float beta, float *c,
                             size_t c_stride);
/* c[m][n] = a[m][k] * b[k][n] + beta * c */
void cpu_multiply(uint32_t m, uint32_t n, uint32_t k, const float *a, size_t a_stride,
                  const float *b, size_t b_stride, float beta, float *c, size_t c_stride);
/* c[m][n] = a[k][m]^T * b[k][n] */
void cpu_multiply_mask(uint32_t m, uint32_t n, uint32_t k, const float *a, size_t a_stride,
                       const float *b, size_t b_stride, float *c, size_t c_stride);
/* Sets each of ROWS rows of OUT to BIAS [columns], or adds it. */
void cpu_put_bias(const float *bias, uint32_t rows, uint32_t columns, bool add, float *out,
                  size_t stride);
/* The norm of one row; OUT may be IN. */
void cpu_norm_row(const Norm *norm, const float *in, uint32_t columns, float *out);
/* HIDDEN [gated ? 2 d_ff : d_ff] -> the FFN's inside in OUT [d_ff]; OUT may be HIDDEN. */
void cpu_activate_row(const FfnShape *shape, const float *hidden, float *out);

/* Query blocks of all spans, numbered into device->span_block; returns how many there are. */
uint32_t cpu_number_blocks(Device *device, const Spans *spans);
/* The span of query block BLOCK; the block's first token in it into *FIRST. */
const Span *cpu_find_span(const Device *device, const Spans *spans, uint32_t block,
                          uint32_t *first);

Status cpu_store(Device *device, const Part *part, void *to);
Status cpu_store_floats(Device *device, const Part *part, float *to);
Status cpu_store_ffn(Device *device, const FfnShape *shape, const FfnTensors *tensors, void *to);
Status cpu_keep_expert(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                       const void **kept);
Status cpu_load(Device *device, const Load *loads, uint32_t n);
Status cpu_link_idle(Device *device, bool *idle);
Status cpu_await_loads(Device *device, const uint32_t *tickets, uint32_t n);
Status cpu_load_time(Device *device, uint32_t ticket, uint64_t *start_ns, uint64_t *duration_ns);

Status cpu_embed(Device *device, const Matrix *table, const uint32_t *ids, uint32_t tokens,
                 float scale, const float *positions, const uint32_t *places, float *out);
Status cpu_norm(Device *device, const Norm *norm, const float *in, const uint32_t *pick,
                uint32_t rows, uint32_t columns, float *out);
Status cpu_find_nan(Device *device, const float *in, uint32_t rows, size_t columns,
                    uint32_t *found);
Status cpu_find_best(Device *device, const float *in, uint32_t rows, uint32_t columns,
                     uint32_t *best);
Status cpu_norm_linear(Device *device, const Norm *norm, const float *in, const Matrix *weight,
                       uint32_t rows, float *normed, float *out);
Status cpu_linear(Device *device, const float *in, const Matrix *weight, uint32_t rows, bool add,
                  float *out);
Status cpu_linear_mixed(Device *device, const void *mixed, const Matrix *weight, uint32_t rows,
                        float *out);
Status cpu_linear_heads(Device *device, const HeadMatrices *matrices, const float *in,
                        uint32_t tokens, float *out);
Status cpu_ffn(Device *device, const DenseFfn *ffn, const float *in, uint32_t rows, float *out);
Status cpu_append(Device *device, const AppendLayer *layer, const Spans *spans, float *qkv);
Status cpu_append_latent(Device *device, const LatentLayer *layer, const Spans *spans,
                         const float *kv, const float *queries, float *absorbed);
Status cpu_attend_mixed(Device *device, const AttendLayer *layer, const Spans *spans,
                        const float *queries, void *mixed);
Status cpu_attend(Device *device, const AttendLayer *layer, const Spans *spans,
                  const float *queries, float *out);
Status cpu_route(Device *device, const Router *router, const float *in, uint32_t tokens,
                 const uint16_t *forced, const float *forced_weights, const Routing *routing);
Status cpu_limit(Device *device, uint32_t capacity, uint32_t tokens, uint32_t top_k,
                 uint32_t n_experts, bool normalise, const Routing *routing);
Status cpu_group(Device *device, const uint16_t *experts, uint32_t tokens, uint32_t top_k,
                 uint32_t n_experts, const RowGroups *groups);
Status cpu_run_experts(Device *device, const ExpertBatch *batch, const ExpertJob *jobs,
                       uint32_t n_jobs, const float *in, void *out);
Status cpu_offer_host(Device *device, const ExpertBatch *batch, const float *in);
Status cpu_run_host(Device *device, const ExpertBatch *batch, const HostJob *jobs, uint32_t n_jobs,
                    const float *in, void *out);
Status cpu_time_host(Device *device, const FfnShape *shape, const HostJob *jobs, uint32_t n_jobs,
                     uint64_t *ns);
Status cpu_run_static(Device *device, const ExpertBatch *batch, float scale, const float *in,
                      void *rows, float *out);
Status cpu_combine(Device *device, const ExpertBatch *batch, float scale, const void *in,
                   float *out);

#endif
