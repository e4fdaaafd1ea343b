/* What benchmarks are made of and compare with: random numbers of the device, and the plain layer.
 */
#include "exec/cuda/reference.h"
#include "tests/gpu/gpu_support.h"

#include <math.h>

#include "exec/cuda/convert.h"
#include "exec/cuda/random.h"

enum { COUNT = 10001, ROWS = 3, COLUMNS = 300 };
enum { EXPERTS = 3, TOP_K = 2, TOKENS = 5, PICKED = 3, NOBODY = 0xFFFF };

/* N bf16 zeros on the device. */
static void *zeros(size_t n)
{
    static const uint16_t none[COUNT + 1];
    return gpu_upload(none, n * sizeof *none);
}

/* N bf16 numbers of the device, widened there. */
static const float *read_widened(const OpsQueue *queue, const void *elements, size_t n)
{
    Floats wide = gpu_result(n);
    assert_ok(convert_to_f32(elements, n, wide.device, queue->stream));
    return gpu_read(queue, wide.device, n);
}

static void widened_numbers_are_what_was_rounded(void **unused)
{
    (void)unused;
    uint64_t state = 3;
    const OpsQueue queue = gpu_queue(COMPUTE_BF16);
    Floats numbers = gpu_random(&state, COUNT, false);
    void *rounded = zeros(COUNT);
    assert_ok(convert_to_bf16(numbers.device, COUNT, rounded, queue.stream));
    const float *got = read_widened(&queue, rounded, COUNT);
    for (size_t i = 0; i < COUNT; i++)
        assert_true(got[i] == gpu_rounded(numbers.host[i]));
    gpu_reset();
}

static void a_seed_gives_the_same_normal_deviates(void **unused)
{
    (void)unused;
    const OpsQueue queue = gpu_queue(COMPUTE_BF16);
    void *made[3];
    double sum = 0;
    double squares = 0;
    for (uint64_t i = 0; i < 3; i++) {
        made[i] = zeros(COUNT + 1);
        assert_ok(random_fill(made[i], COUNT, 2, 5 + i / 2, queue.stream));
    }
    const float *first = read_widened(&queue, made[0], COUNT + 1);
    const float *other = read_widened(&queue, made[2], COUNT);
    assert_memory_equal(first, read_widened(&queue, made[1], COUNT), COUNT * sizeof *first);
    assert_memory_not_equal(first, other, COUNT * sizeof *first);
    assert_true(first[COUNT] == 0);
    for (size_t i = 0; i < COUNT; i++) {
        sum += (double)first[i];
        squares += (double)first[i] * (double)first[i];
    }
    assert_true(fabs(sum / COUNT) < 0.1);
    assert_true(fabs(sqrt(squares / COUNT) - 2) < 0.1);
    gpu_reset();
}

static void a_shift_adds_one_row_to_all(void **unused)
{
    (void)unused;
    const OpsQueue queue = gpu_queue(COMPUTE_BF16);
    void *rows = zeros((size_t)(ROWS + 1) * COLUMNS);
    assert_ok(random_shift_rows(rows, ROWS, COLUMNS, 1, 7, queue.stream));
    const float *got = read_widened(&queue, rows, (size_t)(ROWS + 1) * COLUMNS);
    for (size_t row = 1; row < ROWS; row++)
        assert_memory_equal(got + row * COLUMNS, got, COLUMNS * sizeof *got);
    for (size_t i = 0; i < COLUMNS; i++)
        assert_true(got[i] != 0 && got[ROWS * COLUMNS + i] == 0);
    gpu_reset();
}

/* An expert's row COLUMN of the second matrix times what lies between, of IN [d_model]. */
static double expert_on_host(const FfnShape *shape, const float *expert, const float *in,
                             uint32_t column)
{
    const FfnLayout layout = ffn_layout(shape, sizeof(uint16_t));
    const float *second = expert + layout.second / sizeof(uint16_t);
    double sum = 0;
    for (uint32_t f = 0; f < shape->d_ff; f++) {
        double gate = 0;
        double up = 0;
        for (uint32_t i = 0; i < shape->d_model; i++) {
            gate += (double)expert[f * shape->d_model + i] * (double)in[i];
            if (shape->gated)
                up += (double)expert[(shape->d_ff + f) * shape->d_model + i] * (double)in[i];
        }
        double inside = shape->gated ? gate / (1 + exp(-gate)) * up : fmax(gate, 0);
        sum += inside * (double)second[column * shape->d_ff + f];
    }
    return sum;
}

typedef struct {
    FfnShape shape;
    FfnLayout layout;
    Floats experts[EXPERTS];
    unsigned char *packed; /* [EXPERTS], on the device */
    Floats in;
    Floats weights;
    uint16_t ids[TOKENS * TOP_K];
} PlainLayer;

static void make_layer(const OpsQueue *queue, bool gated, PlainLayer *layer)
{
    uint64_t state = 11 + gated;
    layer->shape = (FfnShape){.d_model = 128, .d_ff = 64, .gated = gated};
    layer->layout = ffn_layout(&layer->shape, sizeof(uint16_t));
    size_t n = layer->layout.bytes / sizeof(uint16_t);
    layer->packed = (unsigned char *)gpu_result(EXPERTS * n).device;
    for (size_t e = 0; e < EXPERTS; e++) {
        layer->experts[e] = gpu_random(&state, n, true);
        assert_ok(packed_expert_store(&layer->shape, gpu_elements(&layer->experts[e], COMPUTE_BF16),
                                      layer->packed + e * layer->layout.bytes, queue->stream));
    }
    layer->in = gpu_random(&state, (size_t)TOKENS * layer->shape.d_model, true);
    layer->weights = gpu_random(&state, TOKENS * TOP_K, false);
    for (uint32_t i = 0; i < TOKENS * TOP_K; i++)
        layer->ids[i] = (uint16_t)(i == 1 ? NOBODY : i % EXPERTS);
}

/* The picked tokens, one of which has but one expert. */
static void the_plain_layer_is_what_loops_give(void **unused)
{
    (void)unused;
    static const uint32_t pick[PICKED] = {4, 0, 2};
    const OpsQueue queue = gpu_queue(COMPUTE_BF16);
    for (int gated = 0; gated < 2; gated++) {
        PlainLayer made;
        make_layer(&queue, gated != 0, &made);
        uint32_t d = made.shape.d_model;
        Floats out = gpu_result((size_t)PICKED * d);
        Floats inside = gpu_result((size_t)PICKED * TOP_K * made.shape.d_ff);
        for (size_t i = 0; i < out.n; i++)
            for (size_t slot = pick[i / d] * TOP_K; slot < (pick[i / d] + 1) * TOP_K; slot++)
                if (made.ids[slot] != NOBODY)
                    out.host[i] +=
                        made.weights.host[slot] *
                        (float)expert_on_host(&made.shape, made.experts[made.ids[slot]].host,
                                              made.in.host + pick[i / d] * d, (uint32_t)(i % d));
        const ReferenceLayer layer = {.expert = made.shape,
                                      .top_k = TOP_K,
                                      .weights = made.packed,
                                      .stride_bytes = made.layout.bytes,
                                      .down_at = made.layout.second};
        assert_ok(reference_layer(&layer, gpu_elements(&made.in, COMPUTE_BF16),
                                  gpu_upload(made.ids, sizeof made.ids), made.weights.device,
                                  gpu_upload(pick, sizeof pick), PICKED, inside.device, out.device,
                                  queue.stream));
        gpu_assert_near(&queue, &out, 1e-3f);
        gpu_reset();
    }
}

static void plain_logits_are_products_with_the_rows_of_the_router(void **unused)
{
    (void)unused;
    enum { WIDTH = 70, CHOICES = 19 };
    static const uint32_t pick[PICKED] = {1, 4, 0};
    uint64_t state = 17;
    const OpsQueue queue = gpu_queue(COMPUTE_BF16);
    Floats in = gpu_random(&state, (size_t)TOKENS * WIDTH, true);
    Floats router = gpu_random(&state, (size_t)CHOICES * WIDTH, true);
    Floats logits = gpu_result((size_t)PICKED * CHOICES);
    for (uint32_t i = 0; i < PICKED * CHOICES; i++)
        for (uint32_t j = 0; j < WIDTH; j++)
            logits.host[i] +=
                in.host[pick[i / CHOICES] * WIDTH + j] * router.host[i % CHOICES * WIDTH + j];
    assert_ok(reference_logits(gpu_elements(&in, COMPUTE_BF16), gpu_elements(&router, COMPUTE_BF16),
                               WIDTH, CHOICES, gpu_upload(pick, sizeof pick), PICKED, logits.device,
                               queue.stream));
    gpu_assert_near(&queue, &logits, 1e-4f);
    gpu_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widened_numbers_are_what_was_rounded),
        cmocka_unit_test(a_seed_gives_the_same_normal_deviates),
        cmocka_unit_test(a_shift_adds_one_row_to_all),
        cmocka_unit_test(the_plain_layer_is_what_loops_give),
        cmocka_unit_test(plain_logits_are_products_with_the_rows_of_the_router),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
