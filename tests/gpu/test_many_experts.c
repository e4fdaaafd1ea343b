/* MoE layers of up to 512 experts on the device against the CPU backend, with so many tokens that
 * routers take them by tiles, and with few to an expert. */
#include "tests/gpu/experts_check.h"

#include "exec/cuda/layer_product.h"

static const Layer LAYERS[] = {
    {{26, 22, true, true, ACTIVATION_SILU, 0, 0},
     150,
     2,
     120,
     {.tokens = 100, .f32 = true},
     false,
     {.kind = ROUTER_SOFTMAX}},
    {{64, 64, true, false, ACTIVATION_SILU, 0, 0},
     512,
     8,
     257,
     {.tokens = 40, .ways = true, .enters = true, .once = true},
     true,
     {.kind = ROUTER_SOFTMAX, .normalise = true}},
    {{64, 64, true, false, ACTIVATION_SILU, 0, 0},
     330,
     2,
     1100,
     {.tokens = 1100},
     true,
     {.kind = ROUTER_SOFTMAX}},
    /* so many that the router takes them by tiles, of one of three widths and heights */
    {{512, 64, true, false, ACTIVATION_SILU, 0, 0},
     64,
     2,
     4100,
     {.tokens = 4100},
     true,
     {.kind = ROUTER_SOFTMAX}},
    {{512, 64, true, false, ACTIVATION_SILU, 0, 0},
     128,
     2,
     2100,
     {.tokens = 2100, .enters = true, .routes = true},
     true,
     {.kind = ROUTER_TOP_K_SOFTMAX, .bias = true}},
    {{256, 64, true, false, ACTIVATION_SILU, 0, 0},
     200,
     3,
     1400,
     {.tokens = 1400, .enters = true, .routes = true},
     true,
     {.kind = ROUTER_SIGMOID, .normalise = true, .groups = 8, .top_groups = 4, .group_best = 2}},
    {{256, 64, true, false, ACTIVATION_SILU, 0, 0},
     500,
     2,
     530,
     {.tokens = 530, .routes = true},
     true,
     {.kind = ROUTER_SOFTMAX, .normalise = true}},
    {{256, 64, true, false, ACTIVATION_GELU_TANH, 0, 0},
     160,
     2,
     2200,
     {.tokens = 2200, .routes = true, .lowest = true},
     true,
     {.kind = ROUTER_SOFTMAX}},
    {{256, 64, false, false, ACTIVATION_SILU, 0, 0},
     300,
     5,
     2200,
     {.tokens = 2200},
     true,
     {.kind = ROUTER_TOP_K_SOFTMAX}},
    /* many to a few experts: several groups of tiles each */
    {{192, 128, true, true, ACTIVATION_SILU, 0, 0},
     3,
     2,
     4200,
     {.tokens = 4200},
     true,
     {.kind = ROUTER_SOFTMAX}},
    /* many assignments, but few to an expert: their tiles take two blocks at a time ... */
    {{256, 128, true, false, ACTIVATION_SILU, 0, 0},
     200,
     4,
     2100,
     {.tokens = 2100},
     true,
     {.kind = ROUTER_SOFTMAX}},
    /* ... unless their number is odd */
    {{192, 320, false, true, ACTIVATION_RELU, 0, 0},
     150,
     5,
     1700,
     {.tokens = 1700},
     true,
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

/* What the briefest test computes of LAYER takes one kernel for both products. */
static bool has_one_kernel(const Layer *layer, uint32_t *max_width)
{
    size_t assignments = (size_t)layer->briefly.tokens * layer->top_k;
    *max_width = grouping_max_width(assignments, layer->experts);
    return layer->packed && !layer->briefly.routes && !layer->briefly.once &&
           layer_product_suits(&layer->shape, assignments,
                               grouping_max_tiles(assignments, layer->experts), *max_width);
}

static void brief_tests_reach_the_kernel_of_both_products_in_either_width(void **unused)
{
    (void)unused;
    bool middle = false;
    bool most = false;
    for (size_t i = 0; i < N_LAYERS; i++) {
        uint32_t width;
        if (!has_one_kernel(&LAYERS[i], &width))
            continue;
        middle = middle || width == MIDDLE_WIDTH;
        most = most || width == MAX_WIDTH;
    }
    assert_true(middle && most);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(brief_tests_reach_the_kernel_of_both_products_in_either_width),
        cmocka_unit_test(f32_layers_give_what_the_cpu_gives_and_repeat),
        cmocka_unit_test(bf16_layers_give_what_the_cpu_gives_rounded_and_repeat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
