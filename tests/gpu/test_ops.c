/* Each dense operation on the device against a plain loop on the host. */
#include "tests/gpu/gpu_support.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

static const ComputeType COMPUTES[] = {COMPUTE_F32, COMPUTE_BF16};

static float near_of(ComputeType compute)
{
    return compute == COMPUTE_F32 ? 2e-5f : 1e-4f;
}

/* ---- rows ---- */

static void embedding_scales_rows_and_adds_positions(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    for (size_t c = 0; c < 2; c++)
        for (uint32_t columns = 37; columns < (briefest() ? 38 : 1000); columns = columns * 3 + 1) {
            const OpsQueue queue = gpu_queue(COMPUTES[c]);
            Floats table = gpu_random(&state, (size_t)50 * columns, true);
            Floats positions = gpu_random(&state, (size_t)20 * columns, false);
            const uint32_t ids[3] = {49, 0, 7};
            const uint32_t places[3] = {0, 19, 5};
            Floats out = gpu_result((size_t)3 * columns);
            for (uint32_t i = 0; i < 3 * columns; i++)
                out.host[i] = table.host[ids[i / columns] * columns + i % columns] * 1.5f +
                              positions.host[places[i / columns] * columns + i % columns];
            const Matrix matrix = {gpu_elements(&table, COMPUTES[c]), NULL, 50, columns};
            assert_ok(ops_embed(&queue, &matrix, gpu_upload(ids, sizeof ids), 3, 1.5f,
                                positions.device, gpu_upload(places, sizeof places), out.device));
            gpu_assert_near(&queue, &out, 1e-6f);
            gpu_reset();
        }
}

static void norm_on_host(const Norm *norm, const float *weight, const float *bias, const float *in,
                         uint32_t columns, float *out)
{
    double mean = 0;
    double squares = 0;
    for (uint32_t i = 0; norm->kind == NORM_LAYER && i < columns; i++)
        mean += in[i] / (double)columns;
    for (uint32_t i = 0; i < columns; i++)
        squares += (in[i] - mean) * (in[i] - mean);
    double scale = 1 / sqrt(squares / columns + (double)norm->eps);
    for (uint32_t i = 0; i < columns; i++)
        out[i] = (float)((in[i] - mean) * scale * weight[i] + (bias != NULL ? bias[i] : 0));
}

/* Some of whole words, which several kernels share by their number. */
static const uint32_t NORM_COLUMNS[] = {5, 23, 1028, 383, 64, 6143, 3000, 95, 8192, 1535, 9004};

static void norms_pick_their_rows(void **unused)
{
    static const int BRIEFEST_KINDS[] = {0, 2, 1, 3};
    (void)unused;
    uint64_t state = 2;
    const OpsQueue queue = gpu_queue(COMPUTE_F32);
    for (size_t c = 0; c < sizeof NORM_COLUMNS / sizeof *NORM_COLUMNS; c++)
        for (int kind = 0; kind < 4; kind++) {
            const uint32_t columns = NORM_COLUMNS[c];
            if (briefest() && kind != BRIEFEST_KINDS[c % 4])
                continue;
            Floats in = gpu_random(&state, (size_t)6 * columns, false);
            Floats weight = gpu_random(&state, columns, false);
            Floats bias = gpu_random(&state, columns, false);
            const uint32_t pick[4] = {5, 0, 3, 3};
            bool picks = kind % 2 == 1;
            uint32_t rows = picks ? 4 : 6;
            const Norm norm = {.kind = kind < 2 ? NORM_RMS : NORM_LAYER,
                               .eps = 1e-5f,
                               .weight = weight.device,
                               .bias = kind == 3 ? bias.device : NULL};
            Floats out = gpu_result((size_t)rows * columns);
            for (uint32_t row = 0; row < rows; row++)
                norm_on_host(&norm, weight.host, kind == 3 ? bias.host : NULL,
                             in.host + (picks ? pick[row] : row) * columns, columns,
                             out.host + row * columns);
            assert_ok(ops_norm(&queue, &norm, in.device,
                               picks ? gpu_upload(pick, sizeof pick) : NULL, rows, columns,
                               out.device));
            gpu_assert_near(&queue, &out, 2e-5f);
            gpu_reset();
        }
}

static void rounded_norms_are_those_of_the_norm(void **unused)
{
    (void)unused;
    uint64_t state = 12;
    const OpsQueue queue = gpu_queue(COMPUTE_BF16);
    for (size_t c = 0; c < sizeof NORM_COLUMNS / sizeof *NORM_COLUMNS; c++)
        for (int kind = 0; kind < 2; kind++) {
            const uint32_t columns = NORM_COLUMNS[c];
            if (briefest() && kind != (int)c % 2)
                continue;
            Floats in = gpu_random(&state, (size_t)3 * columns, false);
            Floats weight = gpu_random(&state, columns, false);
            Floats out = gpu_result((size_t)3 * columns);
            const Norm norm = {
                .kind = kind == 0 ? NORM_RMS : NORM_LAYER, .eps = 1e-5f, .weight = weight.device};
            for (uint32_t row = 0; row < 3; row++)
                norm_on_host(&norm, weight.host, NULL, in.host + row * columns, columns,
                             out.host + row * columns);
            assert_ok(ops_norm_rounded(&queue, &norm, in.device, 3, columns, out.device));
            gpu_assert_elements_near(&queue, COMPUTE_BF16, out.device, &out, 1.0f / 256);
            gpu_reset();
        }
}

static double activation_on_host(Activation kind, double x)
{
    switch (kind) {
    case ACTIVATION_GELU:
        return 0.5 * x * (1 + erf(x * sqrt(0.5)));
    case ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x)));
    case ACTIVATION_RELU:
        return x < 0 ? 0 : x;
    default:
        return x / (1 + exp(-x));
    }
}

static double inside_on_host(const FfnShape *shape, double gate, double up)
{
    if (shape->activation != ACTIVATION_CLAMPED_SWIGLU)
        return activation_on_host(shape->activation, gate) * (shape->gated ? up : 1);
    gate = fmin(gate, (double)shape->limit);
    up = fmax(fmin(up, (double)shape->limit), -(double)shape->limit);
    return gate / (1 + exp(-(double)shape->alpha * gate)) * (up + 1);
}

static void activations_gate_and_scale(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    const OpsQueue queue = gpu_queue(COMPUTE_F32);
    for (int kind = ACTIVATION_SILU; kind <= ACTIVATION_CLAMPED_SWIGLU; kind++)
        for (int gated = kind == ACTIVATION_CLAMPED_SWIGLU; gated < 2; gated++) {
            const FfnShape shape = {.d_ff = 301,
                                    .gated = gated,
                                    .activation = (Activation)kind,
                                    .alpha = 1.702f,
                                    .limit = 0.7f};
            size_t width = gated ? 602 : 301;
            Floats hidden = gpu_random(&state, 5 * width, false);
            Floats gates = gpu_random(&state, 5, false);
            Floats out = gpu_result((size_t)5 * 301);
            for (size_t i = 0; i < out.n; i++) {
                const float *row = hidden.host + i / 301 * width;
                double value = inside_on_host(&shape, (double)row[i % 301],
                                              gated ? (double)row[301 + i % 301] : 1);
                out.host[i] = (float)(value / (1 + exp(-(double)gates.host[i / 301])));
            }
            assert_ok(ops_activate(&queue, &shape, hidden.device, gates.device, 5, out.device));
            gpu_assert_near(&queue, &out, 1e-5f);
            gpu_reset();
        }
}

static void rounded_activations_add_the_bias_first(void **unused)
{
    (void)unused;
    enum { D_FF = 2056, ROWS = 3 };
    uint64_t state = 13;
    const OpsQueue queue = gpu_queue(COMPUTE_BF16);
    for (int kind = ACTIVATION_SILU; kind <= ACTIVATION_CLAMPED_SWIGLU; kind++)
        for (int gated = kind == ACTIVATION_CLAMPED_SWIGLU; gated < 2; gated++) {
            const FfnShape shape = {.d_ff = D_FF,
                                    .gated = gated,
                                    .activation = (Activation)kind,
                                    .alpha = 1.702f,
                                    .limit = 0.7f};
            uint32_t width = gated ? 2 * D_FF : D_FF;
            Floats hidden = gpu_random(&state, (size_t)ROWS * width, true);
            Floats bias = gpu_random(&state, width, false);
            Floats gates = gpu_random(&state, ROWS, false);
            uint16_t got[ROWS * D_FF];
            void *out = gpu_upload(got, sizeof got);
            assert_ok(ops_activate_rounded(&queue, &shape, gpu_elements(&hidden, COMPUTE_BF16),
                                           bias.device, gates.device, ROWS, out));
            assert_int_equal(cudaStreamSynchronize(queue.stream), cudaSuccess);
            assert_int_equal(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost), cudaSuccess);
            for (uint32_t i = 0; i < ROWS * D_FF; i++) {
                const float *row = hidden.host + (size_t)i / D_FF * width;
                uint32_t c = i % D_FF;
                double up = gated ? (double)(row[D_FF + c] + bias.host[D_FF + c]) : 1;
                double want = inside_on_host(&shape, (double)(row[c] + bias.host[c]), up) /
                              (1 + exp(-(double)gates.host[i / D_FF]));
                uint32_t bits = (uint32_t)got[i] << 16;
                float value;
                memcpy(&value, &bits, sizeof value);
                assert_true(fabs((double)value - want) <= 0.004 * fabs(want) + 1e-5);
            }
            gpu_reset();
        }
}

/* ---- products ---- */

typedef struct {
    uint32_t rows;
    uint32_t n;
    uint32_t k;
} ProductShape;

static void check_linear(ComputeType compute, ProductShape shape, bool bias, bool add,
                         uint64_t *state)
{
    const OpsQueue queue = gpu_queue(compute);
    bool rounds = compute == COMPUTE_BF16;
    Floats in = gpu_random(state, (size_t)shape.rows * shape.k, false);
    Floats weight = gpu_random(state, (size_t)shape.n * shape.k, rounds);
    Floats biases = gpu_random(state, shape.n, false);
    Floats out = gpu_random(state, (size_t)shape.rows * shape.n, false);
    for (size_t i = 0; i < out.n; i++) {
        double sum = add ? (double)out.host[i] : 0;
        const float *x = in.host + i / shape.n * shape.k;
        const float *w = weight.host + i % shape.n * shape.k;
        for (uint32_t j = 0; j < shape.k; j++)
            sum += (double)(rounds ? gpu_rounded(x[j]) : x[j]) * (double)w[j];
        out.host[i] = (float)(sum + (bias ? (double)biases.host[i % shape.n] : 0));
    }
    const Matrix matrix = {gpu_elements(&weight, compute), bias ? biases.device : NULL, shape.n,
                           shape.k};
    assert_ok(ops_linear(&queue, in.device, &matrix, shape.rows, add, out.device));
    gpu_assert_near(&queue, &out, near_of(compute) * sqrtf((float)shape.k));
    gpu_reset();
}

static void products_add_bias_and_what_was_there(void **unused)
{
    (void)unused;
    uint64_t state = 4;
    const ProductShape shapes[] = {{1, 1, 1},     {1, 100, 64},   {3, 17, 352},   {8, 250, 1024},
                                   {9, 33, 96},   {16, 64, 608},  {17, 48, 64},   {5, 31, 33},
                                   {70, 129, 80}, {1, 5117, 512}, {8, 2300, 640}, {1, 3100, 96}};
    for (size_t c = 0; c < 2; c++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int way = 0; way < 4; way++)
                if (!brief() || way == (int)(s + c) % 4)
                    check_linear(COMPUTES[c], shapes[s], way % 2 == 1, way / 2 == 1, &state);
}

/* A row of HIDDEN [width] of IN [d], then OUT [d] += the network's output. */
static void ffn_row_on_host(const FfnShape *shape, const float *in, const Floats *first,
                            const Floats *first_bias, const Floats *second,
                            const Floats *second_bias, double gate, float *out)
{
    double hidden[128];
    uint32_t width = ffn_first_rows(shape);
    for (uint32_t i = 0; i < width; i++) {
        hidden[i] = (double)first_bias->host[i];
        for (uint32_t j = 0; j < shape->d_model; j++)
            hidden[i] += (double)in[j] * (double)first->host[i * shape->d_model + j];
    }
    for (uint32_t c = 0; c < shape->d_model; c++) {
        double sum = (double)second_bias->host[c];
        for (uint32_t i = 0; i < shape->d_ff; i++)
            sum += inside_on_host(shape, hidden[i], shape->gated ? hidden[shape->d_ff + i] : 1) /
                   (1 + exp(-gate)) * (double)second->host[c * shape->d_ff + i];
        out[c] += (float)sum;
    }
}

static void check_ffn(ComputeType compute, bool gated, uint32_t rows, uint64_t *state)
{
    const OpsQueue queue = gpu_queue(compute);
    bool rounds = compute == COMPUTE_BF16;
    const FfnShape shape = {.d_model = 48,
                            .d_ff = 40,
                            .gated = gated,
                            .bias = true,
                            .activation = gated ? ACTIVATION_SILU : ACTIVATION_GELU};
    uint32_t width = ffn_first_rows(&shape);
    Floats in = gpu_random(state, (size_t)rows * shape.d_model, rounds);
    Floats first = gpu_random(state, (size_t)width * shape.d_model, rounds);
    Floats second = gpu_random(state, (size_t)shape.d_model * shape.d_ff, rounds);
    Floats first_bias = gpu_random(state, width, false);
    Floats second_bias = gpu_random(state, shape.d_model, false);
    Floats gates = gpu_random(state, rows, false);
    Floats out = gpu_random(state, in.n, false);
    Floats hidden = gpu_result((size_t)rows * width);
    Floats inside = gpu_result((size_t)rows * shape.d_ff);
    for (uint32_t row = 0; row < rows; row++)
        ffn_row_on_host(&shape, in.host + (size_t)row * shape.d_model, &first, &first_bias, &second,
                        &second_bias, (double)gates.host[row],
                        out.host + (size_t)row * shape.d_model);
    const Matrix up = {gpu_elements(&first, compute), first_bias.device, width, shape.d_model};
    const Matrix down = {gpu_elements(&second, compute), second_bias.device, shape.d_model,
                         shape.d_ff};
    const DenseFfn ffn = {&shape, &up, &down, gates.device, hidden.device, inside.device};
    assert_ok(ops_ffn(&queue, &ffn, in.device, rows, out.device));
    gpu_assert_near(&queue, &out, rounds ? 0.2f : 1e-4f); /* what lies between is up to 40 */
    gpu_reset();
}

static void networks_of_few_and_of_many_rows_add_what_a_loop_adds(void **unused)
{
    (void)unused;
    uint64_t state = 14;
    for (size_t c = 0; c < 2; c++)
        for (int gated = 0; gated < 2; gated++)
            for (uint32_t rows = 1; rows < 300; rows = rows * (briefest() ? 42 : 6) + 1)
                check_ffn(COMPUTES[c], gated, rows, &state);
}

/* A norm before the product, by whichever way: of one row by the product itself. */
static void check_norm_linear(ComputeType compute, ProductShape shape, NormKind kind,
                              uint64_t *state)
{
    const OpsQueue queue = gpu_queue(compute);
    bool rounds = compute == COMPUTE_BF16;
    Floats in = gpu_random(state, (size_t)shape.rows * shape.k, false);
    Floats norms = gpu_random(state, shape.k, false);
    Floats weight = gpu_random(state, (size_t)shape.n * shape.k, rounds);
    Floats biases = gpu_random(state, shape.n, false);
    Floats normed = gpu_result((size_t)shape.rows * shape.k);
    Floats out = gpu_result((size_t)shape.rows * shape.n);
    const Norm norm = {.kind = kind, .eps = 1e-5f, .weight = norms.device};
    for (uint32_t row = 0; row < shape.rows; row++)
        norm_on_host(&norm, norms.host, NULL, in.host + row * shape.k, shape.k,
                     normed.host + row * shape.k);
    for (size_t i = 0; i < out.n; i++) {
        double sum = (double)biases.host[i % shape.n];
        for (uint32_t j = 0; j < shape.k; j++)
            sum += (double)normed.host[i / shape.n * shape.k + j] *
                   (double)weight.host[i % shape.n * shape.k + j];
        out.host[i] = (float)sum;
    }
    const Matrix matrix = {gpu_elements(&weight, compute), biases.device, shape.n, shape.k};
    assert_ok(
        ops_norm_linear(&queue, &norm, in.device, &matrix, shape.rows, normed.device, out.device));
    /* bf16: both ways round the operand, but not at the same place */
    gpu_assert_near(&queue, &out, rounds ? 5e-3f * sqrtf((float)shape.k) : 1e-4f);
    gpu_reset();
}

static void products_of_normed_rows_are_those_of_the_norm(void **unused)
{
    (void)unused;
    uint64_t state = 6;
    const ProductShape shapes[] = {{1, 48, 64},    {1, 250, 2048},  {1, 17, 4096},   {1, 31, 33},
                                   {3, 64, 608},   {8, 2200, 1024}, {20, 129, 1024}, {1, 2300, 544},
                                   {7, 5117, 512}, {1, 5120, 2048}};
    for (size_t c = 0; c < 2; c++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int kind = 0; kind < 2; kind++)
                if (!brief() ||
                    (kind == (c == 0 ? (int)s % 2 : 0) && !(briefest() && c == 0 && s > 2)))
                    check_norm_linear(COMPUTES[c], shapes[s], kind == 0 ? NORM_RMS : NORM_LAYER,
                                      &state);
}

static void what_is_no_number_is_found_in_its_row(void **unused)
{
    (void)unused;
    uint64_t state = 7;
    const OpsQueue queue = gpu_queue(COMPUTE_F32);
    for (uint32_t columns = 1; columns < 100000; columns = columns * (briefest() ? 70 : 7) + 3)
        for (uint32_t bad = 0; bad < 4; bad++) {
            if (brief() && bad != columns % 4)
                continue;
            Floats in = gpu_random(&state, (size_t)3 * columns, false);
            uint32_t found[3] = {7, 7, 7};
            uint32_t *device = gpu_upload(found, sizeof found);
            const float nan = NAN;
            size_t at = (size_t)bad * columns + random_below(&state, columns);
            if (bad < 3)
                assert_int_equal(
                    cudaMemcpy(in.device + at, &nan, sizeof nan, cudaMemcpyHostToDevice),
                    cudaSuccess);
            assert_ok(ops_find_nan(&queue, in.device, 3, columns, device));
            assert_int_equal(cudaStreamSynchronize(queue.stream), cudaSuccess);
            assert_int_equal(cudaMemcpy(found, device, sizeof found, cudaMemcpyDeviceToHost),
                             cudaSuccess);
            for (uint32_t row = 0; row < 3; row++)
                assert_int_equal(found[row], row == bad);
            gpu_reset();
        }
}

/* Rows of few different values, so that the largest comes often; the third has a NaN. */
static void the_best_of_a_row_is_the_first_of_the_largest(void **unused)
{
    (void)unused;
    uint64_t state = 9;
    const OpsQueue queue = gpu_queue(COMPUTE_F32);
    for (uint32_t columns = 1; columns < (briefest() ? 5000 : 200000);
         columns = columns * (briefest() ? 1500 : 5) + 2) {
        float *in;
        uint32_t wanted[3] = {0, 0, UINT32_MAX};
        uint32_t best[3] = {7, 7, 7};
        assert_ok(mem_new(&in, (size_t)3 * columns, sizeof *in, "logits"));
        for (uint32_t i = 0; i < 3 * columns; i++)
            in[i] = random_below(&state, 2) ? -0.0f : -(float)random_below(&state, 3);
        for (uint32_t i = 0; i < columns; i++)
            in[columns + i] = random_below(&state, columns) == 0 ? 1e30f : -INFINITY;
        in[2 * columns + random_below(&state, columns)] = NAN;
        for (uint32_t row = 0; row < 2; row++)
            for (uint32_t i = 1; i < columns; i++)
                if (in[row * columns + i] > in[row * columns + wanted[row]])
                    wanted[row] = i;
        const float *device = gpu_upload(in, (size_t)3 * columns * sizeof *in);
        uint32_t *found = gpu_upload(best, sizeof best);
        assert_ok(ops_find_best(&queue, device, 3, columns, found));
        assert_int_equal(cudaStreamSynchronize(queue.stream), cudaSuccess);
        assert_int_equal(cudaMemcpy(best, found, sizeof best, cudaMemcpyDeviceToHost), cudaSuccess);
        assert_memory_equal(best, wanted, sizeof wanted);
        mem_free(in);
        gpu_reset();
    }
}

static void each_head_has_its_own_matrix(void **unused)
{
    (void)unused;
    uint64_t state = 5;
    const uint32_t heads = 3, rows = 24, columns = 40, tokens = 7;
    for (size_t c = 0; c < 2; c++) {
        const OpsQueue queue = gpu_queue(COMPUTES[c]);
        bool rounds = COMPUTES[c] == COMPUTE_BF16;
        Floats in = gpu_random(&state, (size_t)tokens * heads * (columns + 8), rounds);
        Floats weight = gpu_random(&state, (size_t)heads * rows * columns, rounds);
        Floats out = gpu_random(&state, (size_t)tokens * heads * (rows + 4), false);
        const HeadMatrices matrices = {.weights = gpu_elements(&weight, COMPUTES[c]),
                                       .heads = heads,
                                       .rows = rows,
                                       .columns = columns,
                                       .in_token = (size_t)heads * (columns + 8),
                                       .in_head = columns + 8,
                                       .out_token = (size_t)heads * (rows + 4),
                                       .out_head = rows + 4};
        for (uint32_t i = 0; i < tokens * heads * rows; i++) {
            uint32_t head = i / rows % heads;
            const float *x = in.host + i / rows * (columns + 8);
            const float *w = weight.host + (head * rows + i % rows) * columns;
            double sum = 0;
            for (uint32_t j = 0; j < columns; j++)
                sum += (double)x[j] * (double)w[j];
            out.host[i / rows * (rows + 4) + i % rows] = (float)sum;
        }
        assert_ok(ops_linear_heads(&queue, &matrices, in.device, tokens, out.device));
        gpu_assert_near(&queue, &out, 1e-4f);
        gpu_reset();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embedding_scales_rows_and_adds_positions),
        cmocka_unit_test(norms_pick_their_rows),
        cmocka_unit_test(rounded_norms_are_those_of_the_norm),
        cmocka_unit_test(activations_gate_and_scale),
        cmocka_unit_test(rounded_activations_add_the_bias_first),
        cmocka_unit_test(products_add_bias_and_what_was_there),
        cmocka_unit_test(networks_of_few_and_of_many_rows_add_what_a_loop_adds),
        cmocka_unit_test(products_of_normed_rows_are_those_of_the_norm),
        cmocka_unit_test(what_is_no_number_is_found_in_its_row),
        cmocka_unit_test(the_best_of_a_row_is_the_first_of_the_largest),
        cmocka_unit_test(each_head_has_its_own_matrix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
