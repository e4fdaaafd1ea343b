/* The cache is attended to as plain loops on the host say. */
#include "tests/gpu/random_spans.h"

#include <math.h>
#include <string.h>

enum { MAX_CHECKED = 100, MOST_PADDING = 402 };

/* One head of one token, from the host's arrays. */
static void attend_row_on_host(const AttendLayer *layer, const Span *span, uint32_t token,
                               uint32_t head, const float *queries, float *out)
{
    uint32_t position = span->position + token;
    uint32_t first =
        layer->window > 0 && position + 1 > layer->window ? position + 1 - layer->window : 0;
    uint32_t end = layer->causal ? position + 1 : span->keys;
    uint32_t kv_head = head / (layer->n_heads / layer->n_kv_heads);
    const float *query =
        queries + (span->first_token + token) * layer->query_stride + (size_t)head * layer->key_dim;
    double sum = layer->sinks != NULL ? exp((double)layer->sinks[head]) : 0;
    double mixed[512] = {0};
    for (uint32_t key = first; key < end; key++) {
        size_t place = (size_t)span->kv_slot * POSITIONS + key;
        const float *k = (const float *)layer->cache.keys + place * layer->cache.key_stride +
                         kv_head * layer->key_dim;
        const float *v = (const float *)layer->cache.values + place * layer->cache.value_stride +
                         kv_head * layer->value_dim;
        double score = 0;
        for (uint32_t i = 0; i < layer->key_dim; i++)
            score += (double)query[i] * (double)k[i];
        score *= (double)layer->scale;
        if (layer->relative_bias != NULL)
            score +=
                (double)layer
                    ->relative_bias[head * (2 * POSITIONS - 1) + POSITIONS - 1 + key - position];
        sum += exp(score);
        for (uint32_t i = 0; i < layer->value_dim; i++)
            mixed[i] += exp(score) * (double)v[i];
    }
    for (uint32_t i = 0; i < layer->value_dim; i++)
        out[i] = (float)(mixed[i] / sum);
}

typedef struct {
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t key_dim;
    uint32_t value_dim;
    bool latent;
} HeadShape;

/* One call of attend, on both sides. */
typedef struct {
    AttendLayer layer; /* with the host's pointers */
    Spans spans;
    Span host[MAX_SPANS];
    Floats keys;
    Floats values;
    Floats sinks;
    Floats bias;
    Floats queries;
    size_t outputs;
} AttendCase;

/* Makes numbers of those positions that no span has keys at: they must not matter. */
static void spoil_unused(const AttendCase *c)
{
    const CacheLayer *cache = &c->layer.cache;
    for (uint32_t s = 0; s < c->spans.n; s++)
        for (uint32_t p = c->host[s].keys; p < POSITIONS; p++) {
            size_t place = (size_t)c->host[s].kv_slot * POSITIONS + p;
            for (size_t i = 0; i < cache->key_stride; i++)
                c->keys.host[place * cache->key_stride + i] = NAN;
            for (size_t i = 0; i < cache->value_stride; i++)
                c->values.host[place * cache->value_stride + i] = NAN;
        }
}

/* WAY chooses: one token or many; a sliding window, sinks or a relative bias; what a decoder, an
 * encoder or a cross attention sees. */
static void make_case(ComputeType compute, HeadShape shape, uint32_t way, uint64_t *state,
                      AttendCase *c)
{
    const uint32_t usual_tokens[] = {1, 70, shape.n_heads > 32 ? 100 : 400};
    const uint32_t brief_tokens[] = {1, 20, shape.n_heads > 8 ? 24 : 140};
    const uint32_t briefest_tokens[] = {1, 9, shape.n_heads > 8 ? 24 : 40};
    const uint32_t *most_tokens = briefest() ? briefest_tokens
                                  : brief()  ? brief_tokens
                                             : usual_tokens;
    bool rounds = compute == COMPUTE_BF16;
    bool causal = way % 4 != 3;
    size_t keys_wide = (size_t)shape.n_kv_heads * shape.key_dim;
    size_t values_wide = shape.latent ? keys_wide : (size_t)shape.n_kv_heads * shape.value_dim;
    c->spans = random_spans(state, 1 + way % MAX_SPANS, most_tokens[way % 3], c->host);
    for (uint32_t s = 0; !causal && s < c->spans.n; s++)
        c->host[s].keys = 1 + random_below(state, POSITIONS);
    c->spans.most_keys = POSITIONS;
    c->spans.device = gpu_upload(c->host, c->spans.n * sizeof *c->host);
    c->keys = gpu_random(state, SLOTS * POSITIONS * keys_wide, rounds);
    c->values = shape.latent ? c->keys : gpu_random(state, SLOTS * POSITIONS * values_wide, rounds);
    c->sinks = gpu_random(state, shape.n_heads, false);
    c->bias = gpu_random(state, (size_t)shape.n_heads * (2 * POSITIONS - 1), false);
    c->layer = (AttendLayer){
        .n_heads = shape.n_heads,
        .n_kv_heads = shape.n_kv_heads,
        .key_dim = shape.key_dim,
        .value_dim = shape.value_dim,
        .scale = 2 / sqrtf((float)shape.key_dim),
        .causal = causal,
        .window = causal && way % 5 == 2 ? 137 : 0,
        .sinks = way % 3 == 1 ? c->sinks.host : NULL,
        .relative_bias = way % 7 == 4 ? c->bias.host : NULL,
        .cache = {c->keys.host, c->values.host, keys_wide, values_wide, POSITIONS},
        .query_stride = (size_t)shape.n_heads * shape.key_dim + (shape.latent ? 0 : 8)};
    c->queries =
        gpu_random(state, (c->spans.tokens + MOST_PADDING) * c->layer.query_stride, rounds);
    c->outputs = (size_t)c->spans.tokens * shape.n_heads * shape.value_dim;
    spoil_unused(c);
}

/* What the device makes of the case, twice the same (in a briefest test once); its SPANS may be
 * larger than the case's. */
static const float *attend_on_device(const OpsQueue *queue, const AttendCase *c, const Spans *spans)
{
    AttendLayer layer = c->layer;
    size_t n = (size_t)spans->tokens * layer.n_heads * layer.value_dim;
    Floats out = gpu_result(n);
    Floats again = gpu_result(n);
    bool latent = layer.cache.values == layer.cache.keys;
    layer.cache.keys = queue->compute == COMPUTE_BF16
                           ? gpu_elements(&c->keys, queue->compute)
                           : gpu_upload(c->keys.host, c->keys.n * sizeof(float));
    layer.cache.values = latent ? layer.cache.keys
                         : queue->compute == COMPUTE_BF16
                             ? gpu_elements(&c->values, queue->compute)
                             : gpu_upload(c->values.host, c->values.n * sizeof(float));
    layer.sinks = layer.sinks != NULL ? c->sinks.device : NULL;
    layer.relative_bias = layer.relative_bias != NULL ? c->bias.device : NULL;
    assert_ok(ops_attend(queue, &layer, spans, c->queries.device, out.device));
    if (!briefest()) {
        assert_ok(ops_attend(queue, &layer, spans, c->queries.device, again.device));
        gpu_assert_same(queue, out.device, again.device, c->outputs);
    }
    return gpu_read(queue, out.device, c->outputs);
}

/* GOT against double precision, about MAX_CHECKED rows of it; all of it is numbers. */
static void check_rows(const AttendCase *c, const float *got, float tolerance)
{
    const AttendLayer *layer = &c->layer;
    float expected[512];
    uint32_t stride = c->spans.tokens * layer->n_heads / MAX_CHECKED | 1; /* all heads */
    for (size_t i = 0; i < c->outputs; i++)
        if (!isfinite(got[i]))
            fail_msg("element %zu of %zu was not written, or is no number", i, c->outputs);
    for (uint32_t s = 0; s < c->spans.n; s++) {
        const Span *span = &c->host[s];
        for (uint32_t row = 0; row < span->tokens * layer->n_heads; row += stride) {
            uint32_t token = row / layer->n_heads;
            uint32_t head = row % layer->n_heads;
            size_t at = ((size_t)(span->first_token + token) * layer->n_heads + head);
            attend_row_on_host(layer, span, token, head, c->queries.host, expected);
            for (uint32_t i = 0; i < layer->value_dim; i++)
                if (!(fabsf(got[at * layer->value_dim + i] - expected[i]) <= tolerance))
                    fail_msg("%u heads of %u: span %u of %u tokens, %u keys: token %u, head %u, "
                             "element %u: %g, not %g",
                             layer->n_heads, layer->key_dim, s, span->tokens, span->keys, token,
                             head, i, (double)got[at * layer->value_dim + i], (double)expected[i]);
        }
    }
}

static void check_attend(ComputeType compute, HeadShape shape, uint32_t way, uint64_t *state)
{
    AttendCase c = {0};
    OpsQueue queue = gpu_queue(compute);
    if (brief() && way % 2 == 1)
        queue.multiprocessors = 3; /* whose blocks take several tiles each */
    make_case(compute, shape, way, state, &c);
    /* Inputs are bf16 numbers, values below 1: rounding the shares moves their mean by half of
     * 2^-8 of it at the most. */
    check_rows(&c, attend_on_device(&queue, &c, &c.spans), compute == COMPUTE_BF16 ? 4e-3f : 2e-5f);
    gpu_reset();
}

/* What attend_mixed() makes of the case on the device, rounded. */
static void check_mixed(HeadShape shape, uint32_t way, uint64_t *state)
{
    AttendCase c = {0};
    const OpsQueue queue = gpu_queue(COMPUTE_BF16);
    make_case(COMPUTE_BF16, shape, way, state, &c);
    AttendLayer layer = c.layer;
    Floats out = gpu_result(c.outputs);
    Floats mixed = gpu_result(c.outputs);
    layer.cache.keys = gpu_elements(&c.keys, COMPUTE_BF16);
    layer.cache.values = gpu_elements(&c.values, COMPUTE_BF16);
    layer.sinks = layer.sinks != NULL ? c.sinks.device : NULL;
    layer.relative_bias = layer.relative_bias != NULL ? c.bias.device : NULL;
    assert_ok(ops_attend(&queue, &layer, &c.spans, c.queries.device, out.device));
    assert_ok(ops_attend_mixed(&queue, &layer, &c.spans, c.queries.device, mixed.device));
    memcpy(out.host, gpu_read(&queue, out.device, c.outputs), c.outputs * sizeof *out.host);
    gpu_assert_elements_near(&queue, COMPUTE_BF16, mixed.device, &out, BF16_ROUNDING);
    gpu_reset();
}

static const HeadShape SHAPES[] = {
    {8, 1, 64, 64, false},   {4, 4, 128, 128, false},  {16, 2, 128, 64, false},
    {5, 1, 40, 72, false},   {24, 1, 24, 16, false},   {2, 2, 7, 9, false},
    {2, 1, 192, 128, false}, {32, 4, 128, 128, false}, {16, 16, 64, 64, false},
    {144, 1, 64, 64, false}, {6, 2, 96, 96, false},    {3, 1, 576, 512, true},
    {16, 1, 576, 512, true}, {80, 1, 576, 512, true},  {3, 1, 200, 256, false}};

enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

/* N of the 12 ways, other ones for the next shape; a shape's have different numbers of tokens. */
static bool is_brief_way(size_t shape, uint32_t way, uint32_t n)
{
    uint32_t first = (uint32_t)shape * (n == 1 ? 2 : 5) % 12;
    return (way + 12 - first) % 12 < n;
}

/* All cases of a briefest test, and some of a brief one: each kernel, with many blocks and with
 * few, in parts and whole. */
static const struct {
    uint8_t shape;
    uint8_t way;
    bool f32;
} BRIEFEST[] = {{0, 2, true},   {1, 1, true},   {12, 0, true},  {14, 4, true},  {5, 0, false},
                {6, 2, false},  {14, 1, false}, {11, 4, false}, {0, 0, false},  {0, 3, false},
                {7, 6, false},  {7, 9, false},  {8, 3, false},  {4, 1, false},  {0, 5, false},
                {0, 11, false}, {7, 2, false},  {7, 4, false},  {7, 11, false}, {9, 2, false},
                {12, 2, false}, {13, 1, false}, {11, 0, false}, {1, 8, false},  {2, 10, false}};

static void attention_is_the_softmax_over_what_a_token_sees(void **unused)
{
    (void)unused;
    uint64_t state = 13;
    for (size_t i = 0; i < sizeof BRIEFEST / sizeof *BRIEFEST && brief(); i++)
        check_attend(BRIEFEST[i].f32 ? COMPUTE_F32 : COMPUTE_BF16, SHAPES[BRIEFEST[i].shape],
                     BRIEFEST[i].way, &state);
    for (size_t c = 0; c < 2 && !briefest(); c++)
        for (size_t s = 0; s < N_SHAPES; s++)
            for (uint32_t way = c; way < 12; way += 2 - (uint32_t)c)
                if (!brief() || is_brief_way(s, way, c == 0 ? 1 : 2))
                    check_attend(c == 0 ? COMPUTE_F32 : COMPUTE_BF16, SHAPES[s], way, &state);
}

static void mixed_values_are_what_attention_gives_rounded(void **unused)
{
    (void)unused;
    static const HeadShape shapes[] = {{8, 1, 64, 64, false},    {4, 4, 128, 128, false},
                                       {32, 4, 128, 128, false}, {5, 1, 40, 72, false},
                                       {2, 2, 7, 9, false},      {16, 2, 128, 64, false}};
    uint64_t state = 15;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (uint32_t way = 0; way < 12; way++)
            if (!brief() || (is_brief_way(s, way, 2) && !(briefest() && s > 1)))
                check_mixed(shapes[s], way, &state);
}

/* A captured step is sized by what it may hold; replayed, its spans may hold less. */
static void attention_of_a_larger_step_is_the_same(void **unused)
{
    (void)unused;
    uint64_t state = 14;
    const OpsQueue queue = gpu_queue(COMPUTE_BF16);
    for (size_t s = 0; s < N_SHAPES; s++)
        for (uint32_t way = 0; way < 3; way++) {
            AttendCase c = {0};
            Span padded[MAX_SPANS + 2];
            if (brief() && (way != s % 3 || (briefest() && s % 5 != 0)))
                continue;
            make_case(COMPUTE_BF16, SHAPES[s], way, &state, &c);
            memset(padded, 0, sizeof padded);
            memcpy(padded, c.host, c.spans.n * sizeof *padded);
            for (uint32_t i = c.spans.n; i < MAX_SPANS + 2; i++)
                padded[i].first_token = c.spans.tokens;
            Spans larger = c.spans;
            larger.n = MAX_SPANS + 2;
            larger.tokens += MOST_PADDING - 200 * way;
            larger.device = gpu_upload(padded, sizeof padded);
            check_rows(&c, attend_on_device(&queue, &c, &larger), 4e-3f);
            gpu_reset();
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_the_softmax_over_what_a_token_sees),
        cmocka_unit_test(mixed_values_are_what_attention_gives_rounded),
        cmocka_unit_test(attention_of_a_larger_step_is_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
