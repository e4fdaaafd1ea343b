/* A MoE layer on the device, operation by operation, against the CPU backend: routing, capacity,
 * grouping, experts and their weighted sum; what the tests of few and of many experts share. */
#ifndef TESTS_GPU_EXPERTS_CHECK_H
#define TESTS_GPU_EXPERTS_CHECK_H

#include "tests/gpu/experts_side.h"

/* Choices differ where two logits are nearly the same. */
static void check_choice(const Side *cpu, const Side *gpu)
{
    size_t n = (size_t)cpu->batch.tokens * cpu->layer->top_k;
    size_t equal = 0;
    for (size_t i = 0; i < n; i++) {
        equal += gpu->got.experts[i] == cpu->got.experts[i];
        assert_true(gpu->got.experts[i] < cpu->layer->experts);
    }
    assert_true((double)equal >= 0.995 * (double)n);
    if (equal == n)
        assert_true(gpu_distance(gpu->got.weights, cpu->got.weights, n) < 1e-4);
}

static bool chose_alike(const Side *cpu, const Side *gpu)
{
    size_t n = (size_t)cpu->batch.tokens * cpu->layer->top_k;
    return memcmp(gpu->got.experts, cpu->got.experts, n * sizeof *gpu->got.experts) == 0;
}

static void check_groups(const Side *cpu, const Side *gpu)
{
    size_t n = cpu->got.first[cpu->layer->experts];
    size_t assignments = (size_t)cpu->batch.tokens * cpu->layer->top_k;
    assert_memory_equal(gpu->got.experts, cpu->got.experts, assignments * sizeof(uint16_t));
    assert_memory_equal(gpu->got.first, cpu->got.first,
                        (cpu->layer->experts + 1) * sizeof(uint32_t));
    assert_memory_equal(gpu->got.rows, cpu->got.rows, n * sizeof(uint32_t));
}

static void check_route(Side *cpu, Side *gpu, const Inputs *inputs, uint32_t tokens)
{
    route_side(cpu, inputs, tokens, NULL);
    route_side(gpu, inputs, tokens, NULL);
    check_choice(cpu, gpu);
}

/* What is the same experts' work gives the same numbers, ONCE [tokens][d_model] on the GPU. */
static void check_ways(Side *cpu, Side *gpu, float *once, double tolerance)
{
    size_t n = (size_t)gpu->batch.tokens * gpu->layer->shape.d_model;
    for (int way = briefest() ? WHERE_PLACED : ALL_AT_ONCE; way < WAYS; way++) {
        if (way == ALL_AT_ONCE)
            group_side(gpu, 0); /* whose table was used up */
        run_side(gpu, (Way)way);
        assert_memory_equal(gpu->got.out, once, n * sizeof *once);
    }
    run_side(gpu, SOME_ON_HOST);
    assert_true(gpu_distance(gpu->got.out, cpu->got.out, n) < tolerance);
    memcpy(once, gpu->got.out, n * sizeof *once);
    if (!briefest())
        run_side(gpu, SOME_ON_HOST);
    assert_memory_equal(gpu->got.out, once, n * sizeof *once);
    memcpy(once, cpu->got.out, n * sizeof *once);
    run_side(cpu, SOME_ON_HOST);
    assert_true(gpu_distance(cpu->got.out, once, n) < 2e-5);
}

/* A brief test with a capacity has no other ways; in a briefest one a router is free or forced, and
 * only the most experts and those that are not packed have other ways. */
static void check_step(Side *cpu, Side *gpu, const Inputs *inputs, uint32_t tokens,
                       uint32_t capacity, double tolerance)
{
    const Layer *layer = cpu->layer;
    size_t n = (size_t)tokens * layer->shape.d_model;
    float *once = take(n, sizeof *once);
    bool forced = !briefest() || (capacity == 0 && !layer->briefly.once);
    if (briefest() && forced)
        route_side(cpu, inputs, tokens, NULL);
    else
        check_route(cpu, gpu, inputs, tokens);
    if (forced || !layer->packed || !chose_alike(cpu, gpu))
        route_side(gpu, inputs, tokens, &cpu->got);
    group_side(cpu, capacity);
    group_side(gpu, capacity);
    check_groups(cpu, gpu);
    run_side(cpu, ALL_AT_ONCE);
    run_side(gpu, ALL_AT_ONCE);
    assert_true(gpu_distance(gpu->got.out, cpu->got.out, n) < tolerance);
    memcpy(once, gpu->got.out, n * sizeof *once);
    if (!(brief() && capacity > 0) && !(briefest() && layer->packed && layer->experts < 512))
        check_ways(cpu, gpu, once, tolerance);
    free(once);
}

/* What comes before the experts, in one, as it is one by one. */
static void check_plain_entry(Side *gpu, const Inputs *inputs, uint32_t tokens)
{
    size_t n = (size_t)tokens * gpu->layer->shape.d_model;
    float *once = take(n, sizeof *once);
    route_side(gpu, inputs, tokens, NULL);
    group_side(gpu, 0);
    run_side(gpu, ALL_AT_ONCE);
    memcpy(once, gpu->got.out, n * sizeof *once);
    enter_side(gpu, inputs, tokens, NULL, false);
    for (int way = 0; way < (brief() ? 1 : WAYS); way++) {
        run_side(gpu, (Way)way);
        assert_memory_equal(gpu->got.out, once, n * sizeof *once);
    }
    free(once);
}

/* ... and with a norm, as on the CPU. */
static void check_entry(Side *cpu, Side *gpu, const Inputs *inputs, uint32_t tokens,
                        double tolerance)
{
    size_t n = (size_t)tokens * cpu->layer->shape.d_model;
    if (!briefest())
        check_plain_entry(gpu, inputs, tokens);
    enter_side(cpu, inputs, tokens, NULL, true);
    enter_side(gpu, inputs, tokens, NULL, true);
    check_choice(cpu, gpu);
    if (!briefest() || !chose_alike(cpu, gpu))
        enter_side(gpu, inputs, tokens, &cpu->got, true);
    check_groups(cpu, gpu);
    run_side(cpu, ALL_AT_ONCE);
    run_side(gpu, ALL_AT_ONCE);
    assert_true(gpu_distance(gpu->got.out, cpu->got.out, n) < tolerance);
}

static void check_layer(uint64_t *state, Layer of, ComputeType compute)
{
    const Layer *layer = &of;
    const double tolerance = compute == COMPUTE_BF16 && layer->packed ? 1e-2 : 2e-5;
    Inputs inputs = make_inputs(state, layer);
    Side cpu;
    Side gpu;
    open_side(&BACKEND_CPU, COMPUTE_F32, layer, &inputs, &cpu);
    open_side(&BACKEND_CUDA, compute, layer, &inputs, &gpu);
    for (uint32_t tokens = 1; tokens <= layer->max_tokens && !brief(); tokens = tokens * 5 + 2)
        check_step(&cpu, &gpu, &inputs, tokens, 0, tolerance);
    for (uint32_t tokens = 1; tokens <= layer->max_tokens && tokens <= 64; tokens = tokens * 3 + 5)
        if (!brief() || (tokens == 29 && compute == COMPUTE_BF16 && layer->briefly.enters &&
                         !(briefest() && (layer->experts < 100 || layer->experts > 500))))
            check_entry(&cpu, &gpu, &inputs, tokens, tolerance);
    if (brief() && !layer->packed)
        check_route(&cpu, &gpu, &inputs, 5);
    if (brief() && layer->max_tokens > 1056 && (!briefest() || layer->briefly.lowest))
        check_route(&cpu, &gpu, &inputs, 600); /* by the lowest tiles */
    if (!brief() || layer->briefly.ways)
        check_step(&cpu, &gpu, &inputs, brief() ? 38 : layer->max_tokens, 0, tolerance);
    if (briefest() && layer->briefly.routes)
        check_route(&cpu, &gpu, &inputs, layer->max_tokens);
    else if (!briefest() || !layer->briefly.once)
        check_step(&cpu, &gpu, &inputs, layer->max_tokens, 1 + layer->max_tokens / 8, tolerance);
    close_side(&gpu);
    close_side(&cpu);
    free_inputs(&inputs);
}

/* What a brief test has of it: at most MOST_TOKENS. */
static Layer shortened(Layer layer, uint32_t most_tokens)
{
    if (brief())
        layer.max_tokens = layer.briefly.tokens < most_tokens ? layer.briefly.tokens : most_tokens;
    return layer;
}

static void check_f32_layers(const Layer *layers, size_t n)
{
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++)
        if (!brief() || (layers[i].briefly.f32 && !(briefest() && layers[i].packed)))
            check_layer(&state, shortened(layers[i], briefest() ? 100 : 400), COMPUTE_F32);
}

static void check_bf16_layers(const Layer *layers, size_t n)
{
    uint64_t state = 2;
    for (size_t i = 0; i < n; i++)
        check_layer(&state, shortened(layers[i], UINT32_MAX), COMPUTE_BF16);
}

#endif
