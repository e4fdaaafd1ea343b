/* Plans as they are read, and what is refused. */
#include "base/status.h"
#include "tests/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/plan_maker.h"

static void a_plan_of_nothing_is_the_default(void **unused)
{
    (void)unused;
    Plan plan = good_plan("{\"moebius_plan\": 1}");
    Plan wanted = plan_default();
    assert_memory_equal(&plan, &wanted, sizeof plan);
    assert_false(plan.buffer.on);
    assert_int_equal(plan.gating.mode, GATING_DYNAMIC);
    assert_int_equal(plan.batching.max_tokens, 4096);
    plan = good_plan("{\"moebius_plan\": 1, \"buffer\": null}");
    assert_memory_equal(&plan, &wanted, sizeof plan);
}

static void the_full_plan_is_read(void **unused)
{
    (void)unused;
    Plan plan =
        good_plan("{\"moebius_plan\": 1, \"name\": \"lifo-inactive-first 10/layer\", \"seed\": 12,"
                  " \"gating\": {\"mode\": \"dynamic\"},"
                  " \"buffer\": {\"scope\": \"layer\", \"slots\": 10, \"order\": \"batch\","
                  "   \"evict\": \"lifo-inactive-first\", \"params\": {}},"
                  " \"prefetch\": {\"predictor\": \"none\", \"distance\": 1, \"max_inflight\": 2},"
                  " \"placement\": {\"ranks\": 1, \"method\": \"contiguous\", \"map\": null,"
                  "   \"replicas\": null},"
                  " \"batching\": {\"max_tokens\": 512, \"mode\": \"as-recorded\"},"
                  " \"link\": {\"h2d_gb_per_s\": null}}");
    assert_string_equal(plan.name, "lifo-inactive-first 10/layer");
    assert_int_equal(plan.seed, 12);
    assert_true(plan.buffer.on);
    assert_int_equal(plan.buffer.scope, SCOPE_LAYER);
    assert_int_equal(plan.buffer.slots, 10);
    assert_int_equal(plan.buffer.bytes, 0);
    assert_int_equal(plan.buffer.order, ORDER_BATCH);
    assert_string_equal(plan.buffer.evict, "lifo-inactive-first");
    assert_int_equal(plan.batching.max_tokens, 512);
    assert_true(plan.link.h2d_gb_per_s == 0);
    plan = good_plan("{\"moebius_plan\": 1, \"gating\": {\"mode\": \"static\","
                     " \"capacity_factor\": 0.25, \"dispatch\": \"mask\"},"
                     " \"buffer\": {\"scope\": \"device\", \"bytes\": 1000000,"
                     " \"order\": \"serial\", \"evict\": \"belady\"},"
                     " \"link\": {\"h2d_gb_per_s\": 12.5}}");
    assert_int_equal(plan.gating.mode, GATING_STATIC);
    assert_true(plan.gating.capacity_factor == 0.25);
    assert_int_equal(plan.gating.dispatch, DISPATCH_MASK);
    assert_int_equal(plan.buffer.scope, SCOPE_DEVICE);
    assert_int_equal(plan.buffer.bytes, 1000000);
    assert_int_equal(plan.buffer.order, ORDER_SERIAL);
    assert_true(plan.link.h2d_gb_per_s == 12.5);
}

/* A plan that splits, but the end of its section. */
#define BUFFERED_SPLIT "\"buffer\": {\"slots\": 4}, \"compute\": {\"mode\": \"split\""

static void refusals_name_the_path_and_what_is_allowed(void **unused)
{
    (void)unused;
    static const struct {
        const char *rest; /* after {"moebius_plan": 1, */
        const char *wanted;
    } cases[] = {
        {"\"bufer\": {}", "bufer: unknown key, allowed are moebius_plan, name, seed, gating"},
        {"\"name\": 3", "name: must be a string"},
        {"\"name\": \"0123456789012345678901234567890123456789012345678901234567890123456789"
         "012345678901234567890123456789012345678901234567890123456789\"",
         "name: longer than 127 bytes"},
        {"\"seed\": -1", "seed: -1, allowed is 0 to"},
        {"\"seed\": 1.5", "seed: 1.5, must be a whole number"},
        {"\"seed\": 18446744073709551616", "seed: "},
        {"\"gating\": 3", "gating: must be an object"},
        {"\"gating\": null", "gating: must be an object"},
        {"\"gating\": {\"mode\": \"padded\"}",
         "gating.mode: \"padded\", allowed are dynamic, static"},
        {"\"gating\": {\"capacity_factor\": 1}", "gating.capacity_factor: needs gating.mode"},
        {"\"gating\": {\"dispatch\": \"mask\"}", "gating.dispatch: needs gating.mode"},
        {"\"gating\": {\"mode\": \"static\", \"capacity_factor\": 0}", "gating.capacity_factor: 0"},
        {"\"gating\": {\"mode\": \"static\", \"capacity_factor\": \"1\"}",
         "gating.capacity_factor: must be a number"},
        {"\"gating\": {\"mode\": \"static\", \"dispatch\": \"sorted\"}",
         "gating.dispatch: \"sorted\", allowed are padded, mask"},
        {"\"buffer\": 3", "buffer: must be an object"},
        {"\"buffer\": []", "buffer: must be an object"},
        {"\"buffer\": {}", "buffer: needs \"slots\" or \"bytes\""},
        {"\"buffer\": {\"slots\": null, \"bytes\": null}", "buffer: needs \"slots\" or \"bytes\""},
        {"\"buffer\": {\"slots\": 0}", "buffer.slots: 0, allowed is 1 to 4294967295"},
        {"\"buffer\": {\"slots\": 4294967296}", "buffer.slots: 4294967296, allowed"},
        {"\"buffer\": {\"slots\": -4}", "buffer.slots: -4, allowed"},
        {"\"buffer\": {\"slots\": true}", "buffer.slots: must be a whole number"},
        {"\"buffer\": {\"slots\": [4]}", "buffer.slots: must be a whole number"},
        {"\"buffer\": {\"bytes\": 0}", "buffer.bytes: 0, allowed is 1 to"},
        {"\"buffer\": {\"slots\": 4, \"bytes\": 5}", "buffer.bytes: allowed is one of"},
        {"\"buffer\": {\"slots\": 4, \"scope\": \"rank\"}",
         "buffer.scope: \"rank\", allowed are layer, device"},
        {"\"buffer\": {\"slots\": 4, \"order\": \"random\"}",
         "buffer.order: \"random\", allowed are serial, batch, staged"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"best\"}",
         "buffer.evict: \"best\", allowed are fifo, lifo, lifo-inactive-first, lru"},
        {"\"buffer\": {\"slots\": 4, \"evict\": null}", "buffer.evict: must be a string"},
        {"\"buffer\": {\"slots\": 4, \"params\": {\"x\": 1}}", "buffer.params.x: unknown key"},
        {"\"buffer\": {\"slots\": 4, \"params\": {\"alpha\": 0.5}}",
         "buffer.params.alpha: needs buffer.evict \"ema-score\""},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"ema-score\", \"params\": {\"alpha\": 0}}",
         "buffer.params.alpha: 0"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"ema-score\", \"params\": {\"alpha\": 1.5}}",
         "buffer.params.alpha: 1.5"},
        {"\"buffer\": {\"slots\": 4, \"params\": null}", "buffer.params: must be an object"},
        {"\"buffer\": {\"slots\": 4, \"Slots\": 4}", "buffer.Slots: unknown key"},
        {"\"buffer\": {\"slots\": 4, \"scope\": \"device\", \"budget\": \"skew\"}",
         "buffer.budget: needs buffer.scope \"layer\""},
        {"\"buffer\": {\"slots\": 4, \"budget\": \"fair\"}",
         "buffer.budget: \"fair\", allowed are uniform, skew, optimal"},
        {"\"buffer\": {\"slots\": 4, \"budget\": null}", "buffer.budget: must be a word"},
        {"\"buffer\": {\"budget\": \"optimal\"}", "buffer: needs \"slots\" or \"bytes\""},
        {"\"buffer\": {\"budget\": {\"0\": [1]}}", "buffer.budget.0: must be a whole number"},
        {"\"buffer\": {\"budget\": {\"0\": 65536}}", "buffer.budget.0: 65536, allowed"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"belady\", \"initial\": \"hottest\"}",
         "buffer.initial: buffer.evict \"belady\" starts cold"},
        {"\"buffer\": {\"slots\": 4, \"initial\": {\"0\": [[1]]}}",
         "buffer.initial.0: must be a whole number"},
        {"\"buffer\": {\"slots\": 4, \"hot\": \"hottest\"}",
         "buffer.hot: needs buffer.evict \"static\""},
        {"\"buffer\": {\"slots\": 4, \"hot\": {\"0\": [1]}}", "buffer.hot: needs buffer.evict"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": 3}",
         "buffer.hot: must be a word, or an object of layers"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": \"warm\"}",
         "buffer.hot: \"warm\", allowed are hottest"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"01\": [1]}}",
         "buffer.hot: \"01\", allowed are numbers of layers"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"1\": 1}}",
         "buffer.hot: 1: must be a list of numbers"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"7\": [1, -1]}}",
         "buffer.hot.7: -1, allowed is 0 to 65534"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"7\": [], \"7\": []}}",
         "7: the key stands twice"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"static\", \"hot\": {\"7\": [1]}, \"x\": 1}",
         "buffer.x: unknown key"},
        {"\"prefetch\": {\"predictor\": \"oracle:1\"}",
         "prefetch.predictor: \"oracle:1\" needs a buffer"},
        {"\"prefetch\": {\"predictor\": \"guess\"}",
         "prefetch.predictor: \"guess\", allowed are none, frequency, previous-step"},
        {"\"prefetch\": {\"predictor\": \"oracle\"}", "\"oracle\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"oracle:0\"}", "\"oracle:0\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"oracle:1024\"}", "\"oracle:1024\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"oracle:2x\"}", "\"oracle:2x\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"activation-match\"}", "\"activation-match\", allowed"},
        {"\"prefetch\": {\"predictor\": \"activation-match:1\"}", "match:1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"activation-match:513\"}", "match:513\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"next-gate:1\"}", "\"next-gate:1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"frequency:2\"}", "\"frequency:2\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:1\"}", "\"synthetic:1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:1,0\"}", "\"synthetic:1,0\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:1.1,1\"}", "1.1,1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:0x1p-1,1\"}", "0x1p-1,1\", allowed are"},
        {"\"prefetch\": {\"predictor\": \"synthetic:1,1 \"}", "\"synthetic:1,1 \", allowed are"},
        {"\"buffer\": {\"slots\": 4}, \"prefetch\": {\"predictor\": \"oracle:2\", \"distance\": 1}",
         "prefetch.distance: 1, allowed is 2 with predictor \"oracle:2\""},
        {"\"buffer\": {\"slots\": 4}, \"prefetch\": {\"predictor\": \"pre-gate\", \"distance\": 2}",
         "prefetch.distance: 2, allowed is 1 with predictor \"pre-gate\""},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"belady\"}, \"prefetch\": {\"predictor\": "
         "\"frequency\"}",
         "prefetch.predictor: \"frequency\" does not go with buffer.evict \"belady\""},
        {"\"prefetch\": {\"distance\": 1024}", "prefetch.distance: 1024, allowed is 1 to 1023"},
        {"\"prefetch\": {\"max_inflight\": 0}", "prefetch.max_inflight: 0, allowed is 1 to 65535"},
        {"\"prefetch\": {\"experts\": 0}", "prefetch.experts: 0, allowed is 1 to 65535"},
        {"\"prefetch\": {\"table\": \"trained\"}", "prefetch.table: needs prefetch.predictor"},
        {"\"buffer\": {\"slots\": 4}, \"prefetch\": {\"predictor\": \"transition\", "
         "\"successors\": "
         "3}",
         "prefetch.successors: needs prefetch.predictor \"transition\" with a table"},
        {"\"buffer\": {\"slots\": 4}, \"prefetch\": {\"predictor\": \"transition\", \"table\": "
         "{\"0\": [1]}}",
         "prefetch.table: 0: must be a list of lists"},
        {"\"prefetch\": {\"recall\": 1}", "prefetch.recall: unknown key"},
        {"\"compute\": {\"mode\": \"cpu\"}", "compute.mode: \"cpu\", allowed are gpu, host, split"},
        {"\"compute\": {\"mode\": \"host\"}", "compute.mode: \"host\" needs a buffer"},
        {"\"compute\": {\"host_ns\": \"measured\"}",
         "compute.host_ns: needs compute.mode \"split\""},
        {"\"compute\": {\"load_ns\": {\"0\": 1}}", "compute.load_ns: needs compute.mode \"split\""},
        {"\"compute\": {\"load\": 1}", "compute.load: unknown key"},
        {"\"buffer\": {\"slots\": 4, \"evict\": \"belady\"}, \"compute\": {\"mode\": \"host\"}",
         "compute.mode: \"host\" does not go with buffer.evict \"belady\""},
        {"\"buffer\": {\"slots\": 4, \"order\": \"serial\"}, \"compute\": {\"mode\": \"split\"}",
         "compute: mode \"split\" weighs all misses of an event"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"0\": []}}", "compute.host_ns: 0: needs at least one"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"0\": [[1]]}}",
         "host_ns: 0: must be a list of [rows, ns]"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"0\": [[0, 5]]}}",
         "compute.host_ns.0: 0, allowed is 1 to"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"4\": [[1, 5], [1, 6]]}}",
         "4: [1, 6] after [1, 5]: rows"},
        {BUFFERED_SPLIT ", \"host_ns\": {\"4\": [[1, 5], [2, 4]]}}",
         "4: [2, 4] after [1, 5]: rows"},
        {BUFFERED_SPLIT ", \"load_ns\": {\"0\": 0}}", "compute.load_ns.0: 0, allowed is 1 to"},
        {BUFFERED_SPLIT ", \"event_ns\": {\"2\": [7]}}", "compute.event_ns: 2: must be [ns, ns]"},
        {"\"placement\": {\"ranks\": 0}", "placement.ranks: 0, allowed is 1 to 256"},
        {"\"placement\": {\"method\": \"best\"}", "placement.method: \"best\", allowed are"},
        {"\"placement\": {\"map\": \"trained\"}",
         "placement: map: method \"contiguous\" has none; \"given\" takes any"},
        {"\"placement\": {\"method\": \"given\"}", "placement: method \"given\" needs a map"},
        {"\"placement\": {\"map\": []}", "placement.map: must be a word, or an object of layers"},
        {"\"placement\": {\"map\": \"learn\"}", "placement.map: \"learn\", allowed are trained"},
        {"\"placement\": {\"map\": {\"0\": [[0]]}}",
         "placement: map: method \"contiguous\" has none"},
        {"\"placement\": {\"ranks\": 2, \"replicas\": 1}",
         "placement: replicas: method \"contiguous\" has none"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"map\": {\"3\": [[0], []]}}",
         "placement: map: layer 3: expert 1 is on no rank"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"map\": {\"3\": [[0], [2]]}}",
         "placement: map: layer 3: expert 1 on rank 2, there are 2"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"map\": {\"3\": [[1, 1]]}}",
         "placement: map: layer 3: expert 0 twice on rank 1"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"map\": {\"3\": [[0, 1], [1]]}}",
         "placement: replicas: 0, layer 3 of the map has 3 copies of 2 experts"},
        {"\"placement\": {\"ranks\": 2, \"method\": \"given\", \"replicas\": 1, \"map\": "
         "{\"3\": [[0, 1], [1]], \"5\": [[0], [1]]}}",
         "placement: replicas: 1, layer 5 of the map has 2 copies of 2 experts"},
        {"\"batching\": {\"max_tokens\": 0}", "batching.max_tokens: 0, allowed is 1 to 16777216"},
        {"\"batching\": {\"mode\": \"packed\"}",
         "batching.mode: \"packed\", allowed are as-recorded, apart, mixed, continuous"},
        {"\"batching\": {\"mode\": \"apart\"}", "batching: mode \"apart\" needs \"sequences\""},
        {"\"batching\": {\"mode\": \"mixed\", \"sequences\": null}", "needs \"sequences\""},
        {"\"batching\": {\"sequences\": 4}",
         "batching.sequences: needs batching.mode \"apart\", \"mixed\" or \"continuous\""},
        {"\"batching\": {\"mode\": \"continuous\"}", "\"continuous\" needs \"sequences\""},
        {"\"batching\": {\"arrivals\": \"trace\"}",
         "batching.arrivals: needs batching.mode \"continuous\""},
        {"\"batching\": {\"mode\": \"continuous\", \"sequences\": 2, \"arrivals\": \"poisson\"}",
         "batching: arrivals need \"requests_per_s\""},
        {"\"batching\": {\"requests_per_s\": 2}",
         "batching.requests_per_s: needs batching.arrivals \"fixed\" or \"poisson\""},
        {"\"batching\": {\"arrivals\": \"fixed\", \"requests_per_s\": 0}",
         "batching.requests_per_s: 0, allowed is "},
        {"\"batching\": {\"arrivals\": \"burst\"}",
         "batching.arrivals: \"burst\", allowed are at-once, trace, fixed, poisson"},
        {"\"batching\": {\"mode\": \"apart\", \"sequences\": 9, \"max_tokens\": 8}",
         "batching.sequences: 9, allowed is 1 to 8"},
        {"\"batching\": {\"mode\": \"apart\", \"sequences\": 0}",
         "batching.sequences: 0, allowed is 1 to 16777216"},
        {"\"link\": {\"h2d_gb_per_s\": 0}", "link.h2d_gb_per_s: 0, allowed"},
        {"\"link\": {\"h2d_gb_per_s\": \"12\"}", "link.h2d_gb_per_s: must be a number"},
        {"\"link\": {\"d2h\": 1}", "link.d2h: unknown key"},
        {"\"seed\": 1, \"seed\": 2", "seed: the key stands twice"},
        {"\"buffer\": {\"slots\": 1, \"slots\": 2}", "slots: the key stands twice"},
        {"\"seed\": 1e999", "too large"},
        {"\"seed\": NaN", "not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[512];
        Plan plan;
        int64_t before = mem_live_blocks();
        snprintf(text, sizeof text, "{\"moebius_plan\": 1, %s}", cases[i].rest);
        Status status = parse_plan(text, &plan);
        if (status != ERR_INPUT || strstr(error_message(), cases[i].wanted) == NULL ||
            strncmp(error_message(), "plan.json: ", 11) != 0)
            fail_msg("%s: status %d: %s", cases[i].rest, status, error_message());
        assert_int_equal(mem_live_blocks(), before);
    }
}

static void what_is_no_plan_at_all_is_refused(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        const char *wanted;
    } cases[] = {
        {"", "line 1: not JSON"},
        {"3", "must be an object"},
        {"[]", "must be an object"},
        {"null", "must be an object"},
        {"{}", "the key \"moebius_plan\" is missing"},
        {"{\"moebius_plan\": 2}", "moebius_plan: 2, allowed is 1"},
        {"{\"moebius_plan\": \"1\"}", "moebius_plan: must be a whole number"},
        {"{\"moebius_plan\": 1} {}", "line 1"},
        {"{\"moebius_plan\": 1,}", "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Plan plan;
        Status status = parse_plan(cases[i].text, &plan);
        if (status != ERR_INPUT || strstr(error_message(), cases[i].wanted) == NULL)
            fail_msg("%s: status %d: %s", cases[i].text, status, error_message());
    }
}

static void deep_large_and_absent_files_are_refused(void **unused)
{
    (void)unused;
    Plan plan;
    const char *path = scratch_path("large.json");
    size_t bytes = JSON_PLAN_BYTES + 1;
    char *text = malloc(bytes);
    memset(text, ' ', bytes);
    memcpy(text, "{\"moebius_plan\": 1}", 19);
    assert_ok(file_write_all(path, text, bytes));
    assert_int_equal(plan_load(path, &plan), ERR_INPUT);
    assert_ok(file_write_all(path, text, bytes - 1));
    assert_ok(plan_load(path, &plan));
    memset(text, '[', 200);
    assert_ok(file_write_all(path, text, 200));
    assert_int_equal(plan_load(path, &plan), ERR_INPUT);
    assert_non_null(strstr(error_message(), "nested too deeply"));
    free(text);
    assert_int_equal(plan_load(scratch_path("absent.json"), &plan), ERR_INPUT);
    assert_non_null(strstr(error_message(), "absent.json: cannot open"));
}

static void every_failed_allocation_of_a_plan_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    const char *path = scratch_path("memory.json");
    static const char text[] =
        "{\"moebius_plan\": 1, \"buffer\": {\"slots\": 3, \"evict\": \"static\","
        " \"hot\": {\"5\": [2, 1], \"3\": [0]}}}";
    assert_ok(file_write_all(path, text, sizeof text - 1));
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Plan plan = {0};
        char *canonical = NULL;
        Status status = plan_load(path, &plan);
        if (status == OK)
            status = plan_to_text(&plan, &canonical);
        mem_free(canonical);
        plan_free(&plan);
        failing_end(&failing, status);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_of_nothing_is_the_default),
        cmocka_unit_test(the_full_plan_is_read),
        cmocka_unit_test(refusals_name_the_path_and_what_is_allowed),
        cmocka_unit_test(what_is_no_plan_at_all_is_refused),
        cmocka_unit_test(deep_large_and_absent_files_are_refused),
        cmocka_unit_test(every_failed_allocation_of_a_plan_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
