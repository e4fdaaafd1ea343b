#include "exec/cpu/host_experts.h"

#include <string.h>

#include "base/clock.h"
#include "exec/cpu/blas.h"
#include "exec/cpu/host_experts_parts.h"
#include "policies/link.h"

enum {
    PLAIN_COLUMNS = 16 /* of the inside that are computed as one strip */
};

/* The largest sizes over the layers. */
typedef struct {
    size_t d_ff;
    size_t columns; /* of either matrix */
} Widest;

static Widest widest_of(const ModelConfig *config)
{
    Widest widest = {.columns = config->d_model};
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (config->layers[i].moe && config->layers[i].ffn.d_ff > widest.d_ff)
            widest.d_ff = config->layers[i].ffn.d_ff;
    widest.columns = widest.d_ff > widest.columns ? widest.d_ff : widest.columns;
    return widest;
}

uint32_t host_experts_rows(const ModelConfig *config, uint32_t max_tokens)
{
    size_t rows = (size_t)max_tokens * config->max_top_k;
    return rows < HOST_ROWS_AT_ONCE ? (uint32_t)rows : HOST_ROWS_AT_ONCE;
}

/* So that the first event does not wait for the system's memory. */
static void touch_arrays(HostExperts *host, size_t in_floats, size_t inside_floats)
{
    size_t scratch_floats = thread_pool_size(host->pool) * host->scratch_floats;
    thread_pool_touch(host->pool, host->in, in_floats * sizeof(float));
    thread_pool_touch(host->pool, host->inside, inside_floats * sizeof(float));
    thread_pool_touch(host->pool, host->scratch, scratch_floats * sizeof(float));
}

static Status take_arrays(const ModelConfig *config, HostExperts *host)
{
    static const char WHAT[] = "experts on the host";
    Widest widest = widest_of(config);
    size_t rows = host->max_rows;
    size_t plain = 2 * PLAIN_COLUMNS * (widest.columns + rows);
    size_t packed = MOST_STRIPS * STRIP_ROWS * rows;
    host->scratch_floats = plain > packed ? plain : packed;
    TRY(mem_new(&host->in, rows * config->d_model, sizeof(float), WHAT));
    TRY(mem_new(&host->inside, rows * widest.d_ff, sizeof(float), WHAT));
    TRY(mem_new(&host->scratch, thread_pool_size(host->pool) * host->scratch_floats, sizeof(float),
                WHAT));
    TRY(mem_new(&host->own, thread_pool_size(host->pool), sizeof *host->own, WHAT));
    TRY(mem_new(&host->timed, (size_t)(HOST_TIMED_EXPERTS + 1) * config->d_model, sizeof(float),
                WHAT));
    TRY(mem_new(&host->tokens, rows, sizeof *host->tokens, WHAT));
    TRY(mem_new(&host->sets, rows / PAIR_ROWS + host->max_pieces, sizeof *host->sets, WHAT));
    TRY(mem_new(&host->pieces, host->max_pieces, sizeof *host->pieces, WHAT));
    touch_arrays(host, rows * config->d_model, rows * widest.d_ff);
    return OK;
}

Status host_experts_new(const ModelConfig *config, uint32_t max_tokens, ThreadPool *pool,
                        HostExperts **out)
{
    HostExperts *host;
    size_t n_kernels;
    TRY(blas_load());
    TRY(mem_new(&host, 1, sizeof *host, "experts on the host"));
    host->pool = pool;
    host->packed = packed_kernels(&n_kernels);
    host->max_rows = host_experts_rows(config, max_tokens);
    host->max_pieces = config->max_experts;
    Status status = take_arrays(config, host);
    if (status == OK)
        *out = host;
    else
        host_experts_free(host);
    return status;
}

void host_experts_free(HostExperts *host)
{
    if (host == NULL)
        return;
    thread_pool_settle(host->pool);
    mem_free(host->pieces);
    mem_free(host->sets);
    mem_free(host->tokens);
    mem_free(host->timed);
    mem_free(host->own);
    mem_free(host->scratch);
    mem_free(host->inside);
    mem_free(host->in);
    mem_free(host);
}

const char *host_experts_kernel(void)
{
    size_t n;
    return packed_kernels(&n)->name;
}

static void gather(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const HostTask *task = argument;
    size_t d = task->work->shape->d_model;
    memcpy((float *)task->host->in + item * d, task->work->in + task->host->tokens[item] * d,
           d * sizeof(float));
}

/* ---- weights that are not packed ---- */

static void read_part(const Part *part, uint32_t first, uint32_t n, float *to)
{
    for (uint32_t i = 0; i < n; i++)
        part_row(part, first + i, to + (size_t)i * part->columns);
}

static void read_bf16(const uint16_t *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

/* N rows from FIRST on of the matrix [..][columns] that lies at AT of a slot's plain form: in
 * place, or converted to TO. */
static const float *read_plain(const HostTask *task, const void *weights, size_t at, uint32_t first,
                               uint32_t n, uint32_t columns, float *to)
{
    const unsigned char *matrix = (const unsigned char *)weights + at;
    if (task->work->form == HOST_F32)
        return (const float *)(const void *)matrix + (size_t)first * columns;
    read_bf16((const uint16_t *)(const void *)matrix + (size_t)first * columns, (size_t)n * columns,
              to);
    return to;
}

/* N rows of gate (UP false) or of up. */
static const float *first_rows(const HostTask *task, const void *weights, bool up, uint32_t first,
                               uint32_t n, float *to)
{
    const FfnShape *shape = task->work->shape;
    const FfnTensors *tensors = weights;
    if (task->work->form != HOST_PARTS)
        return read_plain(task, weights, task->layout.first,
                          first + (up && shape->gated ? shape->d_ff : 0), n, shape->d_model, to);
    read_part(up ? &tensors->up : &tensors->gate, first, n, to);
    return to;
}

static const float *second_rows(const HostTask *task, const void *weights, uint32_t first,
                                uint32_t n, float *to)
{
    const FfnTensors *tensors = weights;
    if (task->work->form != HOST_PARTS)
        return read_plain(task, weights, task->layout.second, first, n, task->work->shape->d_ff,
                          to);
    read_part(&tensors->down, first, n, to);
    return to;
}

/* ---- biases ---- */

void host_read_bias(const HostTask *task, const void *weights, Bias which, uint32_t first,
                    uint32_t n, float *to)
{
    const FfnTensors *tensors = weights;
    const FfnShape *shape = task->work->shape;
    const Part *parts[] = {&tensors->gate_bias, &tensors->up_bias, &tensors->down_bias};
    if (task->work->form == HOST_PARTS) {
        for (uint32_t i = 0; i < n; i++)
            tensor_floats(&parts[which]->tensor,
                          parts[which]->first + (first + i) * parts[which]->column_step, 1, to + i);
        return;
    }
    size_t at = which == BIAS_DOWN ? task->layout.second_bias : task->layout.first_bias;
    const float *bias = (const float *)(const void *)((const unsigned char *)weights + at);
    first += which == BIAS_UP && shape->gated ? shape->d_ff : 0;
    memcpy(to, bias + first, n * sizeof *to);
}

static void add_to_rows(const float *bias, uint32_t n, float *rows, size_t n_rows, size_t stride)
{
    for (size_t row = 0; row < n_rows; row++)
        for (uint32_t i = 0; i < n; i++)
            rows[row * stride + i] += bias[i];
}

/* ---- the inside ---- */

/* HIDDEN [piece->n][gated ? 2 n : n], gate before up, without bias -> columns [first, first + n) of
 * the inside. */
static void activate(const HostTask *task, const Piece *piece, uint32_t first, uint32_t n,
                     float *hidden)
{
    FfnShape shape = *task->work->shape;
    size_t d_ff = shape.d_ff;
    size_t width = shape.gated ? 2 * n : n;
    float bias[STRIP_ROWS];
    if (shape.bias && shape.gated) {
        host_read_bias(task, piece->weights, BIAS_GATE, first, n, bias);
        add_to_rows(bias, n, hidden, piece->n, width);
    }
    if (shape.bias) {
        host_read_bias(task, piece->weights, BIAS_UP, first, n, bias);
        add_to_rows(bias, n, hidden + width - n, piece->n, width);
    }
    shape.d_ff = n;
    for (size_t i = 0; i < piece->n; i++) {
        cpu_activate_row(&shape, hidden + i * width, hidden + i * width);
        memcpy((float *)task->host->inside + (piece->first + i) * d_ff + first, hidden + i * width,
               n * sizeof *hidden);
    }
}

/* OUT [n][stride] = rows FROM [n][columns] * WEIGHTS [rows][columns]^T, by tiles that are the same
 * wherever the expert's rows were cut. */
static void multiply_plain(const float *from, uint32_t n, uint32_t columns, const float *weights,
                           uint32_t rows, float *out, uint32_t stride)
{
    for (uint32_t first = 0; first < n; first += TILE_ROWS)
        cpu_multiply_transposed(least(TILE_ROWS, n - first), rows, columns, 1,
                                from + (size_t)first * columns, columns, weights, columns, 0,
                                out + (size_t)first * stride, stride);
}

static void plain_inside(const HostTask *task, const Piece *piece, uint32_t strip, float *scratch)
{
    const FfnShape *shape = task->work->shape;
    uint32_t first = strip * PLAIN_COLUMNS;
    uint32_t n = least(PLAIN_COLUMNS, shape->d_ff - first);
    uint32_t width = shape->gated ? 2 * n : n;
    uint32_t d = shape->d_model;
    float *hidden = scratch + 2 * PLAIN_COLUMNS * (size_t)d;
    const float *in = (const float *)task->host->in + (size_t)piece->first * d;
    for (uint32_t up = shape->gated ? 0 : 1; up < 2; up++)
        multiply_plain(in, piece->n, d, first_rows(task, piece->weights, up, first, n, scratch), n,
                       hidden + (shape->gated && up ? n : 0), width);
    activate(task, piece, first, n, hidden);
}

static void inside_strip(void *argument, size_t item, size_t worker)
{
    const HostTask *task = argument;
    plain_inside(task, &task->host->pieces[item / task->items], (uint32_t)(item % task->items),
                 task->host->scratch + worker * task->host->scratch_floats);
}

/* ---- what comes out ---- */

static void out_strip(void *argument, size_t item, size_t worker)
{
    const HostTask *task = argument;
    const FfnShape *shape = task->work->shape;
    const Piece *piece = &task->host->pieces[item / task->items];
    float *scratch = task->host->scratch + worker * task->host->scratch_floats;
    uint32_t first = (uint32_t)(item % task->items) * STRIP_ROWS;
    uint32_t n = least(STRIP_ROWS, shape->d_model - first);
    float *out = scratch + 2 * PLAIN_COLUMNS * (size_t)shape->d_ff;
    float bias[STRIP_ROWS];
    multiply_plain((const float *)task->host->inside + (size_t)piece->first * shape->d_ff, piece->n,
                   shape->d_ff, second_rows(task, piece->weights, first, n, scratch), n, out,
                   STRIP_ROWS);
    if (shape->bias) {
        host_read_bias(task, piece->weights, BIAS_DOWN, first, n, bias);
        add_to_rows(bias, n, out, piece->n, STRIP_ROWS);
    }
    for (size_t i = 0; i < piece->n; i++) {
        size_t row = piece->first + i;
        memcpy((float *)task->out + (task->scatter ? task->rows[row] : row) * shape->d_model +
                   first,
               out + i * STRIP_ROWS, n * sizeof *out);
    }
}

static void run_plain(HostTask *task)
{
    const FfnShape *shape = task->work->shape;
    ThreadPool *pool = task->host->pool;
    thread_pool_run(pool, task->n_rows, gather, task);
    task->items = divide_up(shape->d_ff, PLAIN_COLUMNS);
    thread_pool_run(pool, (size_t)task->n_pieces * task->items, inside_strip, task);
    task->items = divide_up(shape->d_model, STRIP_ROWS);
    thread_pool_run(pool, (size_t)task->n_pieces * task->items, out_strip, task);
}

/* ---- all of it ---- */

/* Rows of an expert that has LEFT of them, where there is ROOM: whole tiles unless they all fit. */
static uint32_t cut_rows(uint32_t left, uint32_t room)
{
    return left <= room ? left : room / TILE_ROWS * TILE_ROWS;
}

/* Puts PIECE among the N PIECES, before those of fewer rows: what takes long is begun first, so
 * that threads end together. */
static void put_piece(Piece *pieces, uint32_t n, const Piece *piece)
{
    uint32_t at = n;
    for (; at > 0 && pieces[at - 1].n < piece->n; at--)
        pieces[at] = pieces[at - 1];
    pieces[at] = *piece;
}

static void cut_sets(HostExperts *host, HostTask *task)
{
    for (uint32_t at = 0; at < task->n_pieces; at++)
        for (uint32_t i = 0; i < host->pieces[at].n; i += PAIR_ROWS)
            host->sets[task->n_sets++] = (RowSet){at, i, packed_set_rows(host->pieces[at].n, i)};
}

/* The next pieces of WORK, as far as there is room. */
static void take_pieces(HostExperts *host, HostWork *work, uint32_t *rows, HostTask *task)
{
    while (work->job < work->n_jobs && task->n_pieces < host->max_pieces) {
        const HostJob *job = &work->jobs[work->job];
        const uint32_t *first = work->groups.first + job->expert;
        uint32_t left = first[1] - first[0] - work->row;
        uint32_t n = cut_rows(left, host->max_rows - task->n_rows);
        const uint32_t *from = work->groups.rows + first[0] + work->row;
        if (n == 0 && left > 0)
            return;
        const Piece piece = {job->kept, task->n_rows, n};
        for (uint32_t i = 0; i < n; i++) {
            rows[task->n_rows] = from[i];
            host->tokens[task->n_rows++] = from[i] / work->top_k;
        }
        put_piece(host->pieces, task->n_pieces, &piece);
        task->n_pieces += n > 0;
        work->row = n < left ? work->row + n : 0;
        work->job += n == left;
    }
}

uint32_t host_experts_next(HostExperts *host, HostWork *work, bool scatter, void *out,
                           uint32_t *rows)
{
    HostTask task = {.host = host, .work = work, .scatter = scatter, .out = out, .rows = rows};
    task.layout =
        ffn_layout(work->shape, work->form == HOST_F32 ? sizeof(float) : sizeof(uint16_t));
    take_pieces(host, work, rows, &task);
    cut_sets(host, &task);
    if (task.n_rows == 0)
        return 0;
    if (work->form == HOST_PACKED)
        host_run_packed(&task);
    else
        run_plain(&task);
    return task.n_rows;
}

void host_experts_time(HostExperts *host, const FfnShape *shape, HostForm form, const HostJob *jobs,
                       uint32_t n_jobs, uint64_t *ns)
{
    HostJob numbered[HOST_TIMED_EXPERTS];
    uint32_t first[HOST_TIMED_EXPERTS + 1] = {0};
    uint32_t rows[HOST_TIMED_EXPERTS] = {0};
    uint32_t done[HOST_TIMED_EXPERTS];
    for (uint32_t i = 0; i < n_jobs; i++) {
        numbered[i] = (HostJob){i, jobs[i].kept};
        first[i + 1] = i + 1;
    }
    HostWork work = {.shape = shape,
                     .form = form,
                     .top_k = 1,
                     .groups = {first, rows},
                     .jobs = numbered,
                     .n_jobs = n_jobs,
                     .in = host->timed + (size_t)HOST_TIMED_EXPERTS * shape->d_model};
    uint64_t start_ns = clock_ns();
    while (host_experts_next(host, &work, false, host->timed, done) > 0)
        ;
    *ns = clock_ns() - start_ns;
}
