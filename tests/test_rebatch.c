/* Merged traces and regrouped tokens, against a plain scheduler. */
#include "base/status.h"
#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "tests/import_maker.h"
#include "policies/packed_view.h"
#include "traces/recorder.h"

enum {
    REQUESTS = 14,
    LAYERS = 3,
    TOP_K = 2,
    IDS = LAYERS * TOP_K,
    MAX_STEP = 400,
    MAX_STEPS = 900
};

/* What every request is made of; its number in the trace is 10 * i + 3. */
typedef struct {
    uint32_t prompt;
    uint32_t output;
} Shape;

/* A step as requests and positions. */
typedef struct {
    Phase phase;
    uint32_t tokens;
    uint32_t request[MAX_STEP];
    uint32_t position[MAX_STEP];
} PlainStep;

static Shape shapes[REQUESTS];
static bool encoder; /* the prompt runs in an encoder */
static uint32_t experts_of_layer;

static void make_shapes(uint64_t seed)
{
    uint64_t state = seed;
    encoder = seed % 4 == 3;
    experts_of_layer = seed % 2 ? 300 : 20;
    for (int i = 0; i < REQUESTS; i++) {
        shapes[i].prompt = 1 + random_below(&state, 30);
        shapes[i].output = random_below(&state, 25);
    }
}

static uint16_t expert_of(uint32_t request, uint32_t position, uint32_t layer, uint32_t k)
{
    uint32_t mixed = request * 7919 + position * 104729 + layer * 31 + k * 17 + 5;
    mixed ^= mixed >> 7;
    return mixed % 11 == 0 ? EXPERT_DROPPED : (uint16_t)(mixed % experts_of_layer);
}

static void fill_layers(TraceLayer *layers)
{
    memset(layers, 0, 2 * LAYERS * sizeof *layers);
    for (uint32_t i = 0; i < 2 * LAYERS; i++)
        layers[i] = (TraceLayer){.layer = i,
                                 .stack = i < LAYERS ? STACK_ENCODER : STACK_DECODER,
                                 .experts = experts_of_layer,
                                 .top_k = TOP_K,
                                 .expert_bytes = 10};
}

/* REQUESTS's numbers are indices here. Positions of an encoder's and a decoder's tokens both count
 * from 0. */
static void record_plain(Recorder *recorder, uint32_t number, const PlainStep *plain)
{
    static uint16_t ids[IDS * MAX_STEP];
    uint32_t requests[MAX_STEP];
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t i = 0; i < plain->tokens; i++)
            for (uint32_t k = 0; k < TOP_K; k++)
                ids[(layer * plain->tokens + i) * TOP_K + k] =
                    expert_of(plain->request[i], plain->position[i],
                              layer + (plain->phase == PHASE_ENCODE ? LAYERS : 0), k);
    for (uint32_t i = 0; i < plain->tokens; i++)
        requests[i] = 10 * plain->request[i] + 3;
    const TraceStep step = {.step = number,
                            .phase = plain->phase,
                            .stack = plain->phase == PHASE_ENCODE ? STACK_ENCODER : STACK_DECODER,
                            .tokens = plain->tokens,
                            .request = requests,
                            .position = plain->position,
                            .experts = ids};
    assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
}

/* How far each request is. */
typedef struct {
    uint32_t prompt;
    uint32_t output;
} Done;

static bool over(const Done *done, uint32_t request)
{
    return done->prompt == shapes[request].prompt && done->output == shapes[request].output;
}

static void put(PlainStep *step, uint32_t request, uint32_t position)
{
    step->request[step->tokens] = request;
    step->position[step->tokens++] = position;
}

static void put_prompt(PlainStep *step, Done *done, uint32_t request, uint32_t most)
{
    while (done[request].prompt < shapes[request].prompt && step->tokens < most)
        put(step, request, done[request].prompt++);
}

static void put_output(PlainStep *step, Done *done, uint32_t request)
{
    if (done[request].prompt == shapes[request].prompt &&
        done[request].output < shapes[request].output) {
        put(step, request, (encoder ? 0 : shapes[request].prompt) + done[request].output);
        done[request].output++;
    }
}

/* The rules of policies/rebatch.h, one request after the other. */
static bool plain_step(BatchingMode mode, uint32_t sequences, uint32_t max_tokens, uint32_t *next,
                       bool *running, Done *done, PlainStep *step)
{
    uint32_t n_running = 0;
    uint32_t prompts = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        running[i] = running[i] && !over(&done[i], i);
        n_running += running[i];
    }
    for (; n_running < sequences && *next < REQUESTS; n_running++)
        running[(*next)++] = true;
    if (n_running == 0)
        return false;
    step->tokens = 0;
    for (uint32_t i = 0; i < REQUESTS && encoder; i++) {
        uint32_t left = running[i] ? shapes[i].prompt - done[i].prompt : 0;
        if (step->tokens > 0 && step->tokens + left > max_tokens)
            break;
        put_prompt(step, done, i, left > 0 ? MAX_STEP : 0);
        if (step->tokens >= max_tokens)
            break;
    }
    step->phase = PHASE_ENCODE;
    if (step->tokens > 0)
        return true;
    for (uint32_t i = 0; i < REQUESTS; i++)
        prompts += running[i] ? shapes[i].prompt - done[i].prompt : 0;
    for (uint32_t i = 0; i < REQUESTS && (mode == BATCHING_MIXED || prompts == 0); i++)
        if (running[i])
            put_output(step, done, i);
    uint32_t outputs = step->tokens;
    for (uint32_t i = 0; i < REQUESTS; i++)
        if (running[i])
            put_prompt(step, done, i, max_tokens);
    step->phase = step->tokens == outputs ? PHASE_DECODE
                  : outputs > 0           ? PHASE_MIXED
                                          : PHASE_PREFILL;
    return true;
}

/* Steps FROM to TO - 1 of a recording with RECORDED sequences at once. Returns how many there are
 * in all. */
static uint32_t record_steps(const char *path, BatchingMode mode, uint32_t recorded, uint32_t from,
                             uint32_t to, uint32_t experts)
{
    TraceLayer layers[2 * LAYERS];
    const TraceRun run = {.tool = "test"};
    const RecorderOptions options = {.durability = DURABLE_NOT};
    static PlainStep step;
    bool running[REQUESTS] = {false};
    Done done[REQUESTS] = {{0}};
    uint32_t next = 0;
    uint32_t number = 0;
    Recorder *recorder;
    unlink(path);
    fill_layers(layers);
    layers[LAYERS].experts = experts;
    assert_ok(recorder_open(path, &run, encoder ? layers : layers + LAYERS,
                            encoder ? 2 * LAYERS : LAYERS, &options, &recorder));
    for (uint32_t i = 0; i < REQUESTS; i++)
        assert_ok(recorder_request(
            recorder, &(TraceRequest){.request = 10 * i + 3, .prompt_tokens = shapes[i].prompt}));
    for (; plain_step(mode, recorded, 64, &next, running, done, &step); number++)
        if (number >= from && number < to)
            record_plain(recorder, number, &step);
    assert_ok(recorder_close(recorder));
    return number;
}

static const char *record_whole(const char *name, BatchingMode mode, uint32_t recorded)
{
    char *path = scratch_name(name);
    record_steps(path, mode, recorded, 0, UINT32_MAX, experts_of_layer);
    return path;
}

static void assert_ids(const TraceStep *step, const PlainStep *plain)
{
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t i = 0; i < plain->tokens; i++)
            for (uint32_t k = 0; k < TOP_K; k++)
                assert_int_equal(step->experts[(layer * plain->tokens + i) * TOP_K + k],
                                 expert_of(plain->request[i], plain->position[i],
                                           layer + (plain->phase == PHASE_ENCODE ? LAYERS : 0), k));
}

static void assert_regrouped(const char *path, const Batching *batching)
{
    TraceShards *shards;
    Rebatch *rebatch;
    TraceStep step;
    static PlainStep plain;
    bool running[REQUESTS] = {false};
    Done done[REQUESTS] = {{0}};
    uint32_t next = 0;
    uint32_t number = 0;
    const char *const paths[] = {path};
    assert_ok(trace_shards_open(paths, 1, &shards));
    assert_ok(rebatch_open(shards, batching, NULL, &rebatch));
    while (plain_step(batching->mode, batching->sequences, batching->max_tokens, &next, running,
                      done, &plain)) {
        assert_ok(rebatch_next_step(rebatch, &step));
        assert_int_equal(step.step, number++);
        assert_int_equal(step.phase, plain.phase);
        assert_int_equal(step.tokens, plain.tokens);
        assert_memory_equal(step.request, plain.request, 4 * plain.tokens);
        assert_memory_equal(step.position, plain.position, 4 * plain.tokens);
        assert_ids(&step, &plain);
    }
    assert_int_equal(rebatch_next_step(rebatch, &step), STATUS_END);
    rebatch_close(rebatch);
    trace_shards_close(shards);
}

static void any_recording_regroups_as_the_plain_scheduler_says(void **unused)
{
    (void)unused;
    static const Batching CASES[] = {{BATCHING_APART, 1, 400}, {BATCHING_APART, 4, 16},
                                     {BATCHING_APART, 8, 8},   {BATCHING_APART, 99, 99},
                                     {BATCHING_MIXED, 1, 7},   {BATCHING_MIXED, 4, 16},
                                     {BATCHING_MIXED, 8, 8},   {BATCHING_MIXED, 20, 200}};
    static const Batching RECORDED[] = {
        {BATCHING_APART, 1, 64}, {BATCHING_APART, 3, 64}, {BATCHING_MIXED, 5, 64}};
    for (uint64_t seed = 0; seed < 8; seed++) {
        make_shapes(seed);
        for (size_t i = 0; i < sizeof RECORDED / sizeof *RECORDED; i++) {
            const char *path = record_whole("whole.db", RECORDED[i].mode, RECORDED[i].sequences);
            for (size_t j = 0; j < sizeof CASES / sizeof *CASES; j++)
                assert_regrouped(path, &CASES[j]);
        }
    }
}

static void assert_same_packed(const PackedTrace *left, const PackedTrace *right)
{
    PackedCursor a = packed_cursor(left);
    PackedCursor b = packed_cursor(right);
    PackedEvent one;
    PackedEvent other;
    assert_int_equal(left->n_events, right->n_events);
    assert_int_equal(left->n_assignments, right->n_assignments);
    assert_int_equal(left->n_tokens, right->n_tokens);
    while (packed_next(&a, &one)) {
        assert_true(packed_next(&b, &other));
        assert_int_equal(one.step, other.step);
        assert_int_equal(one.layer_index, other.layer_index);
        assert_int_equal(one.n_active, other.n_active);
        if (one.n_active > 0)
            assert_memory_equal(one.experts, other.experts, 2 * one.n_active);
    }
    assert_false(packed_next(&b, &other));
}

static void shards_read_as_the_trace_they_were_cut_from(void **unused)
{
    (void)unused;
    const Batching as_recorded = {.mode = BATCHING_AS_RECORDED};
    for (uint64_t seed = 0; seed < 4; seed++) {
        make_shapes(seed);
        const char *whole = record_whole("whole.db", BATCHING_APART, 3);
        char *parts[3];
        uint32_t n = record_steps(scratch_path("count.db"), BATCHING_APART, 3, 0, UINT32_MAX,
                                  experts_of_layer);
        for (uint32_t i = 0; i < 3; i++) {
            char name[16];
            snprintf(name, sizeof name, "part%u.db", i);
            parts[i] = scratch_name(name);
            record_steps(parts[i], BATCHING_APART, 3, i * n / 3, (i + 1) * n / 3, experts_of_layer);
        }
        PackedTrace one;
        PackedTrace three;
        assert_ok(packed_trace_load(whole, &one));
        assert_ok(
            packed_trace_load_view((const char *const *)parts, 3, &as_recorded, NULL, &three));
        assert_same_packed(&one, &three);
        packed_trace_free(&one);
        packed_trace_free(&three);
    }
}

static void the_same_number_in_two_shards_is_two_requests(void **unused)
{
    (void)unused;
    TraceShards *shards;
    TraceStep step;
    uint32_t tokens = 0;
    make_shapes(1);
    const char *path = record_whole("twice.db", BATCHING_APART, 1);
    const char *const paths[] = {path, path};
    assert_ok(trace_shards_open(paths, 2, &shards));
    for (uint32_t number = 0; trace_shards_next_step(shards, &step) == OK; number++) {
        assert_int_equal(step.step, number);
        tokens += step.tokens;
    }
    assert_int_equal(trace_shards_requests(shards), 2 * REQUESTS);
    assert_int_equal(trace_shards_prompt_tokens(shards, REQUESTS + 2), shapes[2].prompt);
    trace_shards_close(shards);
    const Batching all = {BATCHING_APART, 2 * REQUESTS, 100};
    PackedTrace packed;
    assert_ok(packed_trace_load_view(paths, 2, &all, NULL, &packed));
    assert_int_equal(packed.n_tokens, tokens);
    packed_trace_free(&packed);
}

static void shards_of_different_models_are_refused(void **unused)
{
    (void)unused;
    TraceShards *shards;
    make_shapes(0);
    const char *one = record_whole("one.db", BATCHING_APART, 1);
    char *other = scratch_name("other.db");
    record_steps(other, BATCHING_APART, 1, 0, UINT32_MAX, experts_of_layer + 1);
    const char *const paths[] = {one, other};
    assert_int_equal(trace_shards_open(paths, 2, &shards), ERR_INPUT);
    assert_non_null(strstr(error_message(), "other.db: layer 3: 21 experts, top-2; the first"));
    const char *const missing[] = {one, "/nowhere.db"};
    assert_int_equal(trace_shards_open(missing, 2, &shards), ERR_INPUT);
    assert_int_equal(trace_shards_open(paths, 0, &shards), ERR_INPUT);
}

static void counts_and_batches_out_of_range_are_refused(void **unused)
{
    (void)unused;
    static const Batching BAD[] = {
        {BATCHING_APART, 0, 8}, {BATCHING_APART, 8, 7}, {BATCHING_MIXED, 8, TRACE_MAX_TOKENS + 1}};
    PackedTrace packed;
    make_shapes(0);
    const char *path = record_whole("good.db", BATCHING_APART, 1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(packed_trace_load_view(&path, 1, &BAD[i], NULL, &packed), ERR_PLAN);
    const char *counts = scratch_name("counts.db");
    import_to((ImportOptions){.from = IMPORT_COUNTS,
                              .path = text_file("c.csv", "layer,expert,count\n0,1,3\n")},
              counts);
    const Batching apart = {BATCHING_APART, 8, 8};
    assert_int_equal(packed_trace_load_view(&counts, 1, &apart, NULL, &packed), ERR_INPUT);
    assert_non_null(strstr(error_message(), "holds expert counts alone"));
}

static void every_failed_allocation_is_reported_and_frees_all(void **unused)
{
    (void)unused;
    make_shapes(3);
    const char *path = record_whole("memory.db", BATCHING_MIXED, 2);
    const char *const paths[] = {path, path};
    const Batching mixed = {BATCHING_MIXED, 4, 16};
    for (FailingAllocation failing = {.sparse = 20, .may_do_without = true};
         failing_next(&failing);) {
        PackedTrace packed;
        Status status = packed_trace_load_view(paths, 2, &mixed, NULL, &packed);
        failing_end(&failing, status);
        if (status == OK)
            packed_trace_free(&packed);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_recording_regroups_as_the_plain_scheduler_says),
        cmocka_unit_test(shards_read_as_the_trace_they_were_cut_from),
        cmocka_unit_test(the_same_number_in_two_shards_is_two_requests),
        cmocka_unit_test(shards_of_different_models_are_refused),
        cmocka_unit_test(counts_and_batches_out_of_range_are_refused),
        cmocka_unit_test(every_failed_allocation_is_reported_and_frees_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
