/* `moebius validate`: on a recorded trace simulator and executor say the same of every expert, for
 * every policy, order, scope and size; and what it refuses. */
#include "tests/validate_maker.h"

#include <inttypes.h>

#include "base/files.h"
#include "base/memory.h"
#include "policies/buffer.h"
#include "traces/reader.h"
#include "traces/recorder.h"

static void assert_refused(const char *wanted)
{
    if (run.code != 2 || !cli_said_one_line(&run) || strstr(run.err, wanted) == NULL ||
        run.out[0] != '\0')
        fail_msg("wanted exit 2 and \"%s\", got exit %d, \"%s\"", wanted, run.code, run.err);
}

static int make_files(void **state)
{
    (void)state;
    make_files_of(14, 20, "20");
    return 0;
}

static cJSON *parse_output(void)
{
    cJSON *json = NULL;
    assert_run_done(&run);
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "agreed")));
    return json;
}

static void validate_one(const char *evict, const char *order, const char *scope, uint32_t slots,
                         bool from_trace)
{
    char sets[4][64];
    snprintf(sets[0], sizeof sets[0], "buffer.evict=%s", evict);
    snprintf(sets[1], sizeof sets[1], "buffer.order=%s", order);
    snprintf(sets[2], sizeof sets[2], "buffer.scope=%s", scope);
    snprintf(sets[3], sizeof sets[3], "buffer.slots=%" PRIu32, slots);
    RUN("validate", "--trace", trace, "--set", sets[0], "--set", sets[1], "--set", sets[2], "--set",
        sets[3], "--routing", from_trace ? forced : "gate", "--threads", "1", "--json");
    cJSON *json = parse_output();
    double lookups = number_in(json, "measured", "lookups");
    assert_true(lookups > 500);
    assert_true(number_in(json, "events", "compared") ==
                lookups + number_in(json, "measured", "evictions"));
    /* The routing did not change either, so the prediction from the trace held; but forced weights
     * are the trace's, rounded, so that scores of later layers may differ a little. */
    if (from_trace && eviction_needs_scores(evict)) {
        cJSON_Delete(json);
        return;
    }
    assert_true(number_in(json, "predicted", "misses") == number_in(json, "measured", "misses"));
    assert_true(number_in(json, "predicted", "bytes_loaded") ==
                number_in(json, "measured", "bytes_loaded"));
    assert_true(number_in(json, "predicted", "evictions") ==
                number_in(json, "measured", "evictions"));
    cJSON_Delete(json);
}

static void every_policy_order_scope_and_size_agrees_event_by_event(void **state)
{
    (void)state;
    static const char *const ORDERS[] = {"serial", "batch", "staged"};
    static const char *const SCOPES[] = {"layer", "device"};
    static const uint32_t SLOTS[] = {1, 2, 3, 5, 8, 13};
    uint32_t policies = 0;
    for (const char *const *evict = eviction_names(); *evict != NULL; evict++, policies++)
        for (int kind = 0; kind < 6; kind++)
            for (size_t i = 0; i < sizeof SLOTS / sizeof SLOTS[0]; i++) {
                bool future = eviction_needs_future(*evict);
                if (eviction_needs_hot(*evict))
                    continue; /* see below */
                const char *order = ORDERS[kind / 2];
                const char *scope = SCOPES[kind % 2];
                validate_one(*evict, order, scope, SLOTS[i], true);
                if (!future && i == 2)
                    validate_one(*evict, order, scope, SLOTS[i], false);
            }
    assert_true(policies >= 9);
}

/* What evict static learns from the first half of the trace is what it is then given. */
static void a_learnt_hot_set_agrees_in_every_order_scope_and_size(void **state)
{
    (void)state;
    static const char *const ORDERS[] = {"serial", "batch", "staged"};
    static const uint32_t SLOTS[] = {1, 3, 8, 13};
    for (int kind = 0; kind < 6; kind++)
        for (size_t i = 0; i < sizeof SLOTS / sizeof SLOTS[0]; i++) {
            char order[64];
            char scope[64];
            char slots[64];
            snprintf(order, sizeof order, "buffer.order=%s", ORDERS[kind / 2]);
            snprintf(scope, sizeof scope, "buffer.scope=%s", kind % 2 ? "device" : "layer");
            snprintf(slots, sizeof slots, "buffer.slots=%" PRIu32, SLOTS[i]);
            RUN("validate", "--trace", trace, "--set", order, "--set", scope, "--set", slots,
                "--set", "buffer.evict=static", "--train", "0:0.5", "--threads", "1", "--json");
            cJSON *json = parse_output();
            const cJSON *plan = cJSON_GetObjectItemCaseSensitive(json, "plan");
            const cJSON *buffer = cJSON_GetObjectItemCaseSensitive(plan, "buffer");
            assert_true(cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(buffer, "hot")));
            assert_true(number_in(json, "predicted", "misses") ==
                        number_in(json, "measured", "misses"));
            assert_true(kind / 2 == 2 || number_in(json, "measured", "evictions") == 0);
            cJSON_Delete(json);
        }
}

/* Budgets by layer, and residents that are in place before the first step. */
static void learnt_budgets_and_warm_starts_agree(void **state)
{
    (void)state;
    static const char *const CASES[][3] = {
        {"buffer.evict=lru", "buffer.initial=hottest", "buffer.scope=device"},
        {"buffer.evict=lfu", "buffer.initial=hottest", "buffer.budget=uniform"},
        {"buffer.evict=s3-fifo", "buffer.initial=hottest", "buffer.budget=skew"},
        {"buffer.evict=static", "buffer.initial=hottest", "buffer.budget=optimal"},
        {"buffer.evict=lru", "buffer.budget=optimal", "buffer.slots=2"},
        {"buffer.evict=belady", "buffer.budget=optimal", "buffer.slots=2"},
        {"prefetch.predictor=transition", "prefetch.table=trained", "prefetch.successors=3"},
        {"prefetch.predictor=transition", "prefetch.table=trained", "buffer.budget=optimal"},
        {"prefetch.predictor=pre-gate", "buffer.evict=lifo", "buffer.budget=optimal"},
        {"prefetch.predictor=frequency", "prefetch.table=trained", "buffer.initial=hottest"},
    };
    static const char *const ORDERS[] = {"buffer.order=serial", "buffer.order=batch",
                                         "buffer.order=staged"};
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++)
        for (size_t order = 0; order < 3; order++) {
            RUN("validate", "--trace", trace, "--set", "buffer.slots=3", "--set", CASES[i][0],
                "--set", CASES[i][1], "--set", CASES[i][2], "--set", ORDERS[order], "--train",
                "0:0.5", "--routing", forced, "--threads", "1", "--json");
            cJSON *json = parse_output();
            assert_true(number_in(json, "predicted", "misses") ==
                        number_in(json, "measured", "misses"));
            cJSON_Delete(json);
        }
}

static void a_plan_with_something_to_learn_is_refused_without_a_training_part(void **state)
{
    (void)state;
    RUN("validate", "--trace", trace, "--set", "buffer.slots=3", "--set", "buffer.evict=static");
    assert_refused("buffer.hot: must be learnt from a part of a trace before");
    RUN("validate", "--trace", trace, "--set", "buffer.slots=3", "--train", "0:0.5");
    assert_refused("--train: nothing is learnt");
    RUN("validate", "--trace", trace, "--set", "buffer.slots=3", "--set", "buffer.evict=static",
        "--train", "0.5");
    assert_refused("--train: \"0.5\": must be FROM:TO");
    RUN("record", "--model", model, "--tokens", scratch_path("tokens.jsonl"), "--out",
        scratch_path("never.db"), "--set", "buffer.slots=3", "--set", "buffer.evict=static");
    assert_refused("buffer.hot: must be learnt");
    assert_false(file_exists(scratch_path("never.db")));
}

static void without_a_buffer_everything_hits(void **state)
{
    (void)state;
    RUN("validate", "--trace", trace, "--json");
    cJSON *json = parse_output();
    assert_true(number_in(json, "measured", "misses") == 0);
    assert_true(number_in(json, "events", "compared") == number_in(json, "measured", "lookups"));
    cJSON_Delete(json);
}

static void static_gating_agrees_too(void **state)
{
    (void)state;
    static const char *const DISPATCH[] = {"gating.dispatch=mask", "gating.dispatch=padded"};
    for (size_t i = 0; i < 2; i++) {
        RUN("validate", "--trace", trace, "--set", "gating.mode=static", "--set",
            "gating.capacity_factor=0.3", "--set", DISPATCH[i], "--set", "buffer.slots=3", "--set",
            "buffer.evict=belady", "--routing", forced, "--json");
        cJSON *json = parse_output();
        /* Every expert keeps a row, so that what is needed is what it was. */
        assert_true(number_in(json, "measured", "lookups") ==
                    number_in(json, "predicted", "lookups"));
        assert_true(number_in(json, "measured", "misses") ==
                    number_in(json, "predicted", "misses"));
        cJSON_Delete(json);
    }
}

static void a_policy_that_needs_the_future_is_refused_without_forced_routing(void **state)
{
    (void)state;
    RUN("validate", "--trace", trace, "--set", "buffer.slots=3", "--set", "buffer.evict=belady");
    assert_refused("belady needs the future");
}

/* Copies the trace without token ids. */
static void copy_without_tokens(const char *to)
{
    TraceReader *reader;
    Recorder *recorder;
    TraceStep step;
    uint32_t n_layers;
    assert_ok(trace_reader_open(trace, &reader));
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    unlink(to);
    assert_ok(recorder_open(to, &(TraceRun){.tool = "test", .source = "test", .model = "elsewhere"},
                            layers, n_layers, NULL, &recorder));
    while (trace_reader_next_step(reader, &step) == OK) {
        step.token = NULL;
        assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    }
    assert_ok(recorder_close(recorder));
    trace_reader_close(reader);
}

static void a_trace_without_tokens_runs_with_its_own_routing(void **state)
{
    (void)state;
    char bare[256];
    snprintf(bare, sizeof bare, "%s", scratch_path("bare.db"));
    copy_without_tokens(bare);
    RUN("validate", "--trace", bare, "--set", "buffer.slots=3", "--model", model, "--json");
    cJSON *json = parse_output();
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(json, "routing")->valuestring, "forced");
    cJSON_Delete(json);
    RUN("validate", "--trace", bare, "--routing", "gate", "--model", model);
    assert_refused("its id is not in the trace");
    RUN("validate", "--trace", bare);
    assert_refused("its model \"elsewhere\" is not here");
}

static void the_run_is_kept_only_when_asked_for(void **state)
{
    (void)state;
    char out[256];
    snprintf(out, sizeof out, "%s", scratch_path("kept.db"));
    RUN("validate", "--trace", trace, "--set", "buffer.slots=3", "--out", out);
    assert_run_done(&run);
    assert_non_null(strstr(run.out, "simulator and executor agree on all"));
    RUN("check", out);
    assert_run_done(&run);
    RUN("validate", "--trace", trace, "--set", "buffer.slots=3", "--out", out);
    assert_refused("kept.db");
    /* A scratch folder for the run that cannot be written: nothing is left anywhere. */
    setenv("TMPDIR", "/nonexistent/folder", 1);
    RUN("validate", "--trace", trace);
    unsetenv("TMPDIR");
    assert_refused("/nonexistent/folder");
}

/* Writes a plan and returns its path. */
static const char *plan_file(const char *name, const char *text)
{
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "{\"moebius_plan\":1,%s}", text);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* Each row of a validation of several plans is what the plan gives on its own. */
static void several_plans_run_in_one_executor_each_as_on_its_own(void **state)
{
    (void)state;
    static const char *const TEXTS[] = {
        "\"name\":\"first\",\"buffer\":{\"slots\":2,\"evict\":\"lru\"}",
        "\"name\":\"whole\"",
        "\"name\":\"shared\",\"buffer\":{\"slots\":13,\"evict\":\"arc\",\"scope\":\"device\","
        "\"order\":\"serial\"}",
        "\"name\":\"ahead\",\"buffer\":{\"slots\":5,\"evict\":\"ema-score\"},"
        "\"prefetch\":{\"predictor\":\"next-gate\",\"max_inflight\":3}",
        "\"name\":\"learnt\",\"buffer\":{\"slots\":4,\"evict\":\"static\",\"order\":\"staged\"}",
    };
    enum { PLANS = sizeof TEXTS / sizeof TEXTS[0] };
    char files[PLANS][256];
    cJSON *alone[PLANS];
    for (size_t i = 0; i < PLANS; i++) {
        snprintf(files[i], sizeof files[i], "%s", plan_file("plan.json", TEXTS[i]));
        snprintf(files[i] + strlen(files[i]) - 5, 16, "%zu.json", i);
        assert_int_equal(rename(scratch_path("plan.json"), files[i]), 0);
        RUN("validate", "--trace", trace, "--plan", files[i], "--threads", "1", "--json",
            i == 4 ? "--train" : NULL, "0:0.5");
        alone[i] = parse_output();
    }
    RUN("validate", "--trace", trace, "--plan", files[0], "--plan", files[1], "--plan", files[2],
        "--plan", files[3], "--plan", files[4], "--train", "0:0.5", "--threads", "1", "--json");
    cJSON *json = parse_output();
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(json, "plans");
    static const char *const KEYS[] = {"steps",     "tokens",   "slot_bytes", "memory_bytes",
                                       "predicted", "measured", "events",     "plan"};
    assert_int_equal(cJSON_GetArraySize(rows), PLANS);
    for (int i = 0; i < PLANS; i++) {
        const cJSON *row = cJSON_GetArrayItem(rows, i);
        assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(row, "agreed")));
        for (size_t k = 0; k < sizeof KEYS / sizeof KEYS[0]; k++) {
            const cJSON *wanted = cJSON_GetObjectItemCaseSensitive(alone[i], KEYS[k]);
            assert_non_null(wanted);
            if (!cJSON_Compare(wanted, cJSON_GetObjectItemCaseSensitive(row, KEYS[k]), true))
                fail_msg("plan %d: %s differs", i, KEYS[k]);
        }
        cJSON_Delete(alone[i]);
    }
    cJSON_Delete(json);
    RUN("validate", "--trace", trace, "--plan", files[0], "--plan", files[2]);
    assert_run_done(&run);
    assert_non_null(strstr(run.out, "agree on all events of all 2 plans"));
    RUN("validate", "--trace", trace, "--plan", files[0], "--plan", files[2], "--out",
        scratch_path("never.db"));
    assert_refused("--out keeps the run of one plan");
    RUN("validate", "--trace", trace, "--plan", files[0], "--plan", files[4]);
    assert_refused("buffer.hot: must be learnt");
}

/* The file of the plan that cannot be run is named. */
static void plans_on_several_ranks_are_refused(void **state)
{
    (void)state;
    char good[256];
    snprintf(good, sizeof good, "%s", plan_file("good.json", "\"name\":\"good\""));
    const char *ranks = plan_file("ranks.json", "\"name\":\"two\",\"placement\":{\"ranks\":2}");
    RUN("validate", "--trace", trace, "--plan", good, "--plan", ranks);
    assert_refused("/ranks.json: placement.ranks: 2, runs have one rank");
    RUN("validate", "--trace", trace, "--plan", ranks);
    assert_refused("/ranks.json: placement.ranks: 2, runs have one rank");
    RUN("record", "--model", "models/tiny-32x4", "--tokens", "random:1x4", "--out",
        scratch_path("never.db"), "--plan", ranks);
    assert_refused("/ranks.json: placement.ranks: 2, runs have one rank");
    RUN("validate", "--trace", trace, "--set", "placement.ranks=2");
    assert_refused("moebius: validate: --set: placement.ranks: 2, runs have one rank");
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    char other[300];
    char wrong[256];
    snprintf(other, sizeof other, "trace:%s", scratch_path("kept.db"));
    snprintf(wrong, sizeof wrong, "%s", scratch_path("wrong-model"));
    make_checkpoint(wrong, &(CheckpointSpec){.experts = 9});
    RUN("validate", "--trace", trace, "--routing", other);
    assert_refused("can only run with its own routing");
    RUN("validate", "--trace", trace, "--routing", "trace:/no/such.db");
    assert_refused("moebius: validate: /no/such.db: cannot open");
    RUN("validate", "--trace", trace, "--routing", "guess");
    assert_refused("allowed are gate and trace:FILE");
    RUN("validate", "--trace", trace, "--model", wrong);
    assert_refused("the model has 9 top-2");
    RUN("validate", "--trace", trace, "--set", "buffer.slots=0");
    assert_refused("buffer.slots");
    RUN("validate", "--trace", trace, "--set", "batching.max_tokens=15");
    assert_refused("batching.max_tokens is 15");
    RUN("validate", "--trace", trace, "--device", "abacus");
    assert_refused("abacus");
    RUN("validate", "--trace", model);
    assert_refused("model");
    RUN("validate");
    assert_refused("--trace is missing");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_policy_order_scope_and_size_agrees_event_by_event),
        cmocka_unit_test(a_learnt_hot_set_agrees_in_every_order_scope_and_size),
        cmocka_unit_test(learnt_budgets_and_warm_starts_agree),
        cmocka_unit_test(a_plan_with_something_to_learn_is_refused_without_a_training_part),
        cmocka_unit_test(without_a_buffer_everything_hits),
        cmocka_unit_test(static_gating_agrees_too),
        cmocka_unit_test(a_policy_that_needs_the_future_is_refused_without_forced_routing),
        cmocka_unit_test(a_trace_without_tokens_runs_with_its_own_routing),
        cmocka_unit_test(the_run_is_kept_only_when_asked_for),
        cmocka_unit_test(several_plans_run_in_one_executor_each_as_on_its_own),
        cmocka_unit_test(plans_on_several_ranks_are_refused),
        cmocka_unit_test(bad_requests_are_refused),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
