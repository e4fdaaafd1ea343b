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

/* Rows [first, first + rows) of the expert job JOB. */
typedef struct {
    uint32_t job;
    uint32_t first;
    uint32_t rows;
} ExpertTile;

struct Device {
    ThreadPool *pool;
    Arena memory;   /* what allocate() handed out */
    Arena arena;    /* of the pointers below */
    float *scratch; /* [threads][scratch_floats] */
    size_t scratch_floats;
    uint32_t *span_block; /* [max_tokens + 1] first query block of each span */
    ExpertTile *tiles;
    size_t max_tiles;
    uint32_t d_model;
    uint32_t max_length;
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

Status cpu_rms_norm(Device *device, const float *in, const float *weight, uint32_t rows,
                    uint32_t columns, float eps, float *out);
/* 1 / sqrt(mean of squares + eps) of N floats. */
float cpu_rms_scale(const float *in, uint32_t n, float eps);
Status cpu_linear(Device *device, const float *in, const Matrix *weight, uint32_t rows, bool add,
                  float *out);
Status cpu_append(Device *device, const AttentionLayer *layer, const Span *spans, uint32_t n_spans,
                  float *qkv);
Status cpu_attend(Device *device, const AttentionLayer *layer, const Span *spans, uint32_t n_spans,
                  const float *qkv, float *out);
Status cpu_route(Device *device, const float *in, const Matrix *router, uint32_t tokens,
                 uint32_t top_k, bool normalise, float *scores, uint16_t *experts, float *weights);
Status cpu_run_experts(Device *device, const ExpertBatch *batch, const ExpertJob *jobs,
                       uint32_t n_jobs, const float *in, float *out);
Status cpu_combine(Device *device, const float *in, const float *weights, uint32_t tokens,
                   uint32_t top_k, float *out);

#endif
