/* The cache is filled as plain loops on the host say. */
#include "tests/gpu/random_spans.h"

#include <math.h>
#include <string.h>

static void rotate_on_host(RotaryKind kind, uint32_t dims, const float *cosine, const float *sine,
                           float *values)
{
    for (uint32_t i = 0; kind != ROTARY_NONE && i < dims / 2; i++) {
        uint32_t a = kind == ROTARY_HALVES ? i : 2 * i;
        uint32_t b = kind == ROTARY_HALVES ? dims / 2 + i : 2 * i + 1;
        float turned = values[a] * cosine[i] - values[b] * sine[i];
        values[b] = values[b] * cosine[i] + values[a] * sine[i];
        values[a] = turned;
    }
}

static void norm_on_host(const float *weights, uint32_t n, float eps, float *values)
{
    double squares = 0;
    for (uint32_t i = 0; i < n; i++)
        squares += (double)values[i] * (double)values[i];
    float scale = (float)(1 / sqrt(squares / n + (double)eps));
    for (uint32_t i = 0; i < n; i++)
        values[i] *= scale * weights[i];
}

typedef struct {
    AppendLayer layer; /* with the host's pointers */
    Floats q_norm;
    Floats k_norm;
    Floats cosine;
    Floats sine;
    Floats keys;
    Floats values;
} AppendCase;

static void prepare_on_host(const AppendLayer *layer, const float *norm, uint32_t heads,
                            uint32_t position, float *row)
{
    uint32_t dim = layer->key_dim;
    if (norm != NULL && layer->row_norm)
        norm_on_host(norm, heads * dim, layer->norm_eps, row);
    for (uint32_t h = 0; h < heads; h++) {
        float *head = row + h * dim;
        if (norm != NULL && !layer->row_norm)
            norm_on_host(norm, dim, layer->norm_eps, head);
        for (uint32_t i = 0; layer->clip > 0 && i < dim; i++)
            head[i] = fmaxf(fminf(head[i], layer->clip), -layer->clip);
        rotate_on_host(layer->rotary, layer->rotary_dims,
                       layer->cosine + (size_t)position * (layer->rotary_dims / 2),
                       layer->sine + (size_t)position * (layer->rotary_dims / 2), head);
    }
}

static void append_on_host(const AppendLayer *layer, const Spans *spans, float *qkv)
{
    size_t q = (size_t)layer->n_heads * layer->key_dim;
    size_t k = (size_t)layer->n_kv_heads * layer->key_dim;
    size_t v = (size_t)layer->n_kv_heads * layer->value_dim;
    for (uint32_t s = 0; s < spans->n; s++)
        for (uint32_t i = 0; i < spans->host[s].tokens; i++) {
            float *row = qkv + (spans->host[s].first_token + i) * (q + k + v);
            uint32_t position = spans->host[s].position + i;
            size_t place = (size_t)spans->host[s].kv_slot * POSITIONS + position;
            prepare_on_host(layer, layer->q_norm, layer->n_heads, position, row);
            prepare_on_host(layer, layer->k_norm, layer->n_kv_heads, position, row + q);
            float *values = (float *)layer->cache.values + place * v;
            for (uint32_t j = 0; j < v; j++) {
                float value = row[q + k + j];
                values[j] =
                    layer->clip > 0 ? fmaxf(fminf(value, layer->clip), -layer->clip) : value;
            }
            memcpy((float *)layer->cache.keys + place * k, row + q, k * sizeof *row);
        }
}

static AppendCase random_append(uint64_t *state, uint32_t way)
{
    AppendCase c = {
        .layer = {.n_heads = way % 5 == 4 ? 0 : 2 * (1 + way % 3),
                  .n_kv_heads = 1 + way % 2,
                  .key_dim = way % 3 == 2 ? 6 + 2 * random_below(state, 70)
                                          : 64u << random_below(state, 2),
                  .value_dim = random_below(state, 2) == 0 ? 64 : 1 + random_below(state, 140),
                  .row_norm = way % 4 == 1,
                  .norm_eps = 1e-5f,
                  .clip = way % 3 == 0 ? 0.6f : 0,
                  .rotary = (RotaryKind)(way % 3)}};
    AppendLayer *layer = &c.layer;
    uint32_t q = layer->n_heads * layer->key_dim;
    uint32_t k = layer->n_kv_heads * layer->key_dim;
    const uint32_t rotary_dims[] = {layer->key_dim, layer->key_dim, 4, 16};
    layer->rotary_dims = rotary_dims[random_below(state, layer->key_dim >= 16 ? 4 : 3)];
    c.q_norm = gpu_random(state, layer->row_norm ? q + 1 : layer->key_dim, false);
    c.k_norm = gpu_random(state, layer->row_norm ? k : layer->key_dim, false);
    c.cosine = gpu_random(state, (size_t)POSITIONS * (layer->rotary_dims / 2), false);
    c.sine = gpu_random(state, (size_t)POSITIONS * (layer->rotary_dims / 2), false);
    c.keys = gpu_random(state, (size_t)SLOTS * POSITIONS * k, false);
    c.values =
        gpu_random(state, (size_t)SLOTS * POSITIONS * layer->n_kv_heads * layer->value_dim, false);
    layer->q_norm = way % 4 < 2 ? c.q_norm.host : NULL;
    layer->k_norm = way % 4 < 2 ? c.k_norm.host : NULL;
    layer->cosine = c.cosine.host;
    layer->sine = c.sine.host;
    layer->cache = (CacheLayer){c.keys.host, c.values.host, k,
                                (size_t)layer->n_kv_heads * layer->value_dim, POSITIONS};
    return c;
}

static void append_norms_clips_rotates_and_stores(void **unused)
{
    (void)unused;
    uint64_t state = 11;
    for (uint32_t way = 0; way < 120; way += briefest() ? 11 : brief() ? 7 : 1) {
        const OpsQueue queue = gpu_queue(way % 2 == 0 ? COMPUTE_F32 : COMPUTE_BF16);
        const float rounding = queue.compute == COMPUTE_BF16 ? BF16_ROUNDING : 0;
        Span host[MAX_SPANS];
        const Spans spans = random_spans(&state, 1 + way % MAX_SPANS, 20, host);
        AppendCase c = random_append(&state, way);
        size_t width = (size_t)c.layer.n_heads * c.layer.key_dim +
                       (size_t)c.layer.n_kv_heads * (c.layer.key_dim + c.layer.value_dim);
        Floats qkv = gpu_random(&state, spans.tokens * width, false);
        float *before = qkv.host;
        AppendLayer on_device = c.layer;
        on_device.q_norm = c.layer.q_norm != NULL ? c.q_norm.device : NULL;
        on_device.k_norm = c.layer.k_norm != NULL ? c.k_norm.device : NULL;
        on_device.cosine = c.cosine.device;
        on_device.sine = c.sine.device;
        on_device.cache.keys = gpu_elements(&c.keys, queue.compute);
        on_device.cache.values = gpu_elements(&c.values, queue.compute);
        assert_ok(ops_append(&queue, &on_device, &spans, qkv.device));
        append_on_host(&c.layer, &spans, before);
        gpu_assert_elements_near(&queue, queue.compute, on_device.cache.keys, &c.keys,
                                 2e-5f + rounding);
        gpu_assert_elements_near(&queue, queue.compute, on_device.cache.values, &c.values,
                                 1e-6f + rounding);
        for (uint32_t i = 0; i < spans.tokens; i++) {
            const Floats row = {qkv.host + i * width, qkv.device + i * width,
                                (size_t)c.layer.n_heads * c.layer.key_dim};
            gpu_assert_near(&queue, &row, 2e-5f);
        }
        gpu_reset();
    }
}

static void latents_are_normed_and_rotated(void **unused)
{
    (void)unused;
    uint64_t state = 12;
    const uint32_t rank = 50, dims = 12, nope = 7, heads = 3;
    const OpsQueue queue = gpu_queue(COMPUTE_F32);
    for (int kind = ROTARY_HALVES; kind <= ROTARY_INTERLEAVED; kind++) {
        Span host[MAX_SPANS];
        const Spans spans = random_spans(&state, MAX_SPANS, 9, host);
        Floats norm = gpu_random(&state, rank, false);
        Floats cosine = gpu_random(&state, (size_t)POSITIONS * dims / 2, false);
        Floats sine = gpu_random(&state, (size_t)POSITIONS * dims / 2, false);
        Floats keys = gpu_random(&state, (size_t)SLOTS * POSITIONS * (rank + dims), false);
        Floats kv = gpu_random(&state, (size_t)spans.tokens * (rank + dims), false);
        Floats queries = gpu_random(&state, (size_t)spans.tokens * heads * (nope + dims), false);
        Floats absorbed = gpu_random(&state, (size_t)spans.tokens * heads * (rank + dims), false);
        const LatentLayer layer = {
            .n_heads = heads,
            .nope_dim = nope,
            .kv_rank = rank,
            .latent_norm = {.kind = NORM_RMS, .eps = 1e-6f, .weight = norm.device},
            .rotary = (RotaryKind)kind,
            .rotary_dims = dims,
            .cosine = cosine.device,
            .sine = sine.device,
            .cache = {keys.device, keys.device, rank + dims, rank + dims, POSITIONS}};
        for (uint32_t s = 0; s < spans.n; s++)
            for (uint32_t i = 0; i < host[s].tokens; i++) {
                size_t token = host[s].first_token + i;
                size_t position = host[s].position + i;
                float *key =
                    keys.host + ((size_t)host[s].kv_slot * POSITIONS + position) * (rank + dims);
                memcpy(key, kv.host + token * (rank + dims), (rank + dims) * sizeof *key);
                norm_on_host(norm.host, rank, 1e-6f, key);
                rotate_on_host(layer.rotary, dims, cosine.host + position * dims / 2,
                               sine.host + position * dims / 2, key + rank);
                for (size_t h = token * heads; h < (token + 1) * heads; h++) {
                    float *to = absorbed.host + h * (rank + dims) + rank;
                    memcpy(to, queries.host + h * (nope + dims) + nope, dims * sizeof *to);
                    rotate_on_host(layer.rotary, dims, cosine.host + position * dims / 2,
                                   sine.host + position * dims / 2, to);
                }
            }
        assert_ok(
            ops_append_latent(&queue, &layer, &spans, kv.device, queries.device, absorbed.device));
        gpu_assert_near(&queue, &keys, 2e-5f);
        gpu_assert_near(&queue, &absorbed, 1e-5f);
        gpu_reset();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(append_norms_clips_rotates_and_stores),
        cmocka_unit_test(latents_are_normed_and_rotated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
