/* MoE layers of up to 60 experts on the device against the CPU backend, over shapes of both paths.
 */
#include "tests/gpu/experts_check.h"

#include "exec/cuda/experts.h"

static const Layer LAYERS[] = {
    {{128, 192, true, false, ACTIVATION_SILU, 0, 0},
     8,
     2,
     1500,
     {.tokens = 700, .f32 = true, .ways = true, .enters = true},
     true,
     {.kind = ROUTER_SOFTMAX}},
    {{128, 64, false, true, ACTIVATION_RELU, 0, 0},
     3,
     1,
     6500,
     {.tokens = 6500},
     true,
     {.kind = ROUTER_SOFTMAX}},
    {{192, 64, true, true, ACTIVATION_CLAMPED_SWIGLU, 1.702f, 0.7f},
     16,
     4,
     900,
     {.tokens = 400, .f32 = true},
     true,
     {.kind = ROUTER_TOP_K_SOFTMAX, .bias = true}},
    {{64, 128, false, true, ACTIVATION_GELU, 0, 0},
     5,
     3,
     900,
     {.tokens = 300, .ways = true},
     true,
     {.kind = ROUTER_SOFTMAX}},
    {{128, 64, false, false, ACTIVATION_GELU_TANH, 0, 0},
     9,
     2,
     1300,
     {.tokens = 500},
     true,
     {.kind = ROUTER_SPARSEMIXER, .jitter = 0.1f}},
    {{64, 64, true, false, ACTIVATION_GELU_TANH, 0, 0},
     60,
     6,
     140,
     {.tokens = 70, .enters = true},
     true,
     {.kind = ROUTER_SIGMOID, .normalise = true, .groups = 6, .top_groups = 3, .group_best = 2}},
    {{40, 24, true, true, ACTIVATION_SILU, 0, 0},
     33,
     5,
     200,
     {.tokens = 140, .f32 = true, .ways = true},
     false,
     {.kind = ROUTER_SOFTMAX}},
};

enum { N_LAYERS = sizeof LAYERS / sizeof LAYERS[0] };

static void f32_layers_give_what_the_cpu_gives_and_repeat(void **unused)
{
    (void)unused;
    check_f32_layers(LAYERS, N_LAYERS);
}

static void bf16_layers_give_what_the_cpu_gives_rounded_and_repeat(void **unused)
{
    (void)unused;
    check_bf16_layers(LAYERS, N_LAYERS);
}

static void bf16_experts_of_whole_blocks_run_on_the_tensor_cores(void **unused)
{
    (void)unused;
    for (int i = 0; i < N_LAYERS; i++) {
        assert_int_equal(experts_packed(&LAYERS[i].shape, true), LAYERS[i].packed);
        assert_false(experts_packed(&LAYERS[i].shape, false));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_experts_of_whole_blocks_run_on_the_tensor_cores),
        cmocka_unit_test(f32_layers_give_what_the_cpu_gives_and_repeat),
        cmocka_unit_test(bf16_layers_give_what_the_cpu_gives_rounded_and_repeat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
