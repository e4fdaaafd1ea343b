/* Experts that the host computes. */
#include "base/status.h"
#include "tests/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "exec/cpu/host_bench.h"
#include "exec/cpu/host_experts_parts.h"
#include "exec/cpu/host_packed.h"
#include "tests/packed_maker.h"

/* One expert in f32, with its biases. */
typedef struct {
    float *gate;
    float *up;
    float *down;
    float *gate_bias;
    float *up_bias;
    float *down_bias;
} Dense;

enum { EXPERTS = 5 };

typedef struct {
    FfnShape shape;
    LayerConfig layer;
    ModelConfig config;
    HostForm form;
    Dense dense[EXPERTS];
    void *kept[EXPERTS];
    uint32_t tokens;
    uint32_t top_k;
    float *in;                   /* [tokens][d_model] */
    uint32_t first[EXPERTS + 1]; /* RowGroups */
    uint32_t *rows;              /* [tokens * top_k] */
} Case;

static float *random_floats(uint64_t *state, size_t n, float scale)
{
    float *values = malloc(n * sizeof *values);
    for (size_t i = 0; i < n; i++) /* what bf16 has exactly */
        values[i] = from_bf16(to_bf16(scale * random_float(state)));
    return values;
}

static Part part_over(const float *values, uint32_t rows, uint32_t columns)
{
    Tensor tensor = {.data = values,
                     .bytes = (size_t)rows * columns * sizeof *values,
                     .dtype = DTYPE_F32,
                     .rank = 2,
                     .shape = {rows, columns}};
    return part_of(&tensor);
}

static void *keep_parts(const Case *c, const Dense *dense)
{
    uint32_t d = c->shape.d_model;
    uint32_t ff = c->shape.d_ff;
    FfnTensors *tensors = calloc(1, sizeof *tensors);
    tensors->gate = part_over(dense->gate, ff, d);
    tensors->up = part_over(dense->up, ff, d);
    tensors->down = part_over(dense->down, d, ff);
    tensors->gate_bias = part_over(dense->gate_bias, 1, ff);
    tensors->up_bias = part_over(dense->up_bias, 1, ff);
    tensors->down_bias = part_over(dense->down_bias, 1, d);
    return tensors;
}

static void put_halves(const float *from, size_t n, uint16_t *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = to_bf16(from[i]);
}

static void put_floats(const float *from, size_t n, void *to)
{
    memcpy(to, from, n * sizeof *from);
}

/* Gate's and up's rows by eights. */
static void pack_first(const Case *c, const Dense *dense, unsigned char *to)
{
    uint32_t d = c->shape.d_model;
    uint32_t rows = ffn_first_rows(&c->shape);
    uint16_t *matrix = malloc((size_t)rows * d * sizeof *matrix);
    for (uint32_t row = 0; row < rows; row++) {
        const float *from = c->shape.gated ? (row % 16 < 8 ? dense->gate : dense->up) : dense->up;
        uint32_t at = c->shape.gated ? row / 16 * 8 + row % 8 : row;
        put_halves(from + (size_t)at * d, d, matrix + (size_t)row * d);
    }
    pack(matrix, rows, d, to);
    free(matrix);
}

static void *keep_slot(const Case *c, const Dense *dense)
{
    uint32_t d = c->shape.d_model;
    uint32_t ff = c->shape.d_ff;
    size_t matrix = (size_t)ff * d;
    bool floats = c->form == HOST_F32;
    FfnLayout layout = ffn_layout(&c->shape, floats ? 4 : 2);
    unsigned char *kept = calloc(1, layout.bytes);
    unsigned char *up = kept + layout.first + (c->shape.gated ? matrix * (floats ? 4 : 2) : 0);
    if (c->form == HOST_PACKED) {
        uint16_t *down = malloc(matrix * sizeof *down);
        put_halves(dense->down, matrix, down);
        pack_first(c, dense, kept + layout.first);
        pack(down, d, ff, kept + layout.second);
        free(down);
    } else if (floats) {
        if (c->shape.gated)
            put_floats(dense->gate, matrix, kept + layout.first);
        put_floats(dense->up, matrix, up);
        put_floats(dense->down, matrix, kept + layout.second);
    } else {
        if (c->shape.gated)
            put_halves(dense->gate, matrix, (uint16_t *)(void *)(kept + layout.first));
        put_halves(dense->up, matrix, (uint16_t *)(void *)up);
        put_halves(dense->down, matrix, (uint16_t *)(void *)(kept + layout.second));
    }
    if (!c->shape.bias)
        return kept;
    if (c->shape.gated)
        put_floats(dense->gate_bias, ff, kept + layout.first_bias);
    put_floats(dense->up_bias, ff, kept + layout.first_bias + (c->shape.gated ? 4 * ff : 0));
    put_floats(dense->down_bias, d, kept + layout.second_bias);
    return kept;
}

/* TOKENS tokens whose experts are random, each row one's; the groups as a device makes them. */
static void route(Case *c, uint64_t *state)
{
    uint32_t n = c->tokens * c->top_k;
    uint32_t *expert = malloc(n * sizeof *expert);
    uint32_t at = 0;
    c->rows = malloc(n * sizeof *c->rows);
    for (uint32_t i = 0; i < n; i++)
        expert[i] = random_below(state, EXPERTS + 1); /* the last: dropped */
    for (uint32_t e = 0; e < EXPERTS; e++) {
        c->first[e] = at;
        for (uint32_t i = 0; i < n; i++)
            if (expert[i] == e)
                c->rows[at++] = i;
    }
    c->first[EXPERTS] = at;
    free(expert);
}

static void make_case(Case *c, const FfnShape *shape, HostForm form, uint32_t tokens,
                      uint64_t *state)
{
    size_t matrix = (size_t)shape->d_ff * shape->d_model;
    *c = (Case){.shape = *shape, .form = form, .tokens = tokens, .top_k = 2};
    c->layer = (LayerConfig){.moe = true, .experts = EXPERTS, .top_k = 2, .ffn = *shape};
    for (uint32_t e = 0; e < EXPERTS; e++) {
        Dense *dense = &c->dense[e];
        float scale = 1 / sqrtf((float)shape->d_model);
        dense->gate = random_floats(state, matrix, 2 * scale);
        dense->up = random_floats(state, matrix, 2 * scale);
        dense->down = random_floats(state, matrix, 1 / sqrtf((float)shape->d_ff));
        dense->gate_bias = random_floats(state, shape->d_ff, 0.5f);
        dense->up_bias = random_floats(state, shape->d_ff, 0.5f);
        dense->down_bias = random_floats(state, shape->d_model, 0.5f);
        c->kept[e] = form == HOST_PARTS ? keep_parts(c, dense) : keep_slot(c, dense);
    }
    c->in = random_floats(state, (size_t)tokens * shape->d_model, 1);
    route(c, state);
}

static void free_case(Case *c)
{
    for (uint32_t e = 0; e < EXPERTS; e++) {
        Dense *dense = &c->dense[e];
        free(dense->gate);
        free(dense->up);
        free(dense->down);
        free(dense->gate_bias);
        free(dense->up_bias);
        free(dense->down_bias);
        free(c->kept[e]);
    }
    free(c->in);
    free(c->rows);
}

static double activation(const FfnShape *shape, double x)
{
    switch (shape->activation) {
    case ACTIVATION_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    case ACTIVATION_RELU:
        return x > 0 ? x : 0;
    default:
        return x / (1 + exp(-x));
    }
}

static double dot(const float *weights, const float *in, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)weights[i] * (double)in[i];
    return sum;
}

/* The FFN of IN in double precision; packed experts round what is inside. */
static void reference(const Case *c, const Dense *dense, const float *in, double *out)
{
    const FfnShape *shape = &c->shape;
    uint32_t d = shape->d_model;
    float *inside = malloc(shape->d_ff * sizeof *inside);
    for (uint32_t i = 0; i < shape->d_ff; i++) {
        double up = dot(dense->up + (size_t)i * d, in, d);
        double gate = dot(dense->gate + (size_t)i * d, in, d);
        up += shape->bias ? (double)dense->up_bias[i] : 0;
        gate += shape->bias ? (double)dense->gate_bias[i] : 0;
        double value = activation(shape, shape->gated ? gate : up) * (shape->gated ? up : 1);
        if (shape->activation == ACTIVATION_CLAMPED_SWIGLU) {
            double limit = (double)shape->limit;
            double g = gate < limit ? gate : limit;
            double u = up > limit ? limit : up < -limit ? -limit : up;
            value = g / (1 + exp(-(double)shape->alpha * g)) * (u + 1);
        }
        inside[i] = c->form == HOST_PACKED ? from_bf16(to_bf16((float)value)) : (float)value;
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] = dot(dense->down + (size_t)i * shape->d_ff, inside, shape->d_ff) +
                 (shape->bias ? (double)dense->down_bias[i] : 0);
    free(inside);
}

/* Runs JOBS through a host of THREADS, which may use wide vectors or is NARROW; results by row into
 * OUT [tokens * top_k][d_model] f32. */
static void run(const Case *c, const HostJob *jobs, uint32_t n_jobs, size_t threads, bool narrow,
                bool scatter, float *out)
{
    uint32_t d = c->shape.d_model;
    ThreadPool *pool;
    HostExperts *host;
    assert_ok(thread_pool_new(threads, &pool));
    assert_ok(host_experts_new(&c->config, c->tokens, pool, &host));
    PackedKernel kernel = *host->packed;
    kernel.wide = kernel.wide && !narrow;
    host->packed = &kernel;
    uint32_t most = host_experts_rows(&c->config, c->tokens);
    uint32_t *rows = malloc(most * sizeof *rows);
    size_t all = (size_t)c->tokens * c->top_k * d;
    void *results = calloc(all, sizeof(float));
    HostWork work = {.shape = &c->shape,
                     .form = c->form,
                     .top_k = c->top_k,
                     .groups = {(uint32_t *)c->first, c->rows},
                     .jobs = jobs,
                     .n_jobs = n_jobs,
                     .in = c->in};
    uint32_t wanted = 0;
    uint32_t done = 0;
    uint32_t n;
    for (uint32_t i = 0; i < n_jobs; i++)
        wanted += c->first[jobs[i].expert + 1] - c->first[jobs[i].expert];
    while ((n = host_experts_next(host, &work, scatter, results, rows)) > 0) {
        assert_true(n <= most);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < d; j++) {
                size_t at = (scatter ? rows[i] : i) * (size_t)d + j;
                out[(size_t)rows[i] * d + j] = c->form == HOST_PACKED
                                                   ? from_bf16(((uint16_t *)results)[at])
                                                   : ((float *)results)[at];
            }
        done += n;
    }
    assert_int_equal(done, wanted);
    free(results);
    free(rows);
    host_experts_free(host);
    thread_pool_free(pool);
}

static void check(const FfnShape *shape, HostForm form, uint32_t tokens, uint64_t *state)
{
    static Case c;
    HostJob jobs[EXPERTS];
    make_case(&c, shape, form, tokens, state);
    c.config = (ModelConfig){.d_model = shape->d_model,
                             .n_layers = 1,
                             .max_experts = EXPERTS,
                             .max_top_k = 2,
                             .layers = &c.layer};
    size_t all = (size_t)tokens * c.top_k * shape->d_model;
    float *out = calloc(all, sizeof *out);
    float *again = calloc(all, sizeof *again);
    double *wanted = malloc(shape->d_model * sizeof *wanted);
    double tolerance = form == HOST_PACKED ? 0.03 : 1e-5;
    for (uint32_t e = 0; e < EXPERTS; e++)
        jobs[e] = (HostJob){e, c.kept[e]};
    run(&c, jobs, EXPERTS, 1, false, true, out);
    for (uint32_t e = 0; e < EXPERTS;
         e++) /* one at a time, with threads and narrow: the same bits */
        run(&c, jobs + e, 1, 3, true, false, again);
    assert_memory_equal(out, again, all * sizeof *out);
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t i = c.first[e]; i < c.first[e + 1] && i < c.first[e] + 20; i++) {
            uint32_t row = c.rows[i];
            reference(&c, &c.dense[e], c.in + (size_t)row / 2 * shape->d_model, wanted);
            for (uint32_t j = 0; j < shape->d_model; j++) {
                double is = (double)out[(size_t)row * shape->d_model + j];
                if (fabs(is - wanted[j]) > tolerance * (1 + fabs(wanted[j])))
                    fail_msg("form %d, %u x %u, %u tokens: expert %u, row %u, column %u: %g for %g",
                             form, shape->d_model, shape->d_ff, tokens, e, row, j, is, wanted[j]);
            }
        }
    free(wanted);
    free(again);
    free(out);
    free_case(&c);
}

static void every_form_gives_the_ffn_of_its_rows(void **unused)
{
    (void)unused;
    static const Activation ACTIVATIONS[] = {ACTIVATION_SILU, ACTIVATION_GELU, ACTIVATION_GELU_TANH,
                                             ACTIVATION_RELU};
    static const uint32_t SIZES[][2] = {{64, 64}, {128, 192}, {192, 64}};
    uint64_t state = 9;
    for (int form = HOST_PARTS; form <= HOST_PACKED; form++)
        for (int i = 0; i < 12; i++) {
            FfnShape shape = {.d_model = SIZES[i % 3][0],
                              .d_ff = SIZES[i % 3][1],
                              .gated = i % 2 == 0,
                              .bias = i / 2 % 2 == 0,
                              .activation = ACTIVATIONS[i / 3]};
            if (form != HOST_PACKED) {
                shape.d_model += 4;
                shape.d_ff += 6;
            }
            check(&shape, (HostForm)form, 1 + random_below(&state, i % 4 == 0 ? 3 : 50), &state);
        }
    FfnShape clamped = {.d_model = 64,
                        .d_ff = 64,
                        .gated = true,
                        .bias = true,
                        .activation = ACTIVATION_CLAMPED_SWIGLU,
                        .alpha = 1.5f,
                        .limit = 1};
    for (int form = HOST_PARTS; form <= HOST_PACKED; form++)
        check(&clamped, (HostForm)form, 9, &state);
}

static void more_rows_than_are_computed_at_a_time_are_all_computed(void **unused)
{
    (void)unused;
    uint64_t state = 2;
    FfnShape shape = {.d_model = 64, .d_ff = 64, .gated = true};
    check(&shape, HOST_PACKED, 2500, &state);
    check(&shape, HOST_F32, 2500, &state);
}

/* More threads than processors are kept from their items now and then, which others do again. */
static void results_are_the_same_whoever_is_late(void **unused)
{
    (void)unused;
    enum { THREADS = 12, CALLS = 150, MOST_ROWS = 2 * 40 };
    uint64_t state = 21;
    static Case c;
    static uint32_t rows[MOST_ROWS];
    const FfnShape shape = {.d_model = 512, .d_ff = 512, .gated = true, .bias = true};
    ThreadPool *pool;
    HostExperts *host;
    HostJob jobs[EXPERTS];
    size_t row_bytes = shape.d_model * sizeof(uint16_t);
    make_case(&c, &shape, HOST_PACKED, 40, &state);
    c.config = (ModelConfig){.d_model = shape.d_model,
                             .n_layers = 1,
                             .max_experts = EXPERTS,
                             .max_top_k = 2,
                             .layers = &c.layer};
    float *wanted = calloc(MOST_ROWS * (size_t)shape.d_model, sizeof *wanted);
    uint16_t *out = calloc(MOST_ROWS, row_bytes);
    for (uint32_t e = 0; e < EXPERTS; e++)
        jobs[e] = (HostJob){e, c.kept[e]};
    run(&c, jobs, EXPERTS, 1, false, true, wanted);
    assert_ok(thread_pool_new(THREADS, &pool));
    thread_pool_spare_caller(pool);
    assert_ok(host_experts_new(&c.config, c.tokens, pool, &host));
    for (uint32_t call = 0; call < CALLS; call++) {
        uint32_t first = call % EXPERTS;
        uint32_t n = call % 3 == 0 ? EXPERTS - first : 1;
        HostWork work = {.shape = &c.shape,
                         .form = HOST_PACKED,
                         .top_k = 2,
                         .groups = {c.first, c.rows},
                         .jobs = jobs + first,
                         .n_jobs = n,
                         .in = c.in};
        uint32_t done = host_experts_next(host, &work, false, out, rows);
        assert_int_equal(done, c.first[first + n] - c.first[first]);
        for (uint32_t i = 0; i < done; i++)
            for (uint32_t j = 0; j < shape.d_model; j++)
                if (from_bf16(out[(size_t)i * shape.d_model + j]) !=
                    wanted[(size_t)rows[i] * shape.d_model + j])
                    fail_msg("call %u, row %u, column %u", call, rows[i], j);
    }
    host_experts_free(host);
    thread_pool_free(pool);
    free(out);
    free(wanted);
    free_case(&c);
}

static void a_benchmark_measures_and_frees_what_it_took(void **unused)
{
    (void)unused;
    int64_t before = mem_live_blocks();
    const FfnShape shape = {.d_model = 64, .d_ff = 128, .gated = true};
    HostBench *bench;
    double median_ns = 0;
    double spread = -1;
    mem_fail_at(5);
    assert_int_equal(host_bench_new(&shape, 2, 3, 1, 1 << 20, &bench), ERR_MEMORY);
    mem_fail_at(0);
    assert_int_equal(mem_live_blocks(), before);
    assert_ok(host_bench_new(&shape, 2, 3, 1, 1 << 20, &bench));
    assert_int_equal(host_bench_expert_bytes(bench), 3 * 64 * 128 * 2);
    assert_ok(host_bench_run(bench, 2, 3, 5, &median_ns, &spread));
    assert_true(median_ns > 0 && spread >= 0);
    host_bench_free(bench);
    assert_int_equal(mem_live_blocks(), before);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_gives_the_ffn_of_its_rows),
        cmocka_unit_test(more_rows_than_are_computed_at_a_time_are_all_computed),
        cmocka_unit_test(results_are_the_same_whoever_is_late),
        cmocka_unit_test(a_benchmark_measures_and_frees_what_it_took),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
