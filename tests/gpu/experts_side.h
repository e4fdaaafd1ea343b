/* A MoE layer on one backend, for tests that compare two: its weights, its operations one by one
 * and in the ways that they may be asked for, and what they gave. */
#ifndef TESTS_GPU_EXPERTS_SIDE_H
#define TESTS_GPU_EXPERTS_SIDE_H

#include "tests/gpu/gpu_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exec/backend.h"

enum { PIECE = 256, BRIEF_EXPERTS = 3 /* that differ, in a brief test */ };

typedef struct {
    FfnShape shape;
    uint32_t experts;
    uint32_t top_k;
    uint32_t max_tokens;
    struct {
        uint32_t tokens; /* max_tokens */
        bool f32;        /* not only bf16 */
        bool ways;       /* few tokens in every way */
        bool enters;     /* few tokens enter by one kernel */
        bool routes;     /* in a briefest test nothing is new but its router */
        bool lowest;     /* a briefest test takes the lowest tiles of its router */
        bool once;       /* in a briefest test few tokens in every way are all */
    } briefly;           /* a brief test */
    bool packed;         /* what bf16 experts of the shape must be */
    RouterConfig router;
} Layer;

/* What both sides are given. */
typedef struct {
    float *weights; /* of all experts: gate, up, down, their biases */
    float *router;  /* matrix, then bias */
    float *in;
} Inputs;

/* What a side computed, on the host. */
typedef struct {
    uint16_t *experts;
    float *weights;
    uint32_t *first;
    uint32_t *rows;
    float *out;
} Results;

/* A backend and its memory. */
typedef struct {
    const Backend *backend;
    Device *device;
    const Layer *layer;
    LayerConfig config;
    ModelConfig model;
    size_t slot_stride;
    unsigned char *slots; /* experts in the slots of their own numbers */
    unsigned char *moved; /* ... and the other way round */
    ExpertJob *placed;    /* where they are there */
    FfnTensors *tensors;  /* [experts] */
    const void **kept;    /* [experts] what the host computes with */
    Router router;
    float *norm;
    float *in;
    float *normed;
    const float *experts_in; /* one of the two */
    float *out;
    uint16_t *forced;
    float *forced_weights;
    void *expert_out;
    size_t expert_out_bytes;
    ExpertBatch batch;
    Results got;
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
    return 3 * matrix + 2 * (size_t)shape->d_ff + shape->d_model;
}

/* The tokens lean one way, so that some experts get many and others none. */
static Inputs make_inputs(uint64_t *state, const Layer *layer)
{
    const FfnShape *shape = &layer->shape;
    size_t d = shape->d_model;
    float scale = 1.5f / sqrtf((float)d);
    Inputs inputs = {.weights =
                         gpu_random_floats(state, layer->experts * expert_floats(shape), scale),
                     .router = gpu_random_floats(state, layer->experts * (d + 1), 2 * scale),
                     .in = gpu_random_floats(state, layer->max_tokens * d, 1)};
    for (size_t i = 0; i < layer->max_tokens * d; i++)
        inputs.in[i] = gpu_rounded(inputs.in[i] + (i % d % 3 == 0 ? 0.7f : 0));
    return inputs;
}

static void free_inputs(Inputs *inputs)
{
    free(inputs->weights);
    free(inputs->router);
    free(inputs->in);
}

static FfnTensors expert_tensors(const FfnShape *shape, float *at)
{
    FfnTensors tensors = {.gate = gpu_matrix_part(&at, shape->d_ff, shape->d_model),
                          .up = gpu_matrix_part(&at, shape->d_ff, shape->d_model),
                          .down = gpu_matrix_part(&at, shape->d_model, shape->d_ff)};
    tensors.gate_bias = gpu_matrix_part(&at, 1, shape->d_ff);
    tensors.up_bias = gpu_matrix_part(&at, 1, shape->d_ff);
    tensors.down_bias = gpu_matrix_part(&at, 1, shape->d_model);
    return tensors;
}

static void *cut(size_t *at, unsigned char *base, size_t bytes)
{
    size_t offset = *at;
    *at += (bytes + PIECE - 1) / PIECE * PIECE;
    return base == NULL ? NULL : base + offset;
}

/* Returns the bytes of everything; BASE NULL: only that. */
static size_t lay_out_side(Side *side, unsigned char *base)
{
    const Layer *layer = side->layer;
    size_t at = 0;
    size_t assignments = (size_t)layer->max_tokens * layer->top_k;
    size_t matrix = (size_t)layer->experts * layer->shape.d_model;
    size_t row = layer->shape.d_model * sizeof(float);
    Routing *routing = &side->batch.routing;
    side->slots = cut(&at, base, layer->experts * side->slot_stride);
    side->moved = cut(&at, base, layer->experts * side->slot_stride);
    side->placed = cut(&at, base, layer->experts * sizeof *side->placed);
    side->router.matrix.data = cut(&at, base, matrix * sizeof(float));
    side->router.matrix.bias = cut(&at, base, layer->experts * sizeof(float));
    side->norm = cut(&at, base, row);
    side->in = cut(&at, base, layer->max_tokens * row);
    side->normed = cut(&at, base, layer->max_tokens * row);
    side->out = cut(&at, base, layer->max_tokens * row);
    side->forced = cut(&at, base, assignments * sizeof(uint16_t));
    side->forced_weights = cut(&at, base, assignments * sizeof(float));
    side->expert_out = cut(&at, base, side->expert_out_bytes);
    routing->scores = cut(&at, base, (size_t)layer->max_tokens * layer->experts * sizeof(float));
    routing->experts = cut(&at, base, assignments * sizeof(uint16_t));
    routing->weights = cut(&at, base, assignments * sizeof(float));
    side->batch.groups.first = cut(&at, base, (layer->experts + 1) * sizeof(uint32_t));
    side->batch.groups.rows = cut(&at, base, assignments * sizeof(uint32_t));
    return at;
}

static void store_layer(Side *side, const Inputs *inputs)
{
    const Layer *layer = side->layer;
    const Backend *backend = side->backend;
    uint32_t n = layer->experts;
    float *at = inputs->router;
    Part matrix = gpu_matrix_part(&at, n, layer->shape.d_model);
    ExpertJob *placed = take(n, sizeof *placed);
    assert_ok(backend->store(side->device, &matrix, side->router.matrix.data));
    assert_ok(backend->upload(side->device, side->router.matrix.bias, at, n * sizeof(float)));
    /* any positive numbers will do */
    float *norm = take(layer->shape.d_model, sizeof *norm);
    for (uint32_t i = 0; i < layer->shape.d_model; i++)
        norm[i] = gpu_rounded(1 + 0.5f * sinf((float)i));
    assert_ok(
        backend->upload(side->device, side->norm, norm, layer->shape.d_model * sizeof(float)));
    free(norm);
    const uint32_t differ = brief() ? BRIEF_EXPERTS : n;
    for (uint32_t e = 0; e < n; e++) {
        FfnTensors *tensors = &side->tensors[e];
        *tensors = expert_tensors(&layer->shape,
                                  inputs->weights + e % differ * expert_floats(&layer->shape));
        placed[e] = (ExpertJob){e, n - 1 - e};
        side->kept[e] = side->kept[e % differ];
        if (e >= differ)
            continue;
        assert_ok(backend->store_expert(side->device, &layer->shape, tensors,
                                        side->slots + e * side->slot_stride));
        assert_ok(backend->keep_expert(side->device, &layer->shape, tensors, &side->kept[e]));
    }
    for (uint32_t slot = 0; slot < differ; slot++)
        assert_ok(backend->move(side->device, side->moved + slot * side->slot_stride,
                                side->slots + (n - 1 - slot) % differ * side->slot_stride,
                                side->slot_stride));
    gpu_repeat_slots(backend, side->device, side->slots, side->slot_stride, differ, n);
    gpu_repeat_slots(backend, side->device, side->moved, side->slot_stride, differ, n);
    assert_ok(backend->upload(side->device, side->placed, placed, n * sizeof *placed));
    free(placed);
}

static Results take_results(const Layer *layer)
{
    size_t assignments = (size_t)layer->max_tokens * layer->top_k;
    return (Results){.experts = take(assignments, sizeof(uint16_t)),
                     .weights = take(assignments, sizeof(float)),
                     .first = take(layer->experts + 1, sizeof(uint32_t)),
                     .rows = take(assignments, sizeof(uint32_t)),
                     .out = take((size_t)layer->max_tokens * layer->shape.d_model, sizeof(float))};
}

static void open_side(const Backend *backend, ComputeType compute, const Layer *layer,
                      const Inputs *inputs, Side *side)
{
    *side = (Side){.backend = backend, .layer = layer};
    side->config = (LayerConfig){.moe = true,
                                 .experts = layer->experts,
                                 .top_k = layer->top_k,
                                 .router = layer->router,
                                 .ffn = layer->shape,
                                 .attention = {.n_heads = 1, .key_dim = 8, .value_dim = 8}};
    RouterConfig *router = &side->config.router;
    router->scale = 1;
    router->groups = router->groups == 0 ? 1 : router->groups;
    side->model = (ModelConfig){.d_model = layer->shape.d_model,
                                .n_layers = 1,
                                .n_moe_layers = 1,
                                .max_experts = layer->experts,
                                .max_top_k = layer->top_k,
                                .layers = &side->config};
    const DeviceOptions options = {.config = &side->model,
                                   .compute = compute,
                                   .threads = 2,
                                   .max_requests = 1,
                                   .max_length = layer->max_tokens,
                                   .max_tokens = layer->max_tokens,
                                   .max_stamps = 1,
                                   .host = true};
    void *memory;
    assert_ok(backend->open(&options, &side->device));
    BackendSizes sizes;
    assert_ok(backend->sizes(&options, &sizes));
    side->expert_out_bytes = sizes.expert_out;
    size_t bytes = ffn_layout(&layer->shape, sizes.weight).bytes;
    side->slot_stride = (bytes + PIECE - 1) / PIECE * PIECE;
    assert_ok(backend->allocate(side->device, lay_out_side(side, NULL) + PIECE, &memory));
    lay_out_side(side, (unsigned char *)(((uintptr_t)memory + PIECE - 1) / PIECE * PIECE));
    side->router.config = router;
    side->router.top_k = layer->top_k;
    side->router.matrix.rows = layer->experts;
    side->router.matrix.columns = layer->shape.d_model;
    side->batch.shape = &side->config.ffn;
    side->batch.top_k = layer->top_k;
    side->batch.n_experts = layer->experts;
    side->batch.slot_stride = side->slot_stride;
    side->got = take_results(layer);
    side->tensors = take(layer->experts, sizeof *side->tensors);
    side->kept = take(layer->experts, sizeof *side->kept);
    store_layer(side, inputs);
}

static void close_side(Side *side)
{
    side->backend->close(side->device);
    free(side->tensors);
    free(side->kept);
    free(side->got.experts);
    free(side->got.weights);
    free(side->got.first);
    free(side->got.rows);
    free(side->got.out);
}

static void fetch_routing(Side *side)
{
    size_t assignments = (size_t)side->batch.tokens * side->layer->top_k;
    const Routing *routing = &side->batch.routing;
    assert_ok(side->backend->download(side->device, side->got.experts, routing->experts,
                                      assignments * sizeof(uint16_t)));
    assert_ok(side->backend->download(side->device, side->got.weights, routing->weights,
                                      assignments * sizeof(float)));
}

/* Puts TOKENS of the inputs in place, and the routing that LIKE has. */
static void put_inputs(Side *side, const Inputs *inputs, uint32_t tokens, const Results *like)
{
    const Backend *backend = side->backend;
    size_t assignments = (size_t)tokens * side->layer->top_k;
    side->batch.tokens = tokens;
    side->experts_in = side->in;
    assert_ok(backend->upload(side->device, side->in, inputs->in,
                              (size_t)tokens * side->layer->shape.d_model * sizeof(float)));
    if (like != NULL) {
        assert_ok(backend->upload(side->device, side->forced, like->experts,
                                  assignments * sizeof(uint16_t)));
        assert_ok(backend->upload(side->device, side->forced_weights, like->weights,
                                  assignments * sizeof(float)));
    }
}

/* Routes TOKENS of the inputs, freely or as LIKE has done. */
static void route_side(Side *side, const Inputs *inputs, uint32_t tokens, const Results *like)
{
    put_inputs(side, inputs, tokens, like);
    assert_ok(side->backend->route(
        side->device, &side->router, side->in, tokens, like != NULL ? side->forced : NULL,
        like != NULL ? side->forced_weights : NULL, &side->batch.routing));
    fetch_routing(side);
}

static void fetch_groups(Side *side)
{
    size_t assignments = (size_t)side->batch.tokens * side->layer->top_k;
    const RowGroups *groups = &side->batch.groups;
    fetch_routing(side);
    assert_ok(side->backend->download(side->device, side->got.first, groups->first,
                                      (side->layer->experts + 1) * sizeof(uint32_t)));
    assert_ok(side->backend->download(side->device, side->got.rows, groups->rows,
                                      assignments * sizeof(uint32_t)));
}

/* All before the experts in one, the norm included when NORMS. */
static void enter_side(Side *side, const Inputs *inputs, uint32_t tokens, const Results *like,
                       bool norms)
{
    const Norm norm = {.kind = NORM_RMS, .eps = 1e-5f, .weight = side->norm};
    put_inputs(side, inputs, tokens, like);
    side->experts_in = norms ? side->normed : side->in;
    const MoeEntry entry = {.shape = side->batch.shape,
                            .norm = norms ? &norm : NULL,
                            .in = side->in,
                            .normed = norms ? side->normed : side->in,
                            .tokens = tokens,
                            .router = &side->router,
                            .forced = like != NULL ? side->forced : NULL,
                            .forced_weights = like != NULL ? side->forced_weights : NULL,
                            .routing = side->batch.routing,
                            .groups = side->batch.groups};
    assert_ok(side->backend->enter_moe(side->device, &entry));
    fetch_groups(side);
}

static void group_side(Side *side, uint32_t capacity)
{
    const Backend *backend = side->backend;
    const Layer *layer = side->layer;
    const ExpertBatch *batch = &side->batch;
    if (capacity > 0)
        assert_ok(backend->limit(side->device, capacity, batch->tokens, layer->top_k,
                                 layer->experts, true, &batch->routing));
    assert_ok(backend->group(side->device, batch->routing.experts, batch->tokens, layer->top_k,
                             layer->experts, &batch->groups));
    fetch_groups(side);
}

/* Ways to ask for the same experts. */
typedef enum { ALL_AT_ONCE, WHERE_PLACED, BY_JOBS, WAYS, SOME_ON_HOST = WAYS } Way;

static void run_jobs(Side *side)
{
    uint32_t n = side->layer->experts;
    for (uint32_t turn = 0; turn < 2; turn++) {
        ExpertJob *jobs = take(n, sizeof *jobs);
        uint32_t n_jobs = 0;
        for (uint32_t e = 0; e < n; e++)
            if ((e % 4 == 1) == (turn == 1))
                jobs[n_jobs++] = (ExpertJob){e, n - 1 - e};
        assert_ok(side->backend->run_experts(side->device, &side->batch, jobs, n_jobs,
                                             side->experts_in, side->expert_out));
        free(jobs);
    }
}

/* Every third expert in its slot, the others on the host. */
static void run_some_on_host(Side *side)
{
    uint32_t n = side->layer->experts;
    ExpertJob *jobs = take(n, sizeof *jobs);
    HostJob *host_jobs = take(n, sizeof *host_jobs);
    uint32_t n_jobs = 0;
    uint32_t n_host = 0;
    for (uint32_t e = 0; e < n; e++)
        if (e % 3 == 1)
            jobs[n_jobs++] = (ExpertJob){e, n - 1 - e};
        else if (side->got.first[e + 1] > side->got.first[e])
            host_jobs[n_host++] = (HostJob){e, side->kept[e]};
    assert_ok(side->backend->offer_host(side->device, &side->batch, side->in));
    assert_ok(side->backend->wait(side->device));
    assert_ok(side->backend->run_experts(side->device, &side->batch, jobs, n_jobs, side->in,
                                         side->expert_out));
    assert_ok(side->backend->run_host(side->device, &side->batch, host_jobs, n_host, side->in,
                                      side->expert_out));
    free(host_jobs);
    free(jobs);
}

/* Experts and sum, added to zeros -> got.out. */
static void run_side(Side *side, Way way)
{
    const Backend *backend = side->backend;
    ExpertBatch *batch = &side->batch;
    size_t bytes = (size_t)batch->tokens * side->layer->shape.d_model * sizeof(float);
    memset(side->got.out, 0, bytes);
    assert_ok(backend->upload(side->device, side->out, side->got.out, bytes));
    batch->slots = way == ALL_AT_ONCE ? side->slots : side->moved;
    batch->placed = way == WHERE_PLACED ? side->placed : NULL;
    if (way == SOME_ON_HOST)
        run_some_on_host(side);
    else if (way == BY_JOBS)
        run_jobs(side);
    else
        assert_ok(
            backend->run_experts(side->device, batch, NULL, 0, side->experts_in, side->expert_out));
    assert_ok(backend->combine(side->device, batch, 0.75f, side->expert_out, side->out));
    assert_ok(backend->download(side->device, side->got.out, side->out, bytes));
}

#endif
