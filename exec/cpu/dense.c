/* Products with dense weights, norms and activations, split over threads. */
#include "exec/cpu/cpu.h"

#include <math.h>

#include "exec/best_token.h"
#include "exec/cpu/activation.h"
#include "exec/cpu/blas.h"

void cpu_multiply_transposed(uint32_t m, uint32_t n, uint32_t k, float scale, const float *a,
                             size_t a_stride, const float *b, size_t b_stride, float beta, float *c,
                             size_t c_stride)
{
    blas()->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)m, (blasint)n, (blasint)k,
                  scale, a, (blasint)a_stride, b, (blasint)b_stride, beta, c, (blasint)c_stride);
}

void cpu_multiply(uint32_t m, uint32_t n, uint32_t k, const float *a, size_t a_stride,
                  const float *b, size_t b_stride, float beta, float *c, size_t c_stride)
{
    blas()->sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, 1,
                  a, (blasint)a_stride, b, (blasint)b_stride, beta, c, (blasint)c_stride);
}

void cpu_multiply_mask(uint32_t m, uint32_t n, uint32_t k, const float *a, size_t a_stride,
                       const float *b, size_t b_stride, float *c, size_t c_stride)
{
    blas()->sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, 1, a,
                  (blasint)a_stride, b, (blasint)b_stride, 0, c, (blasint)c_stride);
}

/* Sums in eight lanes, so that the compiler may use vectors without reordering. */
static float sum_of_lanes(const float lane[8])
{
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
           ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

/* 1 / sqrt(mean of squares + eps) of N floats. */
static float rms_scale(const float *in, uint32_t n, float eps)
{
    float lane[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            lane[j] += in[i + j] * in[i + j];
    for (; i < n; i++)
        lane[i % 8] += in[i] * in[i];
    return 1.0f / sqrtf(sum_of_lanes(lane) / (float)n + eps);
}

static float mean_of(const float *in, uint32_t n)
{
    float lane[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            lane[j] += in[i + j];
    for (; i < n; i++)
        lane[i % 8] += in[i];
    return sum_of_lanes(lane) / (float)n;
}

static void layer_norm_row(const Norm *norm, const float *in, uint32_t columns, float *out)
{
    float mean = mean_of(in, columns);
    for (uint32_t i = 0; i < columns; i++)
        out[i] = in[i] - mean;
    float scale = rms_scale(out, columns, norm->eps);
    for (uint32_t i = 0; i < columns; i++)
        out[i] = out[i] * scale * norm->weight[i] + (norm->bias != NULL ? norm->bias[i] : 0);
}

void cpu_norm_row(const Norm *norm, const float *in, uint32_t columns, float *out)
{
    if (norm->kind == NORM_LAYER) {
        layer_norm_row(norm, in, columns, out);
        return;
    }
    float scale = rms_scale(in, columns, norm->eps);
    for (uint32_t i = 0; i < columns; i++)
        out[i] = in[i] * scale * norm->weight[i];
}

typedef struct {
    const Norm *norm;
    const float *in;
    const uint32_t *pick;
    uint32_t rows;
    uint32_t columns;
    float *out;
} NormTask;

static void norm_tile(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const NormTask *task = argument;
    uint32_t first = (uint32_t)item * TILE_ROWS;
    uint32_t end = least(first + TILE_ROWS, task->rows);
    for (size_t row = first; row < end; row++) {
        size_t from = task->pick != NULL ? task->pick[row] : row;
        cpu_norm_row(task->norm, task->in + from * task->columns, task->columns,
                     task->out + row * task->columns);
    }
}

Status cpu_norm(Device *device, const Norm *norm, const float *in, const uint32_t *pick,
                uint32_t rows, uint32_t columns, float *out)
{
    NormTask task = {norm, in, pick, rows, columns, out};
    thread_pool_run(device->pool, divide_up(rows, TILE_ROWS), norm_tile, &task);
    return OK;
}

Status cpu_embed(Device *device, const Matrix *table, const uint32_t *ids, uint32_t tokens,
                 float scale, const float *positions, const uint32_t *places, float *out)
{
    (void)device;
    size_t columns = table->columns;
    const float *rows = table->data;
    for (uint32_t token = 0; token < tokens; token++) {
        float *restrict to = out + token * columns;
        const float *row = rows + ids[token] * columns;
        for (size_t i = 0; i < columns; i++)
            to[i] = row[i] * scale;
        const float *place = positions != NULL ? positions + places[token] * columns : NULL;
        for (size_t i = 0; place != NULL && i < columns; i++)
            to[i] += place[i];
    }
    return OK;
}

void cpu_put_bias(const float *bias, uint32_t rows, uint32_t columns, bool add, float *out,
                  size_t stride)
{
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t i = 0; i < columns; i++)
            out[row * stride + i] = bias[i] + (add ? out[row * stride + i] : 0);
}

typedef struct {
    const float *in;
    const Matrix *weight;
    uint32_t rows;
    uint32_t tile_columns;
    uint32_t column_tiles;
    bool add;
    float *out;
} LinearTask;

static void linear_tile(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const LinearTask *task = argument;
    const Matrix *weight = task->weight;
    size_t depth = weight->columns;
    size_t first = item / task->column_tiles * TILE_ROWS;
    size_t column = item % task->column_tiles * task->tile_columns;
    uint32_t rows = least(TILE_ROWS, task->rows - (uint32_t)first);
    uint32_t columns = least(task->tile_columns, weight->rows - (uint32_t)column);
    float *out = task->out + first * weight->rows + column;
    if (weight->bias != NULL)
        cpu_put_bias(weight->bias + column, rows, columns, task->add, out, weight->rows);
    cpu_multiply_transposed(rows, columns, (uint32_t)depth, 1, task->in + first * depth, depth,
                            (const float *)weight->data + column * depth, depth,
                            task->add || weight->bias != NULL, out, weight->rows);
}

Status cpu_linear(Device *device, const float *in, const Matrix *weight, uint32_t rows, bool add,
                  float *out)
{
    LinearTask task = {.in = in, .weight = weight, .rows = rows, .add = add, .out = out};
    uint32_t threads = (uint32_t)thread_pool_size(device->pool);
    uint32_t row_tiles = divide_up(rows, TILE_ROWS);
    /* Few rows: split the columns, in whole kernels of 16. */
    uint32_t split = row_tiles >= 2 * threads ? 1 : threads;
    task.tile_columns = divide_up(divide_up(weight->rows, split), 16) * 16;
    task.column_tiles = divide_up(weight->rows, task.tile_columns);
    thread_pool_run(device->pool, (size_t)row_tiles * task.column_tiles, linear_tile, &task);
    return OK;
}

Status cpu_linear_mixed(Device *device, const void *mixed, const Matrix *weight, uint32_t rows,
                        float *out)
{
    return cpu_linear(device, mixed, weight, rows, true, out);
}

typedef struct {
    const float *in;
    size_t columns;
    uint32_t *found;
} NanTask;

static void find_nan_in_row(void *argument, size_t row, size_t worker)
{
    (void)worker;
    const NanTask *task = argument;
    const float *in = task->in + row * task->columns;
    unsigned nan = 0;
    for (size_t i = 0; i < task->columns; i++)
        nan |= in[i] != in[i];
    task->found[row] = nan;
}

Status cpu_find_nan(Device *device, const float *in, uint32_t rows, size_t columns, uint32_t *found)
{
    NanTask task = {in, columns, found};
    thread_pool_run(device->pool, rows, find_nan_in_row, &task);
    return OK;
}

typedef struct {
    const float *in;
    uint32_t columns;
    uint32_t *best;
} BestTask;

static void find_best_in_row(void *argument, size_t row, size_t worker)
{
    const BestTask *task = argument;
    const float *in = task->in + row * task->columns;
    uint32_t nan = 0;
    NanTask found = {in, task->columns, &nan};
    find_nan_in_row(&found, 0, worker);
    task->best[row] = nan ? UINT32_MAX : best_token(in, task->columns);
}

Status cpu_find_best(Device *device, const float *in, uint32_t rows, uint32_t columns,
                     uint32_t *best)
{
    BestTask task = {in, columns, best};
    thread_pool_run(device->pool, rows, find_best_in_row, &task);
    return OK;
}

Status cpu_norm_linear(Device *device, const Norm *norm, const float *in, const Matrix *weight,
                       uint32_t rows, float *normed, float *out)
{
    TRY(cpu_norm(device, norm, in, NULL, rows, weight->columns, normed));
    return cpu_linear(device, normed, weight, rows, false, out);
}

typedef struct {
    const HeadMatrices *matrices;
    const float *in;
    uint32_t tokens;
    float *out;
} HeadsTask;

static void linear_heads_tile(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const HeadsTask *task = argument;
    const HeadMatrices *m = task->matrices;
    size_t head = item % m->heads;
    size_t first = item / m->heads * TILE_ROWS;
    cpu_multiply_transposed(least(TILE_ROWS, task->tokens - (uint32_t)first), m->rows, m->columns,
                            1, task->in + first * m->in_token + head * m->in_head, m->in_token,
                            (const float *)m->weights + head * m->rows * m->columns, m->columns, 0,
                            task->out + first * m->out_token + head * m->out_head, m->out_token);
}

Status cpu_linear_heads(Device *device, const HeadMatrices *matrices, const float *in,
                        uint32_t tokens, float *out)
{
    HeadsTask task = {matrices, in, tokens, out};
    thread_pool_run(device->pool, (size_t)divide_up(tokens, TILE_ROWS) * matrices->heads,
                    linear_heads_tile, &task);
    return OK;
}

static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + exponential(-x));
}

static inline float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

static inline float gelu_tanh(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

/* out[i] = act(in[i]), times up[i] unless UP is NULL. */
static void activate_plain(const FfnShape *shape, const float *in, const float *up, float *out)
{
    for (uint32_t i = 0; i < shape->d_ff; i++) {
        float x = in[i];
        float y = shape->activation == ACTIVATION_GELU        ? gelu(x)
                  : shape->activation == ACTIVATION_GELU_TANH ? gelu_tanh(x)
                  : shape->activation == ACTIVATION_RELU      ? (x < 0 ? 0 : x)
                                                              : x * sigmoid(x);
        out[i] = up != NULL ? y * up[i] : y;
    }
}

static void activate_clamped(const FfnShape *shape, const float *gate, const float *up, float *out)
{
    float limit = shape->limit;
    for (uint32_t i = 0; i < shape->d_ff; i++) {
        float g = gate[i] > limit ? limit : gate[i];
        float u = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
        out[i] = g / (1.0f + exponential(-shape->alpha * g)) * (u + 1);
    }
}

void cpu_activate_row(const FfnShape *shape, const float *hidden, float *out)
{
    const float *up = shape->gated ? hidden + shape->d_ff : NULL;
    if (shape->activation == ACTIVATION_CLAMPED_SWIGLU)
        activate_clamped(shape, hidden, up, out);
    else if (shape->activation == ACTIVATION_SILU && shape->gated)
        multiply_silu(hidden, up, shape->d_ff, out);
    else
        activate_plain(shape, hidden, up, out);
}

typedef struct {
    const FfnShape *shape;
    const float *hidden;
    const float *gates;
    uint32_t rows;
    float *out;
} ActivateTask;

static void activate_tile(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const ActivateTask *task = argument;
    size_t d_ff = task->shape->d_ff;
    size_t first = item * TILE_ROWS;
    for (size_t row = first; row < first + TILE_ROWS && row < task->rows; row++) {
        float *restrict out = task->out + row * d_ff;
        cpu_activate_row(task->shape, task->hidden + row * ffn_first_rows(task->shape), out);
        float gate = task->gates != NULL ? sigmoid(task->gates[row]) : 1;
        for (size_t i = 0; task->gates != NULL && i < d_ff; i++)
            out[i] *= gate;
    }
}

Status cpu_ffn(Device *device, const DenseFfn *ffn, const float *in, uint32_t rows, float *out)
{
    ActivateTask task = {ffn->shape, ffn->hidden, ffn->gates, rows, ffn->inside};
    TRY(cpu_linear(device, in, ffn->first, rows, false, ffn->hidden));
    thread_pool_run(device->pool, divide_up(rows, TILE_ROWS), activate_tile, &task);
    return cpu_linear(device, ffn->inside, ffn->second, rows, true, out);
}
