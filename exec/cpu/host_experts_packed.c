/* Packed experts on the host: what lies between the kernels' products.
 *
 * Sums come from a kernel by rows of weights, [STRIP_ROWS][n] for each set of up to 16 rows. Gate
 * and up lie by eights, so that eight rows of gate, all their columns, are followed by the same
 * eight of up: activations run over whole blocks of numbers, and the next product's input, whose
 * columns go by pairs, is written in lines that no other thread writes. With tens of rows that is
 * a third of the time, so that it is compiled twice, and runs with wide vectors where there are
 * some: the same operations on each number, and so the same bits (32 experts of 2048 x 768 with 10
 * to 45 rows each, 14 cores of a Xeon of 2.1 GHz: 1.10 ms without products, so 0.72; 3.23 ms with
 * them, so 3.07). */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* as gcc does for standard C: wide or not, products are rounded */
#endif

#include <string.h>

#include "exec/cpu/activation.h"
#include "exec/cpu/host_experts_parts.h"

#if defined(__x86_64__)
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl")))
#else
#define WIDE
#endif
#define INLINE static inline __attribute__((always_inline))

enum {
    GATHER_COLUMNS = 256, /* of one item */
    GATHERED = 16,        /* columns at a time */
    EIGHT = 8,            /* rows of gate before those of up */
    /* What one thread does sooner than it takes several to meet: bytes of weights for a few rows,
     * and numbers that are gathered. */
    ALONE_BYTES = 160 << 10,
    ALONE_ROWS = 4,
    ALONE_NUMBERS = 4096
};

/* The nearest bf16, as the upper half of a word; NaN stays NaN. */
INLINE uint32_t rounded(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t near = bits + 0x7FFF + (bits >> 16 & 1);
    return ((bits & 0x7FFFFFFF) > 0x7F800000 ? bits | 0x400000 : near) & 0xFFFF0000;
}

/* VALUES [columns][n] of a set's rows into ARRAY, which has WIDTH columns, from COLUMN on, as the
 * kernel reads its input. COLUMN and COLUMNS are even. */
INLINE void put_columns(const HostTask *task, const RowSet *set, void *array, uint32_t width,
                        uint32_t column, uint32_t columns, const float *values)
{
    const HostExperts *host = task->host;
    uint32_t n = set->n;
    uint16_t *to =
        (uint16_t *)array + (size_t)(host->pieces[set->piece].first + set->first) * width;
    if (!host->packed->pairs) {
        for (uint32_t c = 0; c < columns; c++)
            for (uint32_t i = 0; i < n; i++)
                to[(size_t)i * width + column + c] = (uint16_t)(rounded(values[c * n + i]) >> 16);
        return;
    }
    for (uint32_t c = 0; c < columns; c += 2) {
        const float *low = values + (size_t)c * n;
        uint32_t *pairs = (uint32_t *)(void *)(to + (size_t)(column + c) * n);
        for (uint32_t i = 0; i < n; i++)
            pairs[i] = rounded(low[i]) >> 16 | rounded(low[n + i]);
    }
}

/* GATHERED columns of a row at FROM to bf16: by pairs, the words of one row lie STRIDE apart. */
PACKED_READS INLINE void gather_columns(const float *restrict from, bool pairs, uint32_t stride,
                                        void *to)
{
    uint32_t words[GATHERED / 2];
    for (uint32_t i = 0; i < GATHERED / 2; i++)
        words[i] = rounded(from[2 * i]) >> 16 | rounded(from[2 * i + 1]);
    if (!pairs) {
        memcpy(to, words, sizeof words);
        return;
    }
    for (uint32_t i = 0; i < GATHERED / 2; i++)
        ((uint32_t *)to)[(size_t)i * stride] = words[i];
}

/* Columns of the row at FROM, which the device has written, so that no core has them. */
static void fetch_columns(const float *from, uint32_t columns)
{
    for (uint32_t column = 0; column < columns; column += GATHERED)
        __builtin_prefetch(from + column);
}

static void take_rows(void *argument, size_t item, size_t worker)
{
    const HostTask *task = argument;
    const HostExperts *host = task->host;
    const RowSet *set = &host->sets[item / task->items];
    uint32_t d = task->work->shape->d_model;
    uint32_t first = (uint32_t)(item % task->items) * GATHER_COLUMNS;
    host->own[worker].rows =
        (GatheredRows){.in = task->work->in + first,
                       .tokens = host->tokens + host->pieces[set->piece].first + set->first,
                       .n = set->n,
                       .width = d,
                       .columns = least(GATHER_COLUMNS, d - first),
                       .out = host->scratch + worker * host->scratch_floats};
}

PACKED_READS INLINE void gather_any_rows(void *owner, size_t worker)
{
    const HostExperts *host = owner;
    const GatheredRows *rows = &host->own[worker].rows;
    bool pairs = host->packed->pairs;
    for (uint32_t i = 0; i < rows->n; i++) {
        const float *from = rows->in + (size_t)rows->tokens[i] * rows->width;
        uint16_t *to = (uint16_t *)rows->out + (size_t)i * (pairs ? 2 : rows->columns);
        if (i + 1 < rows->n)
            fetch_columns(rows->in + (size_t)rows->tokens[i + 1] * rows->width, rows->columns);
        for (uint32_t column = 0; column < rows->columns; column += GATHERED)
            gather_columns(from + column, pairs, rows->n,
                           to + (pairs ? (size_t)column * rows->n : column));
    }
}

PACKED_READS static void gather_rows(void *owner, size_t worker)
{
    gather_any_rows(owner, worker);
}

PACKED_READS WIDE static void gather_rows_wide(void *owner, size_t worker)
{
    gather_any_rows(owner, worker);
}

static void put_rows(void *argument, size_t item, size_t worker)
{
    const HostTask *task = argument;
    const HostExperts *host = task->host;
    const RowSet *set = &host->sets[item / task->items];
    const GatheredRows *rows = &host->own[worker].rows;
    const uint16_t *from = rows->out;
    uint32_t first = (uint32_t)(item % task->items) * GATHER_COLUMNS;
    uint16_t *to =
        (uint16_t *)host->in + (size_t)(host->pieces[set->piece].first + set->first) * rows->width;
    if (host->packed->pairs) {
        memcpy(to + (size_t)first * rows->n, from, (size_t)rows->n * rows->columns * sizeof *from);
        return;
    }
    for (uint32_t i = 0; i < rows->n; i++)
        memcpy(to + (size_t)i * rows->width + first, from + (size_t)i * rows->columns,
               rows->columns * sizeof *from);
}

static void add_bias(const float *bias, uint32_t rows, uint32_t n, float *values)
{
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t i = 0; i < n; i++)
            values[row * n + i] += bias[row];
}

/* SUMS [rows][n] of the first matrix -> the inside's COLUMNS of a set from FIRST on. */
INLINE void activate(const HostTask *task, const RowSet *set, uint32_t first, uint32_t columns,
                     float *sums)
{
    FfnShape shape = *task->work->shape;
    const void *weights = task->host->pieces[set->piece].weights;
    float bias[STRIP_ROWS];
    float *up = shape.gated ? sums + (size_t)columns * set->n : sums;
    if (shape.bias && shape.gated) {
        host_read_bias(task, weights, BIAS_GATE, first, columns, bias);
        add_bias(bias, columns, set->n, sums);
    }
    if (shape.bias) {
        host_read_bias(task, weights, BIAS_UP, first, columns, bias);
        add_bias(bias, columns, set->n, up);
    }
    uint32_t d_ff = shape.d_ff;
    shape.d_ff = columns * set->n;
    if (shape.activation == ACTIVATION_SILU && shape.gated)
        multiply_silu(sums, up, shape.d_ff, sums);
    else
        cpu_activate_row(&shape, sums, sums);
    put_columns(task, set, task->host->inside, d_ff, first, columns, sums);
}

/* The strips of ITEM of the matrix at MATRIX of its expert, for WORKER; their number is the first
 * one's. */
static void take_strips(const HostTask *task, size_t matrix, uint32_t rows, uint32_t columns,
                        size_t item, size_t worker, const void *in)
{
    const HostExperts *host = task->host;
    const Piece *piece = &host->pieces[item / task->items];
    uint32_t first = (uint32_t)(item % task->items) * task->strips;
    PackedStrip *strips = &host->own[worker].strips;
    *strips = packed_strip((const unsigned char *)piece->weights + matrix, rows, columns, first);
    strips->strips = least(task->strips, rows / STRIP_ROWS - first);
    strips->in = (const uint16_t *)in + (size_t)piece->first * columns;
    strips->n = piece->n;
    strips->out = host->scratch + worker * host->scratch_floats;
}

static void multiply_strips(void *owner, size_t worker)
{
    const HostExperts *host = owner;
    host->packed->multiply(&host->own[worker].strips);
}

/* One strip's SUMS of all rows of PIECE, number PIECE_AT. */
INLINE void activate_strip(const HostTask *task, uint32_t piece_at, uint32_t strip, float *sums)
{
    const Piece *piece = &task->host->pieces[piece_at];
    for (uint32_t first = 0; first < piece->n; first += PAIR_ROWS) {
        const RowSet set = {piece_at, first, packed_set_rows(piece->n, first)};
        float *of_set = sums + (size_t)first * STRIP_ROWS;
        if (!task->work->shape->gated) {
            activate(task, &set, strip * STRIP_ROWS, STRIP_ROWS, of_set);
            continue;
        }
        activate(task, &set, strip * 2 * EIGHT, EIGHT, of_set);
        activate(task, &set, strip * 2 * EIGHT + EIGHT, EIGHT, of_set + 2 * EIGHT * set.n);
    }
}

static void take_inside(void *argument, size_t item, size_t worker)
{
    const HostTask *task = argument;
    const FfnShape *shape = task->work->shape;
    take_strips(task, task->layout.first, ffn_first_rows(shape), shape->d_model, item, worker,
                task->host->in);
}

INLINE void finish_any_inside(void *argument, size_t item, size_t worker)
{
    const HostTask *task = argument;
    const PackedStrip *strips = &task->host->own[worker].strips;
    uint32_t first = (uint32_t)(item % task->items) * task->strips;
    for (uint32_t i = 0; i < strips->strips; i++)
        activate_strip(task, (uint32_t)(item / task->items), first + i,
                       strips->out + (size_t)i * strips->n * STRIP_ROWS);
}

static void finish_inside(void *argument, size_t item, size_t worker)
{
    finish_any_inside(argument, item, worker);
}

WIDE static void finish_inside_wide(void *argument, size_t item, size_t worker)
{
    finish_any_inside(argument, item, worker);
}

/* SUMS [STRIP_ROWS][n] of rows [first, first + n) of PIECE -> columns from COLUMN on of their
 * results. */
INLINE void put_results(const HostTask *task, const Piece *piece, uint32_t first, uint32_t n,
                        uint32_t column, const float *sums)
{
    uint32_t halves[STRIP_ROWS * PAIR_ROWS];
    for (uint32_t i = 0; i < STRIP_ROWS * n; i++)
        halves[i] = rounded(sums[i]);
    for (uint32_t i = 0; i < n; i++) {
        size_t row = piece->first + first + i;
        uint16_t *to = (uint16_t *)task->out +
                       (task->scatter ? task->rows[row] : row) * task->work->shape->d_model +
                       column;
        uint32_t *words = (uint32_t *)(void *)to;
        for (uint32_t c = 0; c < STRIP_ROWS / 2; c++)
            words[c] = halves[2 * c * n + i] >> 16 | halves[(2 * c + 1) * n + i];
    }
}

static void take_out(void *argument, size_t item, size_t worker)
{
    const HostTask *task = argument;
    const FfnShape *shape = task->work->shape;
    take_strips(task, task->layout.second, shape->d_model, shape->d_ff, item, worker,
                task->host->inside);
}

INLINE void finish_any_out(void *argument, size_t item, size_t worker)
{
    const HostTask *task = argument;
    const FfnShape *shape = task->work->shape;
    const Piece *piece = &task->host->pieces[item / task->items];
    const PackedStrip *strips = &task->host->own[worker].strips;
    for (uint32_t i = 0; i < strips->strips; i++) {
        uint32_t column = ((uint32_t)(item % task->items) * task->strips + i) * STRIP_ROWS;
        float bias[STRIP_ROWS];
        if (shape->bias)
            host_read_bias(task, piece->weights, BIAS_DOWN, column, STRIP_ROWS, bias);
        for (uint32_t first = 0; first < piece->n; first += PAIR_ROWS) {
            uint32_t n = packed_set_rows(piece->n, first);
            float *of_set = strips->out + ((size_t)i * piece->n + first) * STRIP_ROWS;
            if (shape->bias)
                add_bias(bias, STRIP_ROWS, n, of_set);
            put_results(task, piece, first, n, column, of_set);
        }
    }
}

static void finish_out(void *argument, size_t item, size_t worker)
{
    finish_any_out(argument, item, worker);
}

WIDE static void finish_out_wide(void *argument, size_t item, size_t worker)
{
    finish_any_out(argument, item, worker);
}

/* The three loops of a call. */
typedef struct {
    ThreadParts gather;
    ThreadParts inside;
    ThreadParts out;
} Loops;

static const Loops LOOPS[] = {{{take_rows, gather_rows, put_rows},
                               {take_inside, multiply_strips, finish_inside},
                               {take_out, multiply_strips, finish_out}},
                              {{take_rows, gather_rows_wide, put_rows},
                               {take_inside, multiply_strips, finish_inside_wide},
                               {take_out, multiply_strips, finish_out_wide}}};

/* Cuts the STRIPS of a matrix into items: several strips to one, whose weights and results then lie
 * beside each other, so that the input is read less often, and what comes first of a strip is
 * fetched while the one before it is multiplied; where there are items for all threads all the
 * same, and so many that these end together. */
static void cut_items(HostTask *task, uint32_t strips)
{
    size_t threads = thread_pool_size(task->host->pool);
    size_t least_items = (task->n_rows > task->n_pieces * 2 * PAIR_ROWS ? 2 : 6) * threads;
    task->strips = 1;
    while (task->strips < MOST_STRIPS &&
           (size_t)task->n_pieces * strips / (2 * task->strips) >= least_items)
        task->strips *= 2;
    task->items = divide_up(strips, task->strips);
}

/* N items: all of them by the caller, or by the threads. */
static void run_items(HostTask *task, bool alone, size_t n, const ThreadParts *parts)
{
    HostExperts *host = task->host;
    if (!alone) {
        thread_pool_run_apart(host->pool, n, parts, task, host);
        return;
    }
    for (size_t item = 0; item < n; item++) {
        parts->take(task, item, 0);
        parts->compute(host, 0);
        parts->finish(task, item, 0);
    }
}

void host_run_packed(HostTask *task)
{
    const FfnShape *shape = task->work->shape;
    const Loops *loops = &LOOPS[task->host->packed->wide];
    bool alone = task->n_pieces * task->layout.bytes <= ALONE_BYTES && task->n_rows <= ALONE_ROWS;
    task->items = divide_up(shape->d_model, GATHER_COLUMNS);
    run_items(task, (size_t)task->n_rows * shape->d_model <= ALONE_NUMBERS,
              (size_t)task->n_sets * task->items, &loops->gather);
    cut_items(task, ffn_first_rows(shape) / STRIP_ROWS);
    run_items(task, alone, (size_t)task->n_pieces * task->items, &loops->inside);
    cut_items(task, shape->d_model / STRIP_ROWS);
    run_items(task, alone, (size_t)task->n_pieces * task->items, &loops->out);
}
