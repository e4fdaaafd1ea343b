/* Routing that no router chose: skews, and traces laid over larger runs. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "exec/routing_source.h"
#include "tests/cli_run.h"
#include "traces/reader.h"
#include "traces/recorder.h"

static CliRun run;

static RoutingSource *open_source(const char *text, const TraceLayer *layers, uint32_t n,
                                  uint64_t seed)
{
    RoutingSource *source;
    assert_ok(routing_source_open(text, layers, n, seed, &source));
    assert_non_null(source);
    return source;
}

/* ---- skews ---- */

enum { DRAWS = 20000 };

static void draws_are_distinct_experts_of_the_layer(void **unused)
{
    (void)unused;
    static const char *const TEXTS[] = {"uniform", "zipf:0.8", "zipf:16"};
    static const TraceLayer LAYERS[] = {{.layer = 0, .experts = 8, .top_k = 8},
                                        {.layer = 1, .experts = 300, .top_k = 6}};
    for (size_t t = 0; t < sizeof TEXTS / sizeof *TEXTS; t++) {
        RoutingSource *source = open_source(TEXTS[t], LAYERS, 2, 5);
        for (uint32_t position = 0; position < 200; position++) {
            uint16_t experts[14];
            unsigned char seen[2][300] = {0};
            routing_source_fill(source, STACK_DECODER, 1, &(uint32_t){3}, &position, experts);
            for (uint32_t i = 0; i < 14; i++) {
                uint32_t l = i < 8 ? 0 : 1;
                assert_true(experts[i] < LAYERS[l].experts);
                assert_int_equal(seen[l][experts[i]]++, 0);
            }
        }
        routing_source_close(source);
    }
}

/* A step of two requests' tokens, some of which lie beyond what was drawn ahead. */
static void fill_mixed_step(const RoutingSource *source, Stack stack, uint16_t experts[9 * 8])
{
    static const uint32_t REQUEST[] = {0, 0, 0, 1, 1, 2, 2, 2, 7};
    static const uint32_t POSITION[] = {0, 1, 2, 4, 5, 9, 10, 11, 0};
    memset(experts, 0xEE, 9 * 8 * sizeof *experts);
    routing_source_fill(source, stack, 9, REQUEST, POSITION, experts);
}

static void draws_made_ahead_are_those_made_when_they_are_needed(void **unused)
{
    (void)unused;
    static const TraceLayer LAYERS[] = {
        {.layer = 0, .stack = STACK_ENCODER, .experts = 9, .top_k = 2},
        {.layer = 1, .experts = 8, .top_k = 3},
        {.layer = 2, .experts = 300, .top_k = 5}};
    static const uint32_t LENGTH[] = {3, 5, 11, 0};
    static const uint32_t SHORTER[] = {1, 7};
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++) {
        uint16_t wanted[9 * 8];
        uint16_t experts[9 * 8];
        RoutingSource *source = open_source("zipf:1", LAYERS, 3, 5);
        fill_mixed_step(source, stack, wanted);
        assert_ok(routing_source_draw_ahead(source, LENGTH, 4));
        fill_mixed_step(source, stack, experts);
        assert_memory_equal(experts, wanted, sizeof wanted);
        int64_t blocks = mem_live_blocks();
        assert_ok(routing_source_draw_ahead(source, SHORTER, 2));
        assert_int_equal(mem_live_blocks(), blocks);
        fill_mixed_step(source, stack, experts);
        assert_memory_equal(experts, wanted, sizeof wanted);
        routing_source_close(source);
    }
}

/* Share of DRAWS single choices that each expert of a layer got. */
static void count_shares(const char *text, uint32_t experts, uint64_t seed, double *shares)
{
    const TraceLayer layer = {.experts = experts, .top_k = 1};
    RoutingSource *source = open_source(text, &layer, 1, seed);
    memset(shares, 0, experts * sizeof *shares);
    for (uint32_t i = 0; i < DRAWS; i++) {
        uint16_t expert;
        routing_source_fill(source, STACK_DECODER, 1, &(uint32_t){i % 7}, &i, &expert);
        shares[expert] += 1.0 / DRAWS;
    }
    routing_source_close(source);
}

static int compare_down(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x < y) - (x > y);
}

static void shares_follow_the_named_law(void **unused)
{
    (void)unused;
    enum { EXPERTS = 16 };
    static const struct {
        const char *text;
        double s;
    } CASES[] = {{"uniform", 0}, {"zipf:0", 0}, {"zipf:1", 1}, {"zipf:1.5", 1.5}};
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        double shares[EXPERTS];
        double sum = 0;
        count_shares(CASES[c].text, EXPERTS, 11, shares);
        qsort(shares, EXPERTS, sizeof *shares, compare_down);
        for (int r = 1; r <= EXPERTS; r++)
            sum += pow(r, -CASES[c].s);
        for (int r = 1; r <= EXPERTS; r++) {
            double wanted = pow(r, -CASES[c].s) / sum;
            assert_true(fabs(shares[r - 1] - wanted) < 4 * sqrt(wanted / DRAWS));
        }
    }
}

/* Without replacement: the second choice has the law of what the first left. Even where the first
 * place takes nearly all, and rejecting would never end. */
static void second_choices_are_those_of_the_rest(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        double s;
    } CASES[] = {{"zipf:1", 1}, {"zipf:6", 6}};
    for (size_t c = 0; c < 2; c++) {
        const TraceLayer layer = {.experts = 4, .top_k = 4};
        RoutingSource *source = open_source(CASES[c].text, &layer, 1, 3);
        double counts[4][4] = {{0}};
        double firsts[4] = {0};
        for (uint32_t i = 0; i < DRAWS; i++) {
            uint16_t experts[4];
            routing_source_fill(source, STACK_DECODER, 1, &(uint32_t){0}, &i, experts);
            firsts[experts[0]]++;
            counts[experts[0]][experts[1]]++;
        }
        uint32_t order[4] = {0, 1, 2, 3}; /* by how often they came first */
        for (int i = 0; i < 4; i++)
            for (int j = i + 1; j < 4; j++)
                if (firsts[order[j]] > firsts[order[i]]) {
                    uint32_t swap = order[i];
                    order[i] = order[j];
                    order[j] = swap;
                }
        double rest = pow(2, -CASES[c].s) + pow(3, -CASES[c].s) + pow(4, -CASES[c].s);
        double share = counts[order[0]][order[1]] / firsts[order[0]];
        assert_true(fabs(share - pow(2, -CASES[c].s) / rest) < 0.02);
        routing_source_close(source);
    }
}

static void layers_and_seeds_have_their_own_favourites(void **unused)
{
    (void)unused;
    double first[64];
    double second[64];
    double alike = 0;
    count_shares("zipf:1.2", 64, 1, first);
    count_shares("zipf:1.2", 64, 2, second);
    for (int e = 0; e < 64; e++)
        alike += fmin(first[e], second[e]);
    assert_true(alike < 0.8);
    static const TraceLayer LAYERS[2] = {{.experts = 64, .top_k = 1}, {.experts = 64, .top_k = 1}};
    RoutingSource *source = open_source("zipf:1.2", LAYERS, 2, 1);
    uint32_t same = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        uint16_t experts[2];
        routing_source_fill(source, STACK_DECODER, 1, &(uint32_t){0}, &i, experts);
        same += experts[0] == experts[1];
    }
    assert_true(same < 150);
    routing_source_close(source);
}

static void a_token_goes_the_same_way_in_any_batch(void **unused)
{
    (void)unused;
    static const TraceLayer LAYERS[2] = {{.experts = 32, .top_k = 3}, {.experts = 16, .top_k = 2}};
    static const uint32_t REQUEST[4] = {0, 0, 9, 4};
    static const uint32_t POSITION[4] = {7, 8, 0, 100};
    uint16_t whole[20];
    RoutingSource *source = open_source("zipf:0.7", LAYERS, 2, 1);
    routing_source_fill(source, STACK_DECODER, 4, REQUEST, POSITION, whole);
    for (uint32_t i = 0; i < 4; i++) {
        uint16_t one[5];
        routing_source_fill(source, STACK_DECODER, 1, &REQUEST[i], &POSITION[i], one);
        assert_memory_equal(one, whole + 3 * i, 3 * sizeof *one);
        assert_memory_equal(one + 3, whole + 12 + 2 * i, 2 * sizeof *one);
    }
    routing_source_close(source);
}

static void what_is_no_routing_is_refused(void **unused)
{
    (void)unused;
    static const char *const TEXTS[] = {"zipf",    "zipf:",  "zipf:x",  "zipf:-1", "zipf:17",
                                        "zipf:1x", "trace:", "Uniform", "zipf:nan"};
    static const TraceLayer LAYER = {.experts = 4, .top_k = 1};
    RoutingSource *source;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        assert_false(routing_source_is_known(TEXTS[i]));
        assert_int_equal(routing_source_open(TEXTS[i], &LAYER, 1, 0, &source), ERR_USAGE);
    }
    assert_ok(routing_source_open("gate", &LAYER, 1, 0, &source));
    assert_null(source);
}

/* ---- tiled traces ---- */

enum { SMALL_LAYERS = 2, SMALL_EXPERTS = 8, SMALL_TOP_K = 3, SMALL_REQUESTS = 3 };

static const uint32_t LENGTHS[SMALL_REQUESTS] = {5, 9, 2};

/* The made-up trace's expert at a place. */
static uint16_t small_expert(uint32_t layer, uint32_t request, uint32_t position, uint32_t slot)
{
    return (uint16_t)((3 * layer + 5 * request + position + slot) % SMALL_EXPERTS);
}

/* Records it: one step a position, of the requests that are as long, in descending order. AGAIN: in
 * the last layer of step 4 a token has its first expert twice. */
static void record_small(const char *path, bool again)
{
    TraceLayer layers[SMALL_LAYERS] = {{0}};
    uint32_t n_steps = 0;
    for (uint32_t l = 0; l < SMALL_LAYERS; l++) {
        layers[l] = (TraceLayer){.layer = l,
                                 .experts = SMALL_EXPERTS,
                                 .top_k = SMALL_TOP_K,
                                 .d_model = 8,
                                 .d_ff = 8,
                                 .expert_bytes = 64};
        snprintf(layers[l].name, sizeof layers[l].name, "layer%u", l);
        snprintf(layers[l].gate, sizeof layers[l].gate, "{}");
    }
    Recorder *recorder;
    const TraceRun about = {.tool = "test",
                            .source = "",
                            .model = "",
                            .model_config = "{}",
                            .device = "",
                            .plan = "{}",
                            .notes = "{}"};
    assert_ok(recorder_open(path, &about, layers, SMALL_LAYERS, NULL, &recorder));
    for (uint32_t r = 0; r < SMALL_REQUESTS; r++)
        assert_ok(recorder_request(recorder, &(TraceRequest){.request = 10 * r}));
    for (uint32_t p = 0; p < 9; p++) {
        uint32_t request[SMALL_REQUESTS];
        uint32_t position[SMALL_REQUESTS];
        uint16_t experts[SMALL_LAYERS * SMALL_REQUESTS * SMALL_TOP_K];
        uint32_t n = 0;
        uint32_t at = 0;
        for (uint32_t r = SMALL_REQUESTS; r-- > 0;)
            if (p < LENGTHS[r]) {
                request[n] = 10 * r;
                position[n++] = p;
            }
        for (uint32_t l = 0; l < SMALL_LAYERS; l++)
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t s = 0; s < SMALL_TOP_K; s++)
                    experts[at++] = small_expert(l, request[i] / 10, p, s);
        if (again && p == 4)
            experts[at - 1] = experts[at - SMALL_TOP_K];
        const TraceStep step = {.step = n_steps++,
                                .phase = PHASE_DECODE,
                                .tokens = n,
                                .request = request,
                                .position = position,
                                .experts = experts};
        assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    }
    assert_ok(recorder_close(recorder));
}

static const char *small_trace(void)
{
    static char path[256];
    snprintf(path, sizeof path, "%s", scratch_path("small.db"));
    if (!file_exists(path))
        record_small(path, false);
    return path;
}

static void a_tiled_trace_repeats_over_requests_positions_and_layers(void **unused)
{
    (void)unused;
    enum { LAYERS = 5, TOP_K = 2 };
    TraceLayer layers[LAYERS];
    char text[300];
    for (uint32_t l = 0; l < LAYERS; l++)
        layers[l] = (TraceLayer){.layer = 2 * l, .experts = 12, .top_k = TOP_K};
    snprintf(text, sizeof text, "trace:%s", small_trace());
    assert_true(routing_source_is_known(text));
    RoutingSource *source = open_source(text, layers, LAYERS, 0);
    bool shifted = false;
    for (uint32_t r = 0; r < 4 * SMALL_REQUESTS; r++) {
        uint32_t from = r % SMALL_REQUESTS;
        uint16_t experts[2][LAYERS * TOP_K];
        uint32_t start = LENGTHS[from];
        for (uint32_t p = 0; p < 2 * LENGTHS[from]; p++) {
            routing_source_fill(source, STACK_DECODER, 1, &r, &p, experts[0]);
            if (p == 0) /* where this copy of the request begins */
                for (start = 0; start < LENGTHS[from]; start++)
                    if (experts[0][0] == small_expert(0, from, start, 0))
                        break;
            assert_true(start < LENGTHS[from]);
            for (uint32_t l = 0; l < LAYERS; l++)
                for (uint32_t s = 0; s < TOP_K; s++)
                    assert_int_equal(
                        experts[0][l * TOP_K + s],
                        small_expert(l % SMALL_LAYERS, from, (start + p) % LENGTHS[from], s));
        }
        assert_true(r >= SMALL_REQUESTS || start == 0);
        shifted |= start > 0;
    }
    assert_true(shifted);
    routing_source_close(source);
}

static void a_trace_that_does_not_fit_is_refused(void **unused)
{
    (void)unused;
    static const TraceLayer FEWER = {.layer = 4, .experts = 7, .top_k = 1};
    static const TraceLayer MORE = {.layer = 4, .experts = 8, .top_k = 4};
    char text[300];
    RoutingSource *source;
    snprintf(text, sizeof text, "trace:%s", small_trace());
    assert_int_equal(routing_source_open(text, &FEWER, 1, 0, &source), ERR_INPUT);
    assert_non_null(strstr(error_message(), "layer 0 has 8 experts, layer 4 of the model only 7"));
    assert_int_equal(routing_source_open(text, &MORE, 1, 0, &source), ERR_INPUT);
    assert_non_null(strstr(error_message(), "layer 0 has top_k 3, layer 4 of the model wants 4"));
    assert_int_not_equal(routing_source_open("trace:/nowhere.db", &FEWER, 1, 0, &source), OK);
}

static void a_trace_that_gives_a_token_one_expert_twice_is_refused(void **unused)
{
    (void)unused;
    static const TraceLayer LAYER = {.layer = 4, .experts = 8, .top_k = 1};
    char path[256];
    char text[300];
    char wanted[64];
    RoutingSource *source;
    snprintf(path, sizeof path, "%s", scratch_path("again.db"));
    record_small(path, true);
    snprintf(text, sizeof text, "trace:%s", path);
    snprintf(wanted, sizeof wanted, "step 4: layer 1: token 1: expert %u twice",
             small_expert(1, 0, 4, 0));
    assert_int_equal(routing_source_open(text, &LAYER, 1, 0, &source), ERR_INPUT);
    assert_non_null(strstr(error_message(), wanted));
}

static void every_failing_allocation_is_an_error_without_a_leak(void **unused)
{
    (void)unused;
    static const TraceLayer LAYER = {.experts = 8, .top_k = 1};
    char texts[2][300] = {"zipf:1"};
    snprintf(texts[1], sizeof texts[1], "trace:%s", small_trace());
    for (int t = 0; t < 2; t++) {
        FailingAllocation failing = {.may_do_without = t == 1};
        while (failing_next(&failing)) {
            RoutingSource *source = NULL;
            failing_end(&failing, routing_source_open(texts[t], &LAYER, 1, 0, &source));
            routing_source_close(source);
        }
    }
}

/* ---- at the command line ---- */

static const char CONFIG[] =
    "{\"model_type\":\"nllb-moe\",\"vocab_size\":96,\"d_model\":32,\"encoder_layers\":4,"
    "\"encoder_attention_heads\":4,\"encoder_ffn_dim\":48,\"encoder_sparse_step\":2,"
    "\"decoder_layers\":6,\"decoder_attention_heads\":4,\"decoder_ffn_dim\":48,"
    "\"decoder_sparse_step\":2,\"num_experts\":16,\"max_position_embeddings\":64}";

static const char *shape(void)
{
    static char name[300];
    const char *path = scratch_path("config.json");
    assert_ok(file_write_all(path, CONFIG, strlen(CONFIG)));
    snprintf(name, sizeof name, "shape:%s", path);
    return name;
}

/* Every routed id of the trace is what the source says of its token. */
static void assert_recorded(const char *trace, const char *text)
{
    TraceReader *reader;
    TraceStep step;
    uint32_t n;
    uint64_t tokens = 0;
    assert_ok(trace_reader_open(trace, &reader));
    const TraceLayer *layers = trace_reader_layers(reader, &n);
    RoutingSource *source = open_source(text, layers, n, 0);
    while (trace_reader_next_step(reader, &step) == OK) {
        static uint16_t wanted[4096];
        uint32_t of_stack = 0;
        for (uint32_t l = 0; l < n; l++)
            of_stack += layers[l].stack == step.stack ? layers[l].top_k : 0;
        routing_source_fill(source, step.stack, step.tokens, step.request, step.position, wanted);
        assert_memory_equal(wanted, step.experts, step.tokens * of_stack * sizeof *wanted);
        tokens += step.tokens;
    }
    assert_true(tokens > 0);
    routing_source_close(source);
    trace_reader_close(reader);
}

static void a_recorded_run_went_where_the_source_says_and_validates(void **unused)
{
    (void)unused;
    char texts[3][300] = {"uniform", "zipf:1.1"};
    snprintf(texts[2], sizeof texts[2], "trace:%s", small_trace());
    for (int t = 0; t < 3; t++) {
        char trace[256];
        char forced[300];
        snprintf(trace, sizeof trace, "%s", scratch_path("run.db"));
        remove(trace);
        RUN("record", "--model", shape(), "--tokens", "random:5x7", "--batch", "5", "--generate",
            "4", "--ignore-eos", "--routing", texts[t], "--out", trace);
        assert_run_done(&run);
        assert_recorded(trace, texts[t]);
        snprintf(forced, sizeof forced, "trace:%s", trace);
        RUN("validate", "--trace", trace, "--routing", forced, "--set", "buffer.slots=4", "--set",
            "buffer.evict=belady");
        assert_run_done(&run);
        assert_non_null(strstr(run.out, "agree"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_are_distinct_experts_of_the_layer),
        cmocka_unit_test(draws_made_ahead_are_those_made_when_they_are_needed),
        cmocka_unit_test(shares_follow_the_named_law),
        cmocka_unit_test(second_choices_are_those_of_the_rest),
        cmocka_unit_test(layers_and_seeds_have_their_own_favourites),
        cmocka_unit_test(a_token_goes_the_same_way_in_any_batch),
        cmocka_unit_test(what_is_no_routing_is_refused),
        cmocka_unit_test(a_tiled_trace_repeats_over_requests_positions_and_layers),
        cmocka_unit_test(a_trace_that_does_not_fit_is_refused),
        cmocka_unit_test(a_trace_that_gives_a_token_one_expert_twice_is_refused),
        cmocka_unit_test(every_failing_allocation_is_an_error_without_a_leak),
        cmocka_unit_test(a_recorded_run_went_where_the_source_says_and_validates),
    };
    memory_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
