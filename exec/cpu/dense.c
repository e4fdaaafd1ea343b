/* Products with dense weights, and norms, split over threads. */
#include "exec/cpu/cpu.h"

#include <cblas.h>
#include <math.h>

void cpu_multiply_transposed(uint32_t m, uint32_t n, uint32_t k, float scale, const float *a,
                             size_t a_stride, const float *b, size_t b_stride, float beta, float *c,
                             size_t c_stride)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)m, (blasint)n, (blasint)k, scale,
                a, (blasint)a_stride, b, (blasint)b_stride, beta, c, (blasint)c_stride);
}

void cpu_multiply(uint32_t m, uint32_t n, uint32_t k, const float *a, size_t a_stride,
                  const float *b, size_t b_stride, float beta, float *c, size_t c_stride)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, 1, a,
                (blasint)a_stride, b, (blasint)b_stride, beta, c, (blasint)c_stride);
}

void cpu_multiply_mask(uint32_t m, uint32_t n, uint32_t k, const float *a, size_t a_stride,
                       const float *b, size_t b_stride, float *c, size_t c_stride)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, 1, a,
                (blasint)a_stride, b, (blasint)b_stride, 0, c, (blasint)c_stride);
}

float cpu_rms_scale(const float *in, uint32_t n, float eps)
{
    float lane[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            lane[j] += in[i + j] * in[i + j];
    for (; i < n; i++)
        lane[i % 8] += in[i] * in[i];
    float sum =
        ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    return 1.0f / sqrtf(sum / (float)n + eps);
}

typedef struct {
    const float *in;
    const float *weight;
    uint32_t rows;
    uint32_t columns;
    float eps;
    float *out;
} NormTask;

static void norm_tile(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const NormTask *task = argument;
    uint32_t first = (uint32_t)item * TILE_ROWS;
    uint32_t end = least(first + TILE_ROWS, task->rows);
    for (size_t row = first; row < end; row++) {
        const float *in = task->in + row * task->columns;
        float *out = task->out + row * task->columns;
        float scale = cpu_rms_scale(in, task->columns, task->eps);
        for (uint32_t i = 0; i < task->columns; i++)
            out[i] = in[i] * scale * task->weight[i];
    }
}

Status cpu_rms_norm(Device *device, const float *in, const float *weight, uint32_t rows,
                    uint32_t columns, float eps, float *out)
{
    NormTask task = {in, weight, rows, columns, eps, out};
    thread_pool_run(device->pool, divide_up(rows, TILE_ROWS), norm_tile, &task);
    return OK;
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

static void put_bias(const float *bias, uint32_t rows, uint32_t columns, bool add, float *out,
                     size_t stride)
{
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t i = 0; i < columns; i++)
            out[row * stride + i] = bias[i] + (add ? out[row * stride + i] : 0);
}

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
        put_bias(weight->bias + column, rows, columns, task->add, out, weight->rows);
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
