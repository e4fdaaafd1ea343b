#include "base/status.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "tests/random_trace.h"
#include "traces/packed_future.h"

/* The position after the last one in the routing at which EXPERT stands. */
static size_t last_touch(const TraceEvent *event, uint32_t top_k, uint16_t expert)
{
    size_t last = 0;
    for (size_t i = 0; i < (size_t)event->tokens * top_k; i++)
        if (event->routing[i] == expert)
            last = i + 1;
    return last;
}

static void assert_touches(const PackedEvent *got, const TraceEvent *event, uint32_t top_k)
{
    uint16_t touches[1024];
    size_t before = 0;
    packed_touches(got, touches);
    for (uint32_t i = 0; i < got->n_active; i++) {
        assert_true(touches[i] < got->n_active);
        size_t at = last_touch(event, top_k, got->experts[touches[i]]);
        assert_true(at > before);
        before = at;
    }
}

/* Every event of the packed trace equals the reader's. */
static void assert_equals_reader(const PackedTrace *packed, const char *path)
{
    TraceReader *reader;
    TraceEvent event;
    PackedEvent got;
    PackedCursor cursor = packed_cursor(packed);
    uint64_t lookups = 0;
    uint64_t events = 0;
    uint64_t assignments = 0;
    assert_ok(trace_reader_open(path, &reader));
    for (;;) {
        Status status = trace_reader_next_event(reader, &event);
        if (status == STATUS_END)
            break;
        assert_ok(status);
        assert_true(packed_next(&cursor, &got));
        assert_int_equal(got.step, event.step);
        assert_int_equal(got.layer_index, event.layer_index);
        assert_int_equal(got.n_active, event.n_active);
        assert_true(got.first_lookup == lookups);
        if (event.n_active > 0)
            assert_memory_equal(got.experts, event.active, 2 * event.n_active);
        assert_int_equal(got.phase, event.phase);
        assert_touches(&got, &event, packed->layers[event.layer_index].top_k);
        const uint8_t *at = got.counts;
        for (uint32_t i = 0; i < event.n_active; i++) {
            assert_int_equal(at != NULL ? packed_count_read(&at) : 1, event.active_tokens[i]);
            assignments += event.active_tokens[i];
        }
        lookups += event.n_active;
        events++;
    }
    assert_false(packed_next(&cursor, &got));
    assert_true(packed->n_lookups == lookups);
    assert_true(packed->n_events == events);
    assert_true(packed->n_assignments == assignments);
    trace_reader_close(reader);
}

static void packed_events_equal_the_readers(void **unused)
{
    (void)unused;
    for (uint64_t seed = 0; seed < 40; seed++) {
        const char *path = scratch_path("packed.db");
        RandomTrace trace = random_trace(seed);
        if (seed % 4 == 0)
            trace.max_tokens = 1;
        PackedTrace packed;
        assert_ok(record_random(path, &trace, 30, NULL));
        assert_ok(packed_trace_load(path, &packed));
        assert_int_equal(packed.n_steps, 30);
        assert_equals_reader(&packed, path);
        packed_trace_free(&packed);
        unlink(path);
    }
}

static void steps_added_by_hand_equal_the_loaded_trace(void **unused)
{
    (void)unused;
    const char *path = scratch_path("hand.db");
    RandomTrace trace = random_trace(11);
    PackedTrace packed;
    RandomStep made;
    assert_ok(record_random(path, &trace, 300, NULL));
    assert_ok(packed_trace_new(trace.layers, trace.n_layers, &packed));
    for (uint32_t i = 0; i < 300; i++) {
        random_step(&trace, i, &made);
        assert_ok(packed_trace_add_step(&packed, &made.step));
    }
    assert_equals_reader(&packed, path);
    packed_trace_free(&packed);
    unlink(path);
}

static void a_wrong_step_leaves_the_packed_trace_unchanged(void **unused)
{
    (void)unused;
    RandomTrace trace = random_trace(11);
    PackedTrace packed;
    RandomStep made;
    assert_ok(packed_trace_new(trace.layers, trace.n_layers, &packed));
    random_step(&trace, 0, &made);
    TraceStep wrong = made.step;
    wrong.tokens = 0;
    assert_int_equal(packed_trace_add_step(&packed, &wrong), ERR_INPUT);
    made.experts[0] = (uint16_t)trace.layers[0].experts;
    assert_int_equal(packed_trace_add_step(&packed, &made.step), ERR_INPUT);
    assert_int_equal(packed.n_steps, 0);
    assert_int_equal(packed.n_lookups, 0);
    packed_trace_free(&packed);
}

/* Adds one token with the given experts. */
static void add_token(PackedTrace *packed, uint32_t step, const uint16_t *experts)
{
    uint32_t zero = 0;
    TraceStep one = {.step = step,
                     .phase = PHASE_DECODE,
                     .tokens = 1,
                     .request = &zero,
                     .position = &zero,
                     .experts = experts};
    assert_ok(packed_trace_add_step(packed, &one));
}

static void counts_of_one_token_are_stored_only_when_an_expert_repeats(void **unused)
{
    (void)unused;
    TraceLayer layer = {.experts = 8, .top_k = 3};
    PackedTrace packed;
    PackedEvent event;
    assert_ok(packed_trace_new(&layer, 1, &packed));
    add_token(&packed, 0, (uint16_t[]){5, 1, EXPERT_DROPPED});
    assert_int_equal(packed.counts_bytes, 0);
    add_token(&packed, 1, (uint16_t[]){2, 7, 2});
    add_token(&packed, 2, (uint16_t[]){EXPERT_DROPPED, EXPERT_DROPPED, EXPERT_DROPPED});
    PackedCursor cursor = packed_cursor(&packed);
    assert_true(packed_next(&cursor, &event));
    assert_int_equal(event.n_active, 2);
    assert_null(event.counts);
    assert_true(packed_next(&cursor, &event));
    assert_int_equal(event.n_active, 2);
    const uint8_t *at = event.counts;
    assert_int_equal(packed_count_read(&at), 2);
    assert_int_equal(packed_count_read(&at), 1);
    assert_true(packed_next(&cursor, &event));
    assert_int_equal(event.n_active, 0);
    assert_false(packed_next(&cursor, &event));
    packed_trace_free(&packed);
}

/* The next use of every lookup, by looking. */
static void assert_next_use(const PackedTrace *packed, bool serial)
{
    enum { MOST = 20000 };
    static uint32_t layer[MOST], expert[MOST], time[MOST];
    uint32_t n = 0;
    PackedEvent event;
    PackedCursor cursor = packed_cursor(packed);
    for (uint32_t e = 0; packed_next(&cursor, &event); e++)
        for (uint32_t i = 0; i < event.n_active; i++, n++) {
            assert_true(n < MOST);
            layer[n] = event.layer_index;
            expert[n] = event.experts[i];
            time[n] = serial ? n : e;
        }
    uint32_t *next;
    assert_ok(packed_next_use(packed, serial, &next));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = i + 1;
        while (j < n && (layer[j] != layer[i] || expert[j] != expert[i]))
            j++;
        assert_int_equal(next[i], j < n ? time[j] : UINT32_MAX);
    }
    mem_free(next);
}

static void next_use_is_the_next_lookup_of_the_same_expert(void **unused)
{
    (void)unused;
    for (uint64_t seed = 20; seed < 30; seed++) {
        RandomTrace trace = random_trace(seed);
        PackedTrace packed;
        RandomStep made;
        trace.max_tokens = 4;
        assert_ok(packed_trace_new(trace.layers, trace.n_layers, &packed));
        for (uint32_t i = 0; i < 60; i++) {
            random_step(&trace, i, &made);
            assert_ok(packed_trace_add_step(&packed, &made.step));
        }
        assert_next_use(&packed, false);
        assert_next_use(&packed, true);
        packed_trace_free(&packed);
    }
}

/* Steps of one or two tokens over layers of different widths, of so many lookups at least. */
static void make_long_trace(PackedTrace *packed, uint64_t lookups)
{
    enum { N_LAYERS = 3, TOP_K = 3 };
    static const uint32_t WIDTHS[N_LAYERS] = {9, 64, 30};
    TraceLayer layers[N_LAYERS];
    uint64_t state = lookups;
    for (uint32_t i = 0; i < N_LAYERS; i++)
        layers[i] = (TraceLayer){.layer = i, .experts = WIDTHS[i], .top_k = TOP_K};
    assert_ok(packed_trace_new(layers, N_LAYERS, packed));
    for (uint32_t number = 0; packed->n_lookups < lookups; number++) {
        uint16_t experts[N_LAYERS * 2 * TOP_K];
        uint32_t tokens = 1 + random_below(&state, 2);
        const uint32_t zeros[2] = {0};
        for (uint32_t layer = 0; layer < N_LAYERS; layer++)
            for (uint32_t i = 0; i < tokens * TOP_K; i++) {
                uint32_t own = WIDTHS[layer] / TOP_K; /* of each slot, so that a token's differ */
                experts[layer * tokens * TOP_K + i] =
                    (uint16_t)(i % TOP_K * own + random_below(&state, own));
            }
        assert_ok(packed_trace_add_step(packed, &(TraceStep){.step = number,
                                                             .phase = PHASE_MIXED,
                                                             .tokens = tokens,
                                                             .request = zeros,
                                                             .position = zeros,
                                                             .experts = experts}));
    }
}

/* Readers give what a plain walk from the end finds, whatever they are asked first. */
static void assert_reads(const PackedTrace *packed, bool serial)
{
    uint32_t *next;
    PackedFuture *future;
    FutureReader *reader;
    assert_ok(packed_next_use(packed, serial, &next));
    assert_ok(packed_future_new(packed, serial, &future));
    assert_ok(future_reader_new(future, &reader));
    assert_true(packed_future_bytes(future) + future_reader_bytes(reader) <
                packed->n_lookups * sizeof *next / 4);
    for (int round = 0; round < 2; round++) {
        PackedEvent event;
        PackedCursor cursor = packed_cursor(packed);
        uint64_t end = 0;
        while (packed_next(&cursor, &event)) {
            if (end <= cursor.step)
                end = future_reader_end(reader, cursor.step);
            assert_true(cursor.step < end && end <= packed->n_steps);
            const uint32_t *read = future_reader_at(reader, event.first_lookup);
            assert_memory_equal(read, next + event.first_lookup, event.n_active * sizeof *next);
        }
    }
    assert_int_equal(*future_reader_at(reader, packed->n_lookups / 2), next[packed->n_lookups / 2]);
    future_reader_free(reader);
    packed_future_free(future);
    mem_free(next);
}

/* The same lookups, one after the other from the end. */
static void assert_next_use_from_the_end(const PackedTrace *packed, bool serial)
{
    enum { MOST_EXPERTS = 64 };
    uint32_t upcoming[3][MOST_EXPERTS];
    uint32_t *next;
    uint64_t lookup = packed->n_lookups;
    memset(upcoming, 0xFF, sizeof upcoming);
    assert_ok(packed_next_use(packed, serial, &next));
    for (uint64_t event = packed->n_events; event-- > 0;)
        for (uint32_t i = packed->n_active[event]; i-- > 0;) {
            uint32_t *use = &upcoming[event % 3][packed->experts[--lookup]];
            assert_int_equal(next[lookup], *use);
            *use = (uint32_t)(serial ? lookup : event);
        }
    mem_free(next);
}

static void a_reader_gives_the_next_use_of_every_lookup_from_few_numbers(void **unused)
{
    (void)unused;
    PackedTrace packed;
    make_long_trace(&packed, 600000);
    for (int serial = 0; serial < 2; serial++) {
        assert_next_use_from_the_end(&packed, serial);
        assert_reads(&packed, serial);
    }
    packed_trace_free(&packed);
}

static void more_lookups_than_32_bits_have_no_next_use(void **unused)
{
    (void)unused;
    PackedTrace packed = {.n_lookups = UINT32_MAX};
    uint32_t *next;
    assert_int_equal(packed_next_use(&packed, true, &next), ERR_INPUT);
}

static Status load_and_look(const char *path)
{
    PackedTrace packed;
    uint32_t *next;
    TRY(packed_trace_load(path, &packed));
    Status status = packed_next_use(&packed, true, &next);
    mem_free(next);
    packed_trace_free(&packed);
    return status;
}

static void every_allocation_may_fail_in_loading(void **unused)
{
    (void)unused;
    const char *path = scratch_path("memory.db");
    RandomTrace trace = random_trace(5);
    assert_ok(record_random(path, &trace, 20, NULL));
    assert_ok(load_and_look(path));
    FailingAllocation failing = {.may_do_without = true};
    while (failing_next(&failing))
        failing_end(&failing, load_and_look(path));
    assert_true(failing.k > 20);
}

/* Records STEPS one-token steps of 26 layers x top-6, or the nearest to it. */
static void record_decode(const char *path, uint32_t steps)
{
    enum { LAYERS = 26, TOP_K = 6 };
    static TraceLayer layers[LAYERS];
    uint16_t experts[LAYERS * TOP_K];
    float weights[LAYERS * TOP_K] = {0};
    uint32_t zero = 0;
    uint64_t state = 3;
    Recorder *recorder;
    for (uint32_t i = 0; i < LAYERS; i++)
        layers[i] = (TraceLayer){.layer = i, .experts = 64, .top_k = TOP_K};
    assert_ok(recorder_open(path, &(TraceRun){0}, layers, LAYERS, NULL, &recorder));
    for (uint32_t i = 0; i < steps; i++) {
        for (uint32_t j = 0; j < LAYERS * TOP_K; j++) /* distinct within a layer */
            experts[j] = (uint16_t)(j % TOP_K * 10 + random_below(&state, 10));
        TraceStep step = {.step = i,
                          .phase = PHASE_DECODE,
                          .tokens = 1,
                          .request = &zero,
                          .position = &i,
                          .experts = experts,
                          .weights = weights};
        assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    }
    assert_ok(recorder_close(recorder));
}

static void a_decode_step_takes_534_bytes(void **unused)
{
    (void)unused;
    const char *path = scratch_path("decode.db");
    PackedTrace packed;
    record_decode(path, 20000);
    assert_ok(packed_trace_load(path, &packed));
    assert_int_equal(packed.n_lookups, 20000 * 26 * 6);
    assert_true(packed_trace_bytes(&packed) < 20000 * 535 + 100000);
    packed_trace_free(&packed);
    unlink(path);
}

/* A line of /proc/self/status. */
static void print_peak(const char *what)
{
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "VmHWM", 5) == 0)
            printf("%s: %s", what, line);
    if (file != NULL)
        fclose(file);
}

static int bench(void)
{
    const char *path = scratch_path("million.db");
    PackedTrace packed;
    uint32_t *next;
    record_decode(path, 1000000);
    print_peak("after recording");
    uint64_t start = clock_ns();
    assert_ok(packed_trace_load(path, &packed));
    uint64_t loaded = clock_ns();
    print_peak("after loading");
    printf("a million one-token steps of 26 x top-6: %.0f MB, loaded in %.2f s\n",
           (double)packed_trace_bytes(&packed) / 1e6, (double)(loaded - start) / 1e9);
    assert_ok(packed_next_use(&packed, true, &next));
    printf("next uses in %.2f s\n", (double)(clock_ns() - loaded) / 1e9);
    mem_free(next);
    packed_trace_free(&packed);
    return 0;
}

int main(int count, char **arguments)
{
    memory_install();
    if (count > 1 && strcmp(arguments[1], "--bench") == 0)
        return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_events_equal_the_readers),
        cmocka_unit_test(steps_added_by_hand_equal_the_loaded_trace),
        cmocka_unit_test(a_wrong_step_leaves_the_packed_trace_unchanged),
        cmocka_unit_test(counts_of_one_token_are_stored_only_when_an_expert_repeats),
        cmocka_unit_test(next_use_is_the_next_lookup_of_the_same_expert),
        cmocka_unit_test(a_reader_gives_the_next_use_of_every_lookup_from_few_numbers),
        cmocka_unit_test(more_lookups_than_32_bits_have_no_next_use),
        cmocka_unit_test(every_allocation_may_fail_in_loading),
        cmocka_unit_test(a_decode_step_takes_534_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
