/* On the flattened stream (order serial, one pool for the device) ARC and S3-FIFO miss exactly what
 * a general cache simulator's do, and policies that count what scans over all experts would. */
#include "base/status.h" /* before cmocka, which has a macro called fail */
#include "tests/import_maker.h"
#include "tests/reference_counts.h"
#include "tests/reference_flat.h"

#include <math.h>

#include "sim/replay.h"

enum { LAYERS = 6, EXPERTS = 64, TOP_K = 4, TOKENS = 2500 };

static bool is_among(const uint16_t *experts, uint32_t n, uint16_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

/* An expert by its rank's power, another ranking in each layer; the larger SKEW, the more uneven.
 */
static uint16_t draw_expert(uint64_t *state, uint32_t layer, double skew)
{
    double unit = (double)(random_next(state) >> 11) * 0x1p-53;
    uint32_t rank = (uint32_t)(EXPERTS * pow(unit, skew));
    return (uint16_t)((rank * 37 + layer * 11) % EXPERTS);
}

/* Some of a token's experts are those of the one before. */
static void route(uint64_t *state, uint32_t layer, double skew, uint16_t *experts)
{
    uint16_t next[TOP_K];
    uint32_t n = 0;
    for (uint32_t i = 0; i < TOP_K; i++)
        if (random_below(state, 5) < 2 && !is_among(next, n, experts[i]))
            next[n++] = experts[i];
    while (n < TOP_K) {
        uint16_t expert = draw_expert(state, layer, skew);
        if (!is_among(next, n, expert))
            next[n++] = expert;
    }
    memcpy(experts, next, sizeof next);
}

static PackedTrace make_trace(uint64_t seed, double skew)
{
    PackedTrace trace;
    TraceLayer layers[LAYERS] = {0};
    const uint32_t zero = 0;
    static uint16_t experts[LAYERS][TOP_K];
    for (uint32_t i = 0; i < LAYERS; i++)
        layers[i] = (TraceLayer){.layer = i, .experts = EXPERTS, .top_k = TOP_K, .expert_bytes = 1};
    assert_ok(packed_trace_new(layers, LAYERS, &trace));
    for (uint32_t token = 0; token < TOKENS; token++) {
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            route(&seed, layer, skew, experts[layer]);
        const TraceStep step = {.step = token,
                                .phase = PHASE_DECODE,
                                .tokens = 1,
                                .request = &zero,
                                .position = &token,
                                .experts = experts[0]};
        assert_ok(packed_trace_add_step(&trace, &step));
    }
    return trace;
}

static uint64_t misses_of_replay(const PackedTrace *trace, const char *evict, uint32_t slots)
{
    ReplayFuture future = {0};
    ReplayResult result;
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.order = ORDER_SERIAL;
    plan.buffer.scope = SCOPE_DEVICE;
    plan.buffer.slots = slots;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", evict);
    assert_ok(replay_prepare(trace, &plan, &future));
    assert_ok(replay_run(trace, &plan, &future, NULL, NULL, &result));
    replay_future_free(&future);
    uint64_t misses = result.total.counts.misses;
    replay_result_free(&result);
    return misses;
}

/* The lookups of TRACE in their order, on the heap; their number goes to *N. */
static uint32_t *flatten(const PackedTrace *trace, uint64_t *n)
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    uint32_t *items = malloc(trace->n_lookups * sizeof *items);
    *n = 0;
    assert_non_null(items);
    while (packed_next(&cursor, &event))
        for (uint32_t i = 0; i < event.n_active; i++)
            items[(*n)++] = event.layer_index * trace->layers[0].experts + event.experts[i];
    return items;
}

/* [N] places of the lookups that come next for the same item, UINT64_MAX for a last one; on the
 * heap. */
static uint64_t *next_places(const uint32_t *items, uint64_t n, uint32_t n_items)
{
    uint64_t *next = calloc(n, sizeof *next);
    uint64_t *seen = malloc(n_items * sizeof *seen);
    assert_true(next && seen);
    for (uint32_t i = 0; i < n_items; i++)
        seen[i] = UINT64_MAX;
    for (uint64_t i = n; i-- > 0;) {
        next[i] = seen[items[i]];
        seen[items[i]] = i;
    }
    free(seen);
    return next;
}

static uint64_t misses_of_stream(const PackedTrace *trace, uint32_t slots,
                                 bool (*look_up)(FlatCache *cache, uint32_t item))
{
    uint64_t n, misses = 0;
    uint32_t n_items = trace->n_layers * trace->layers[0].experts;
    uint32_t *items = flatten(trace, &n);
    uint64_t *next = next_places(items, n, n_items);
    FlatCache cache = flat_cache(n_items, slots);
    for (uint64_t i = 0; i < n; i++) {
        misses += !look_up(&cache, items[i]);
        cache.next_use[items[i]] = next[i];
    }
    flat_free(&cache);
    free(next);
    free(items);
    return misses;
}

static void compare(const PackedTrace *trace, uint32_t slots)
{
    static const struct {
        const char *evict;
        bool (*look_up)(FlatCache *cache, uint32_t item);
    } POLICIES[] = {{"fifo", flat_fifo_look_up},   {"lru", flat_lru_look_up},
                    {"mru", flat_mru_look_up},     {"clock", flat_clock_look_up},
                    {"sieve", flat_sieve_look_up}, {"belady-admit", flat_belady_look_up},
                    {"arc", flat_arc_look_up},     {"s3-fifo", flat_s3_look_up}};
    for (size_t i = 0; i < sizeof POLICIES / sizeof POLICIES[0]; i++) {
        uint64_t ours = misses_of_replay(trace, POLICIES[i].evict, slots);
        uint64_t wanted = misses_of_stream(trace, slots, POLICIES[i].look_up);
        if (ours != wanted)
            fail_msg("%s, %u slots: %u misses, wanted %u", POLICIES[i].evict, slots, (unsigned)ours,
                     (unsigned)wanted);
    }
}

static uint64_t misses_of_counts(const PackedTrace *trace, uint32_t slots,
                                 CountedGoesFirst goes_first)
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    uint32_t experts = trace->layers[0].experts;
    uint64_t misses = 0;
    CountedCache cache = {.n_items = trace->n_layers * experts, .capacity = slots};
    cache.items = calloc(cache.n_items, sizeof *cache.items);
    assert_non_null(cache.items);
    while (packed_next(&cursor, &event))
        for (uint32_t i = 0; i < event.n_active; i++)
            misses += !counted_look_up(&cache, event.layer_index * experts + event.experts[i],
                                       goes_first);
    free(cache.items);
    return misses;
}

static void counts_choose_what_scans_choose(void **unused)
{
    (void)unused;
    static const struct {
        const char *evict;
        CountedGoesFirst goes_first;
    } POLICIES[] = {{"lfu", counted_lfu},
                    {"lfu-resident", counted_lfu_resident},
                    {"lfu-aged", counted_lfu_aged},
                    {"cost-aware", counted_cost_aware}};
    static const uint32_t SLOTS[] = {20, 65, 100, 150, 220, 300};
    for (uint64_t seed = 0; seed < 3; seed++) {
        PackedTrace trace = make_trace(seed, 1 + (double)seed);
        for (size_t i = 0; i < sizeof POLICIES / sizeof POLICIES[0]; i++)
            for (size_t j = 0; j < sizeof SLOTS / sizeof SLOTS[0]; j++) {
                uint64_t ours = misses_of_replay(&trace, POLICIES[i].evict, SLOTS[j]);
                uint64_t wanted = misses_of_counts(&trace, SLOTS[j], POLICIES[i].goes_first);
                if (ours != wanted)
                    fail_msg("%s, %u slots: %u misses, wanted %u", POLICIES[i].evict, SLOTS[j],
                             (unsigned)ours, (unsigned)wanted);
            }
        packed_trace_free(&trace);
    }
}

/* All experts but one are looked up once, that one for long, and then some at random: more than a
 * policy has near are so old that their ages are nearly the same. */
static PackedTrace make_aged_trace(uint32_t experts, uint32_t wait)
{
    PackedTrace trace;
    const TraceLayer layer = {.experts = experts, .top_k = 1, .expert_bytes = 1};
    const uint32_t zero = 0;
    uint64_t state = experts;
    assert_ok(packed_trace_new(&layer, 1, &trace));
    for (uint32_t i = 0; i < 3 * experts + wait; i++) {
        bool waits = i >= experts && i < experts + wait;
        uint16_t expert = (uint16_t)(waits ? experts - 1 : i);
        if (i >= experts + wait)
            expert = (uint16_t)random_below(&state, experts);
        const TraceStep step = {.step = i,
                                .phase = PHASE_DECODE,
                                .tokens = 1,
                                .request = &zero,
                                .position = &i,
                                .experts = &expert};
        assert_ok(packed_trace_add_step(&trace, &step));
    }
    return trace;
}

static void lfu_aged_tells_ages_apart_that_are_nearly_the_same(void **unused)
{
    (void)unused;
    static const uint32_t SLOTS[] = {60, 100, 400, 900};
    for (uint32_t wait = 0; wait < 1000000; wait = 10 * wait + 1000) {
        PackedTrace trace = make_aged_trace(1000, wait);
        for (size_t i = 0; i < sizeof SLOTS / sizeof SLOTS[0]; i++)
            assert_int_equal(misses_of_replay(&trace, "lfu-aged", SLOTS[i]),
                             misses_of_counts(&trace, SLOTS[i], counted_lfu_aged));
        packed_trace_free(&trace);
    }
}

static void drawn_streams_miss_as_published(void **unused)
{
    (void)unused;
    static const uint32_t SLOTS[] = {20, 37, 50, 96, 150, 192, 290};
    static const double SKEWS[] = {1, 2, 3.5};
    for (size_t i = 0; i < sizeof SKEWS / sizeof SKEWS[0]; i++) {
        PackedTrace trace = make_trace(i, SKEWS[i]);
        for (size_t j = 0; j < sizeof SLOTS / sizeof SLOTS[0]; j++)
            compare(&trace, SLOTS[j]);
        packed_trace_free(&trace);
    }
}

/* The first steps of the trace at PATH. */
static PackedTrace read_trace(const char *path, uint32_t steps)
{
    TraceReader *reader;
    PackedTrace trace;
    TraceStep step;
    uint32_t n_layers;
    assert_ok(trace_reader_open(path, &reader));
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    assert_ok(packed_trace_new(layers, n_layers, &trace));
    for (uint32_t i = 0; i < steps && trace_reader_next_step(reader, &step) == OK; i++)
        assert_ok(packed_trace_add_step(&trace, &step));
    trace_reader_close(reader);
    return trace;
}

static void compare_file(const char *name, ImportFormat format, const char *out)
{
    char path[600];
    ImportReport report;
    const char *shared = getenv("MOEBIUS_SHARED");
    snprintf(path, sizeof path, "%s/traces/%s", shared != NULL ? shared : "../shared", name);
    if (!file_exists(path))
        skip();
    const ImportOptions options = {.from = format, .path = path, .out = scratch_name(out)};
    assert_ok(trace_import(&options, &report));
    PackedTrace trace = read_trace(options.out, 400);
    uint32_t items = trace.n_layers * trace.layers[0].experts;
    for (uint32_t part = 2; part <= 8; part *= 2)
        compare(&trace, items / part);
    packed_trace_free(&trace);
}

static void decoding_of_gpt_oss_misses_as_published(void **unused)
{
    (void)unused;
    compare_file("gpt-oss-20b-decode/routes.npy", IMPORT_NPY, "decode.db");
}

static void an_engines_route_trace_misses_as_published(void **unused)
{
    (void)unused;
    compare_file("bigmoe-on-edge/gptoss.route.csv", IMPORT_BIGMOE_CSV, "edge.db");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_choose_what_scans_choose),
        cmocka_unit_test(lfu_aged_tells_ages_apart_that_are_nearly_the_same),
        cmocka_unit_test(drawn_streams_miss_as_published),
        cmocka_unit_test(decoding_of_gpt_oss_misses_as_published),
        cmocka_unit_test(an_engines_route_trace_misses_as_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
