#include "cli/bench_gpu_attention.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "cli/bench_gpu.h"
#include "exec/cuda/device_arena.h"
#include "exec/cuda/measure.h"
#include "exec/cuda/ops.h"
#include "exec/cuda/random.h"

enum {
    REPEATS = 11,
    MAX_SETS = 32,
    PICKED = 24,
    MAX_CELLS = 128,
    MAX_KEY_DIM = 576,
    MAX_VALUE_DIM = 512
};
enum { COMPARED = 1 << 23 }; /* floats of two runs whose bits are compared */

/* So much of the cache is read in turn that it does not stay in the device's own. */
static const size_t TURN_BYTES = (size_t)256 << 20;
static const double MAX_ERROR = 1e-2; /* bf16 inside, f32 sums */

static const AttentionShape SHAPES[] = {
    {"qwen3-30b-a3b", 32, 4, 128, 128, 0, false, false, false},
    {"gpt-oss-20b, window", 64, 8, 64, 64, 128, false, true, false},
    {"gpt-oss-20b, full", 64, 8, 64, 64, 0, false, true, false},
    {"deepseek-v2-lite", 16, 1, 576, 512, 0, true, false, false},
    {"deepseek-v3", 128, 1, 576, 512, 0, true, false, false},
    {"nllb-moe-54b", 16, 16, 128, 128, 0, false, false, false},
    {"nllb-moe-54b, encoder", 16, 16, 128, 128, 0, false, false, true}};

/* Requests, new tokens of each, and positions at the end. */
static const struct {
    uint32_t requests;
    uint32_t tokens;
    uint32_t keys;
} STEPS[] = {{16, 1024, 1024}, {8, 512, 512}, {1, 512, 8192}, {1, 1, 512},  {1, 1, 2048},
             {1, 1, 8192},     {8, 1, 512},   {8, 1, 2048},   {8, 1, 8192}, {64, 1, 512},
             {64, 1, 2048},    {64, 1, 4096}, {64, 1, 8192}};

/* Everything on the device for one cell. */
typedef struct {
    AttentionCell *cell;
    DeviceArena arena;
    OpsQueue queue;
    AttendLayer layer;
    AppendLayer append;
    float *queries; /* rows of queries, keys and values; of latent attention queries only */
    float *out;
    void *sinks;
    float *turns;    /* [keys][key_dim / 2]: cosines and sines */
    float *norm;     /* [key_dim] */
    uint32_t n_sets; /* of requests with a cache each, run one after the other */
    Span *host;      /* [n_sets][requests] */
    Span *device;
    unsigned char *cache_host; /* of one slot */
} AttentionBench;

static size_t cache_elements(const AttentionCell *cell)
{
    const AttentionShape *shape = cell->shape;
    size_t width = (size_t)shape->n_kv_heads * shape->key_dim;
    if (!shape->latent)
        width += (size_t)shape->n_kv_heads * shape->value_dim;
    return width * cell->keys;
}

static size_t out_floats(const AttentionCell *cell)
{
    return (size_t)cell->requests * cell->tokens * cell->shape->n_heads * cell->shape->value_dim;
}

/* Keys that the tokens of a request see, and keys that at least one of them sees. */
static void count_keys(const AttentionCell *cell, double *seen, double *read)
{
    const AttentionShape *shape = cell->shape;
    uint32_t window = shape->window > 0 ? shape->window : UINT32_MAX;
    *seen = 0;
    for (uint32_t i = 0; i < cell->tokens; i++) {
        uint32_t keys = shape->encoder ? cell->keys : cell->keys - cell->tokens + i + 1;
        *seen += keys < window ? keys : window;
    }
    *read = fmin(cell->keys, (double)window + cell->tokens - 1);
}

static void set_floor(const Ceilings *ceilings, AttentionCell *cell)
{
    const AttentionShape *shape = cell->shape;
    double seen;
    double read;
    count_keys(cell, &seen, &read);
    double rows = (double)cell->requests * cell->tokens * shape->n_heads;
    double bytes = rows * (shape->key_dim + shape->value_dim) * sizeof(float) +
                   cell->requests * read / cell->keys * (double)cache_elements(cell) * 2;
    double flops =
        2.0 * cell->requests * seen * shape->n_heads * (shape->key_dim + shape->value_dim);
    double kv = (double)cell->requests * cell->tokens * (double)cache_elements(cell) / cell->keys;
    double appended = rows * shape->key_dim * 2 * sizeof(float) + kv * (sizeof(float) + 2);
    cell->append_floor_ms = shape->latent ? 0 : 1e3 * appended / ceilings->bytes_per_s;
    cell->bytes_ms = 1e3 * bytes / ceilings->bytes_per_s;
    cell->flops_ms = 1e3 * flops / ceilings->flops_per_s;
}

/* Floats of a token's queries and of what lies behind them. */
static size_t row_floats(const AttentionShape *shape)
{
    size_t kv = (size_t)shape->n_kv_heads * (shape->key_dim + shape->value_dim);
    return (size_t)shape->n_heads * shape->key_dim + (shape->latent ? 0 : kv);
}

/* ---- opening ---- */

static void lay_out_sets(AttentionBench *bench)
{
    const AttentionCell *cell = bench->cell;
    for (uint32_t i = 0; i < bench->n_sets * cell->requests; i++)
        bench->host[i] = (Span){.kv_slot = i,
                                .first_token = i % cell->requests * cell->tokens,
                                .tokens = cell->tokens,
                                .position = cell->keys - cell->tokens,
                                .keys = cell->keys};
}

static Status fill(AttentionBench *bench)
{
    const AttentionCell *cell = bench->cell;
    const AttentionShape *shape = cell->shape;
    cudaStream_t stream = bench->queue.stream;
    size_t slots = (size_t)bench->n_sets * cell->requests;
    size_t tokens = (size_t)cell->requests * cell->tokens;
    /* a float whose upper half is a bf16 deviate is nearly that deviate */
    TRY(random_fill(bench->queries, 2 * tokens * row_floats(shape), 1, 1, stream));
    TRY(random_fill(bench->turns, (size_t)cell->keys * shape->key_dim, 1, 4, stream));
    TRY(random_fill(bench->norm, 2 * (size_t)shape->key_dim, 1, 5, stream));
    TRY(random_fill(bench->sinks, 2 * (size_t)shape->n_heads, 1, 2, stream));
    TRY(random_fill(bench->layer.cache.keys, slots * cache_elements(cell), 1, 3, stream));
    CUDA_TRY(cudaMemcpyAsync(bench->device, bench->host, slots * sizeof *bench->host,
                             cudaMemcpyHostToDevice, stream));
    CUDA_TRY(cudaStreamSynchronize(stream));
    return OK;
}

static AttendLayer attend_layer(const AttentionBench *bench, unsigned char *cache)
{
    const AttentionCell *cell = bench->cell;
    const AttentionShape *shape = cell->shape;
    size_t keys_wide = (size_t)shape->n_kv_heads * shape->key_dim;
    size_t slots = (size_t)bench->n_sets * cell->requests;
    size_t values_at = shape->latent ? 0 : slots * cell->keys * keys_wide * 2;
    return (AttendLayer){
        .n_heads = shape->n_heads,
        .n_kv_heads = shape->n_kv_heads,
        .key_dim = shape->key_dim,
        .value_dim = shape->value_dim,
        .scale = 1 / sqrtf((float)shape->key_dim),
        .causal = !shape->encoder,
        .window = shape->window,
        .sinks = shape->sinks ? bench->sinks : NULL,
        .cache = {cache, cache + values_at, keys_wide,
                  shape->latent ? keys_wide : (size_t)shape->n_kv_heads * shape->value_dim,
                  cell->keys},
        .query_stride = row_floats(shape)};
}

static AppendLayer append_layer(const AttentionBench *bench)
{
    const AttentionShape *shape = bench->cell->shape;
    return (AppendLayer){.n_heads = shape->n_heads,
                         .n_kv_heads = shape->n_kv_heads,
                         .key_dim = shape->key_dim,
                         .value_dim = shape->value_dim,
                         .q_norm = bench->norm,
                         .k_norm = bench->norm,
                         .norm_eps = 1e-6f,
                         .rotary = ROTARY_HALVES,
                         .rotary_dims = shape->key_dim,
                         .cosine = bench->turns,
                         .sine = bench->turns,
                         .cache = bench->layer.cache};
}

static size_t scratch_bytes(const AttentionBench *bench)
{
    AttentionConfig attention = {.n_heads = bench->cell->shape->n_heads,
                                 .value_dim = bench->cell->shape->value_dim};
    LayerConfig layer = {.attention = attention};
    ModelConfig config = {.n_layers = 1, .layers = &layer};
    const DeviceOptions options = {.config = &config, .compute = COMPUTE_BF16, .max_tokens = 1};
    return ops_scratch_bytes(&options, bench->queue.multiprocessors);
}

static Status take_memory(AttentionBench *bench)
{
    const AttentionCell *cell = bench->cell;
    const AttentionShape *shape = cell->shape;
    size_t slots = (size_t)bench->n_sets * cell->requests;
    size_t tokens = (size_t)cell->requests * cell->tokens;
    size_t turns = (size_t)cell->keys * (shape->key_dim / 2);
    size_t cache_bytes = slots * cache_elements(cell) * 2;
    size_t scratch = scratch_bytes(bench);
    DeviceArena *arena = &bench->arena;
    void *cache;
    TRY(device_arena_open((tokens * row_floats(shape) + out_floats(cell) + turns) * 4 +
                              cache_bytes + scratch + slots * sizeof(Span) + (1 << 20),
                          arena));
    TRY(device_arena_take(arena, tokens * row_floats(shape), 4, &bench->queries));
    TRY(device_arena_take(arena, out_floats(cell), 4, &bench->out));
    TRY(device_arena_take(arena, turns, 4, &bench->turns));
    TRY(device_arena_take(arena, shape->key_dim, 4, &bench->norm));
    TRY(device_arena_take(arena, shape->n_heads, 4, &bench->sinks));
    TRY(device_arena_take(arena, slots, sizeof(Span), &bench->device));
    TRY(device_arena_take(arena, scratch, 1, &bench->queue.scratch));
    TRY(device_arena_take(arena, cache_bytes, 1, &cache));
    bench->queue.scratch_bytes = scratch;
    bench->layer = attend_layer(bench, cache);
    bench->append = append_layer(bench);
    return mem_new(&bench->host, slots, sizeof *bench->host, "benchmark");
}

static Status bench_open(AttentionCell *cell, AttentionBench *bench)
{
    struct cudaDeviceProp properties;
    *bench = (AttentionBench){.cell = cell, .queue = {.compute = COMPUTE_BF16}};
    CUDA_TRY(cudaGetDeviceProperties(&properties, 0));
    bench->queue.multiprocessors = (uint32_t)properties.multiProcessorCount;
    size_t sets = TURN_BYTES / (cell->requests * cache_elements(cell) * 2) + 1;
    bench->n_sets = sets < MAX_SETS ? (uint32_t)sets : MAX_SETS;
    TRY(take_memory(bench));
    lay_out_sets(bench);
    CUDA_TRY(cudaStreamCreateWithFlags(&bench->queue.stream, cudaStreamNonBlocking));
    return fill(bench);
}

static void bench_close(AttentionBench *bench)
{
    mem_free(bench->host);
    if (bench->queue.stream != NULL)
        cudaStreamDestroy(bench->queue.stream);
    if (bench->arena.base != NULL)
        device_arena_close(&bench->arena);
}

/* ---- running ---- */

static Spans spans_of(const AttentionBench *bench, uint32_t set)
{
    const AttentionCell *cell = bench->cell;
    return (Spans){.host = bench->host + (size_t)set * cell->requests,
                   .device = bench->device + (size_t)set * cell->requests,
                   .n = cell->requests,
                   .tokens = cell->requests * cell->tokens,
                   .most_keys = cell->keys};
}

static Status queue_set(const AttentionBench *bench, uint32_t set)
{
    const Spans spans = spans_of(bench, set);
    return ops_attend(&bench->queue, &bench->layer, &spans, bench->queries, bench->out);
}

static Status queue_sets(void *context, cudaStream_t stream)
{
    AttentionBench *bench = context;
    bench->queue.stream = stream;
    for (uint32_t set = 0; set < bench->n_sets; set++)
        TRY(queue_set(bench, set));
    return OK;
}

static Status queue_appends(void *context, cudaStream_t stream)
{
    AttentionBench *bench = context;
    bench->queue.stream = stream;
    for (uint32_t set = 0; set < bench->n_sets; set++) {
        const Spans spans = spans_of(bench, set);
        TRY(ops_append(&bench->queue, &bench->append, &spans, bench->queries));
    }
    return OK;
}

static Status measure_set(AttentionBench *bench, DeviceWork work, double *milliseconds)
{
    TRY(measure_graph(work, bench, REPEATS, bench->queue.stream, milliseconds));
    *milliseconds /= bench->n_sets;
    return OK;
}

/* ---- checking ---- */

static double from_bf16(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return (double)value;
}

/* One row in double precision from the slot's keys and values on the host. */
static void attend_on_host(const AttentionBench *bench, const float *query, const float *sink,
                           uint32_t token, uint32_t head, double *mixed)
{
    const AttendLayer *layer = &bench->layer;
    const AttentionCell *cell = bench->cell;
    uint32_t kv_head = head / (layer->n_heads / layer->n_kv_heads);
    const uint16_t *keys = (const uint16_t *)bench->cache_host + kv_head * layer->key_dim;
    const uint16_t *values = cell->shape->latent ? keys
                                                 : (const uint16_t *)bench->cache_host +
                                                       cell->keys * layer->cache.key_stride +
                                                       kv_head * layer->value_dim;
    uint32_t position = cell->keys - cell->tokens + token;
    uint32_t end = layer->causal ? position + 1 : cell->keys;
    uint32_t first = layer->window > 0 && end > layer->window ? end - layer->window : 0;
    double sum = layer->sinks != NULL ? exp((double)*sink) : 0;
    memset(mixed, 0, MAX_VALUE_DIM * sizeof *mixed);
    for (uint32_t key = first; key < end; key++) {
        double score = 0;
        for (uint32_t i = 0; i < layer->key_dim; i++)
            score += (double)query[i] * from_bf16(keys[key * layer->cache.key_stride + i]);
        double share = exp(score * (double)layer->scale);
        sum += share;
        for (uint32_t i = 0; i < layer->value_dim; i++)
            mixed[i] += share * from_bf16(values[key * layer->cache.value_stride + i]);
    }
    for (uint32_t i = 0; i < layer->value_dim; i++)
        mixed[i] /= sum;
}

/* The cache of request REQUEST of the first set: keys, then values. */
static Status fetch_slot(const AttentionBench *bench, uint32_t request)
{
    const CacheLayer *cache = &bench->layer.cache;
    size_t key_bytes = cache->positions * cache->key_stride * 2;
    size_t value_bytes = cache->positions * cache->value_stride * 2;
    CUDA_TRY(cudaMemcpy(bench->cache_host, (const char *)cache->keys + request * key_bytes,
                        key_bytes, cudaMemcpyDeviceToHost));
    if (!bench->cell->shape->latent)
        CUDA_TRY(cudaMemcpy(bench->cache_host + key_bytes,
                            (const char *)cache->values + request * value_bytes, value_bytes,
                            cudaMemcpyDeviceToHost));
    return OK;
}

static Status check_row(const AttentionBench *bench, uint32_t pick, double squares[2])
{
    const AttentionCell *cell = bench->cell;
    const AttentionShape *shape = cell->shape;
    float query[MAX_KEY_DIM];
    float out[MAX_VALUE_DIM];
    float sink = 0;
    double mixed[MAX_VALUE_DIM];
    uint32_t token = pick == 0 ? 0 : cell->tokens - 1 - pick * 37 % cell->tokens;
    uint32_t head = pick * 11 % shape->n_heads;
    uint32_t request = pick / 6 % cell->requests;
    size_t at = (size_t)request * cell->tokens + token;
    const float *query_at = bench->queries + at * bench->layer.query_stride + head * shape->key_dim;
    const float *out_at = bench->out + (at * shape->n_heads + head) * shape->value_dim;
    if (pick % 6 == 0)
        TRY(fetch_slot(bench, request));
    CUDA_TRY(cudaMemcpy(query, query_at, shape->key_dim * sizeof *query, cudaMemcpyDeviceToHost));
    CUDA_TRY(
        cudaMemcpy(&sink, (const float *)bench->sinks + head, sizeof sink, cudaMemcpyDeviceToHost));
    CUDA_TRY(cudaMemcpy(out, out_at, shape->value_dim * sizeof *out, cudaMemcpyDeviceToHost));
    attend_on_host(bench, query, &sink, token, head, mixed);
    for (uint32_t i = 0; i < shape->value_dim; i++) {
        double difference = (double)out[i] - mixed[i];
        squares[0] += difference * difference;
        squares[1] += mixed[i] * mixed[i];
    }
    return OK;
}

/* Poisons the output, runs, and fetches N floats of it. */
static Status run_to(const AttentionBench *bench, float *to, size_t n)
{
    const AttentionCell *cell = bench->cell;
    CUDA_TRY(cudaMemsetAsync(bench->out, 0xFF, out_floats(cell) * sizeof *to, bench->queue.stream));
    TRY(queue_set(bench, 0));
    CUDA_TRY(cudaMemcpyAsync(to, bench->out, n * sizeof *to, cudaMemcpyDeviceToHost,
                             bench->queue.stream));
    CUDA_TRY(cudaStreamSynchronize(bench->queue.stream));
    return OK;
}

static Status compare(AttentionBench *bench, float *outs, size_t n)
{
    double squares[2] = {0, 0};
    TRY(run_to(bench, outs, n));
    TRY(run_to(bench, outs + n, n));
    bench->cell->repeats = memcmp(outs, outs + n, n * sizeof *outs) == 0;
    for (uint32_t pick = 0; pick < PICKED; pick++)
        TRY(check_row(bench, pick, squares));
    bench->cell->error = sqrt(squares[0] / squares[1]);
    return OK;
}

static Status check(AttentionBench *bench)
{
    const AttentionCell *cell = bench->cell;
    size_t n = out_floats(cell) < COMPARED ? out_floats(cell) : COMPARED;
    float *outs;
    TRY(mem_new(&outs, 2 * n, sizeof *outs, "benchmark"));
    Status status = mem_new(&bench->cache_host, cache_elements(cell), 2, "benchmark");
    if (status == OK)
        status = compare(bench, outs, n);
    mem_free(bench->cache_host);
    mem_free(outs);
    return status;
}

/* ---- all cells ---- */

static Status run_cell(const Ceilings *ceilings, AttentionCell *cell)
{
    AttentionBench bench;
    Status status = bench_open(cell, &bench);
    if (status == OK)
        status = check(&bench);
    if (status == OK)
        status = measure_set(&bench, queue_sets, &cell->milliseconds);
    if (status == OK && !cell->shape->latent)
        status = measure_set(&bench, queue_appends, &cell->append_ms);
    bench_close(&bench);
    set_floor(ceilings, cell);
    return fail_in(status, "%s: %u requests of %u tokens and %u keys", cell->shape->name,
                   cell->requests, cell->tokens, cell->keys);
}

static size_t list_cells(const BenchGpuOptions *options, AttentionCell *cells)
{
    size_t n = 0;
    for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++) {
        const AttentionShape *shape = &SHAPES[s];
        size_t length = strcspn(shape->name, ",");
        if (options->shape != NULL && strcmp(options->shape, shape->name) != 0 &&
            (strlen(options->shape) != length || strncmp(options->shape, shape->name, length) != 0))
            continue;
        for (size_t i = 0; i < sizeof STEPS / sizeof *STEPS; i++)
            if (!shape->encoder || STEPS[i].tokens == STEPS[i].keys)
                cells[n++] = (AttentionCell){.shape = shape,
                                             .requests = STEPS[i].requests,
                                             .tokens = STEPS[i].tokens,
                                             .keys = STEPS[i].keys};
    }
    return n;
}

static Status check_cells(const AttentionCell *cells, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(cells[i].error < MAX_ERROR) || !cells[i].repeats)
            return fail(ERR_MISMATCH, "%s: %u requests of %u tokens and %u keys: error %.4f, %s",
                        cells[i].shape->name, cells[i].requests, cells[i].tokens, cells[i].keys,
                        cells[i].error, cells[i].repeats ? "repeats" : "does not repeat");
    return OK;
}

Status bench_gpu_attention(const BenchGpuOptions *options)
{
    AttentionCell cells[MAX_CELLS];
    Ceilings ceilings = {0};
    size_t n = list_cells(options, cells);
    if (n == 0)
        return fail(ERR_USAGE, "attention: '%s' is no model that is measured", options->shape);
    TRY(ceilings_measure(&ceilings));
    for (size_t i = 0; i < n; i++)
        TRY(run_cell(&ceilings, &cells[i]));
    TRY(options->json ? attention_cells_print_json(options, &ceilings, cells, n)
                      : attention_cells_print(&ceilings, cells, n));
    return check_cells(cells, n);
}
