/* Static gating on the device against the CPU backend: what is dropped, and what comes out of the
 * experts, for both ways of dispatch and any capacity. */
#include "tests/gpu/gpu_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "exec/gating.h"

enum { PIECE = 256, BRIEF_EXPERTS = 3 /* that differ, in a brief test */ };

/* One layer and the most tokens of a step. */
typedef struct {
    FfnShape shape;
    uint32_t experts;
    uint32_t top_k;
    uint32_t max_tokens;
    uint32_t brief_tokens; /* max_tokens of a brief test */
    bool drops;            /* in a briefest one the capacity drops some */
} Layer;

static const Layer LAYERS[] = {
    {{128, 192, true, false, ACTIVATION_SILU, 0, 0}, 8, 2, 700, 300, false},
    /* more than a group of rows */
    {{128, 64, false, false, ACTIVATION_RELU, 0, 0}, 3, 1, 5000, 2400, true},
    {{256, 128, false, false, ACTIVATION_RELU, 0, 0}, 64, 4, 130, 130, true},
    {{128, 128, false, true, ACTIVATION_RELU, 0, 0}, 6, 2, 300, 100, false},
    {{256, 192, false, true, ACTIVATION_GELU, 0, 0}, 16, 2, 200, 70, true},
    /* tiles of middle width, which dynamic gating has where it needs a kernel for each product */
    {{128, 64, true, true, ACTIVATION_SILU, 0, 0}, 4, 2, 130, 130, false},
    {{40, 24, true, true, ACTIVATION_GELU, 0, 0}, 5, 3, 90, 40, true}, /* not packed */
};

enum { N_LAYERS = sizeof LAYERS / sizeof LAYERS[0] };

/* What both sides are given. */
typedef struct {
    float *weights; /* of all experts: gate, up, down, their biases */
    float *in;
    float *before; /* what the sums are added to */
    uint16_t *experts;
    float *route_weights;
} Inputs;

/* A backend, its memory and results. */
typedef struct {
    const Backend *backend;
    Device *device;
    unsigned char *slots;
    size_t slot_stride;
    float *in;
    float *rows;
    float *out;
    Routing routing;
    RowGroups groups;
    uint16_t *got_experts; /* host */
    float *got;
} Side;

static void *take(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    assert_non_null(memory);
    return memory;
}

static size_t expert_floats(const FfnShape *shape)
{
    size_t matrix = (size_t)shape->d_model * shape->d_ff;
    size_t biases = shape->bias ? 2 * (size_t)shape->d_ff + shape->d_model : 0;
    return 3 * matrix + biases;
}

/* Distinct experts for a token, low ones more often, some dropped already. */
static void choose(uint64_t *state, const Layer *layer, uint16_t *experts)
{
    for (uint32_t slot = 0; slot < layer->top_k; slot++) {
        bool taken = true;
        while (taken) {
            uint32_t below = 1 + random_below(state, layer->experts);
            experts[slot] = (uint16_t)random_below(state, below);
            taken = false;
            for (uint32_t i = 0; i < slot; i++)
                taken |= experts[i] == experts[slot];
        }
    }
    if (random_below(state, 8) == 0)
        experts[random_below(state, layer->top_k)] = EXPERT_DROPPED;
}

static Inputs make_inputs(uint64_t *state, const Layer *layer)
{
    const FfnShape *shape = &layer->shape;
    size_t rows = (size_t)layer->max_tokens * shape->d_model;
    size_t assignments = (size_t)layer->max_tokens * layer->top_k;
    Inputs inputs = {.weights = gpu_random_floats(state, layer->experts * expert_floats(shape),
                                                  1.5f / sqrtf((float)shape->d_model)),
                     .in = gpu_random_floats(state, rows, 1),
                     .before = gpu_random_floats(state, rows, 1),
                     .experts = take(assignments, sizeof(uint16_t)),
                     .route_weights = gpu_random_floats(state, assignments, 0.5f)};
    for (size_t i = 0; i < assignments; i++)
        inputs.route_weights[i] += 0.6f;
    for (size_t token = 0; token < layer->max_tokens; token++)
        choose(state, layer, inputs.experts + token * layer->top_k);
    return inputs;
}

static void free_inputs(Inputs *inputs)
{
    free(inputs->weights);
    free(inputs->in);
    free(inputs->before);
    free(inputs->experts);
    free(inputs->route_weights);
}

static FfnTensors expert_tensors(const FfnShape *shape, float *at)
{
    FfnTensors tensors = {.gate = gpu_matrix_part(&at, shape->d_ff, shape->d_model),
                          .up = gpu_matrix_part(&at, shape->d_ff, shape->d_model),
                          .down = gpu_matrix_part(&at, shape->d_model, shape->d_ff)};
    if (shape->bias) {
        tensors.gate_bias = gpu_matrix_part(&at, 1, shape->d_ff);
        tensors.up_bias = gpu_matrix_part(&at, 1, shape->d_ff);
        tensors.down_bias = gpu_matrix_part(&at, 1, shape->d_model);
    }
    return tensors;
}

static void *cut(unsigned char **at, size_t bytes)
{
    void *piece = *at;
    *at += (bytes + PIECE - 1) / PIECE * PIECE;
    return piece;
}

static void lay_out_side(const Layer *layer, Side *side, unsigned char **at)
{
    size_t tokens = layer->max_tokens;
    size_t assignments = tokens * layer->top_k;
    size_t d = layer->shape.d_model;
    side->slots = cut(at, layer->experts * side->slot_stride);
    side->in = cut(at, tokens * d * sizeof(float));
    side->rows = cut(at, assignments * d * sizeof(float));
    side->out = cut(at, tokens * d * sizeof(float));
    side->routing.experts = cut(at, assignments * sizeof(uint16_t));
    side->routing.weights = cut(at, assignments * sizeof(float));
    side->groups.first = cut(at, (layer->experts + 1) * sizeof(uint32_t));
    side->groups.rows = cut(at, assignments * sizeof(uint32_t));
}

static void open_side(const Backend *backend, ComputeType compute, bool mask, const Layer *layer,
                      const Inputs *inputs, Side *side)
{
    LayerConfig config = {.moe = true,
                          .experts = layer->experts,
                          .top_k = layer->top_k,
                          .ffn = layer->shape,
                          .attention = {.n_heads = 1, .key_dim = 8, .value_dim = 8}};
    ModelConfig model = {.d_model = layer->shape.d_model,
                         .n_layers = 1,
                         .n_moe_layers = 1,
                         .max_experts = layer->experts,
                         .max_top_k = layer->top_k,
                         .layers = &config};
    const DeviceOptions options = {.config = &model,
                                   .compute = compute,
                                   .threads = 2,
                                   .max_requests = 1,
                                   .max_length = layer->max_tokens,
                                   .max_tokens = layer->max_tokens,
                                   .max_stamps = 1,
                                   .capacity = layer->max_tokens,
                                   .mask = mask};
    unsigned char *at = NULL;
    void *memory;
    *side = (Side){.backend = backend};
    BackendSizes sizes;
    assert_ok(backend->sizes(&options, &sizes));
    assert_ok(backend->open(&options, &side->device));
    side->slot_stride = (ffn_layout(&layer->shape, sizes.weight).bytes + PIECE - 1) / PIECE * PIECE;
    lay_out_side(layer, side, &at);
    assert_ok(backend->allocate(side->device, (size_t)at + PIECE, &memory));
    at = (unsigned char *)(((uintptr_t)memory + PIECE - 1) / PIECE * PIECE);
    lay_out_side(layer, side, &at);
    const uint32_t differ = brief() ? BRIEF_EXPERTS : layer->experts;
    for (uint32_t e = 0; e < differ; e++) {
        const FfnTensors tensors =
            expert_tensors(&layer->shape, inputs->weights + e * expert_floats(&layer->shape));
        assert_ok(backend->store_expert(side->device, &layer->shape, &tensors,
                                        side->slots + e * side->slot_stride));
    }
    gpu_repeat_slots(backend, side->device, side->slots, side->slot_stride, differ, layer->experts);
    side->got_experts = take((size_t)layer->max_tokens * layer->top_k, sizeof(uint16_t));
    side->got = take((size_t)layer->max_tokens * layer->shape.d_model, sizeof(float));
}

static void close_side(Side *side)
{
    side->backend->close(side->device);
    free(side->got_experts);
    free(side->got);
}

/* Limits, groups and runs TOKENS of the inputs; what was added, and who was dropped, -> SIDE. */
static void run_side(const Layer *layer, const Inputs *inputs, uint32_t tokens, uint32_t capacity,
                     bool mask, Side *side)
{
    const Backend *backend = side->backend;
    Device *device = side->device;
    size_t rows = (size_t)tokens * layer->shape.d_model;
    size_t assignments = (size_t)tokens * layer->top_k;
    const ExpertBatch batch = {.shape = &layer->shape,
                               .tokens = tokens,
                               .top_k = layer->top_k,
                               .n_experts = layer->experts,
                               .capacity = capacity,
                               .mask = mask,
                               .routing = side->routing,
                               .groups = side->groups,
                               .slots = side->slots,
                               .slot_stride = side->slot_stride};
    assert_ok(backend->upload(device, side->in, inputs->in, rows * sizeof(float)));
    assert_ok(backend->upload(device, side->out, inputs->before, rows * sizeof(float)));
    assert_ok(backend->upload(device, side->routing.experts, inputs->experts,
                              assignments * sizeof(uint16_t)));
    assert_ok(backend->upload(device, side->routing.weights, inputs->route_weights,
                              assignments * sizeof(float)));
    assert_ok(backend->limit(device, capacity, tokens, layer->top_k, layer->experts, true,
                             &side->routing));
    assert_ok(backend->group(device, side->routing.experts, tokens, layer->top_k, layer->experts,
                             &side->groups));
    assert_ok(backend->run_static(device, &batch, 0.75f, side->in, side->rows, side->out));
    assert_ok(backend->download(device, side->got, side->out, rows * sizeof(float)));
    assert_ok(backend->download(device, side->got_experts, side->routing.experts,
                                assignments * sizeof(uint16_t)));
    for (size_t i = 0; i < rows; i++)
        side->got[i] -= inputs->before[i];
}

static void compare(const Layer *layer, uint32_t tokens, uint32_t capacity, double tolerance,
                    const Side *side, const Side *cpu)
{
    size_t assignments = (size_t)tokens * layer->top_k;
    size_t d = layer->shape.d_model;
    assert_memory_equal(side->got_experts, cpu->got_experts, assignments * sizeof(uint16_t));
    double far = gpu_distance(side->got, cpu->got, tokens * d);
    if (!(far <= tolerance))
        fail_msg("%u tokens, capacity %u, d %zu, ff %u: off by %g", tokens, capacity, d,
                 layer->shape.d_ff, far);
}

/* All and some in a brief test, else a series. */
static uint32_t next_capacity(uint32_t tokens, uint32_t capacity)
{
    if (brief())
        return capacity == tokens ? tokens / 6 : 0;
    return capacity * 3 / 5;
}

/* Layer I; of a brief test at most MOST_TOKENS. */
static Layer layer_of(int i, uint32_t most_tokens)
{
    Layer layer = LAYERS[i];
    if (brief())
        layer.max_tokens = layer.brief_tokens < most_tokens ? layer.brief_tokens : most_tokens;
    return layer;
}

/* Every capacity, the largest first, so that what it left behind is there for the others. */
static void check_layer(Layer of, ComputeType compute, double tolerance)
{
    const Layer *layer = &of;
    uint64_t state = 7 + layer->experts;
    Inputs inputs = make_inputs(&state, layer);
    Side cpu;
    Side padded;
    Side mask;
    open_side(&BACKEND_CPU, COMPUTE_F32, true, layer, &inputs, &cpu);
    open_side(&BACKEND_CUDA, compute, false, layer, &inputs, &padded);
    open_side(&BACKEND_CUDA, compute, true, layer, &inputs, &mask);
    for (uint32_t tokens = layer->max_tokens; tokens > 0; tokens = brief() ? 0 : tokens * 2 / 5)
        for (uint32_t capacity = tokens; capacity > 0; capacity = next_capacity(tokens, capacity)) {
            if (briefest() && (capacity == tokens) == layer->drops)
                continue;
            run_side(layer, &inputs, tokens, capacity, false, &cpu);
            run_side(layer, &inputs, tokens, capacity, false, &padded);
            run_side(layer, &inputs, tokens, capacity, true, &mask);
            compare(layer, tokens, capacity, tolerance, &padded, &cpu);
            compare(layer, tokens, capacity, tolerance, &mask, &cpu);
        }
    close_side(&cpu);
    close_side(&padded);
    close_side(&mask);
    free_inputs(&inputs);
}

static void f32_gives_what_the_cpu_gives(void **unused)
{
    (void)unused;
    for (int i = 0; i < (briefest() ? 1 : N_LAYERS); i += brief() ? N_LAYERS - 1 : 1)
        check_layer(layer_of(i, briefest() ? 60 : 300), COMPUTE_F32, 1e-5);
}

static void bf16_gives_what_the_cpu_gives_rounded(void **unused)
{
    (void)unused;
    for (int i = 0; i < N_LAYERS; i++)
        check_layer(layer_of(i, UINT32_MAX), COMPUTE_BF16, 1e-2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_gives_what_the_cpu_gives),
        cmocka_unit_test(bf16_gives_what_the_cpu_gives_rounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
