/* `moebius validate` with prefetching: simulator and executor say the same of every expert, for
 * every predictor, order and scope; and what is refused. */
#include "tests/validate_maker.h"

#include <inttypes.h>
#include <sqlite3.h>

#include "base/files.h"
#include "base/memory.h"
#include "policies/buffer.h"

static int make_files(void **state)
{
    (void)state;
    make_files_of(10, 12, "16");
    return 0;
}

/* Returns the prefetches. */
static double validate_one(const char *predictor, const char *evict, const char *order,
                           const char *scope, bool from_trace)
{
    char sets[5][64];
    cJSON *json = NULL;
    snprintf(sets[0], sizeof sets[0], "buffer.evict=%s", evict);
    snprintf(sets[1], sizeof sets[1], "buffer.order=%s", order);
    snprintf(sets[2], sizeof sets[2], "buffer.scope=%s", scope);
    snprintf(sets[3], sizeof sets[3], "buffer.slots=%d", strcmp(scope, "device") == 0 ? 11 : 5);
    snprintf(sets[4], sizeof sets[4], "prefetch.predictor=%s", predictor);
    RUN("validate", "--trace", trace, "--set", sets[0], "--set", sets[1], "--set", sets[2], "--set",
        sets[3], "--set", sets[4], "--set", "prefetch.max_inflight=3", "--routing",
        from_trace ? forced : "gate", "--threads", "1", "--json");
    assert_run_done(&run);
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "agreed")));
    double prefetches = number_in(json, "measured", "prefetches");
    assert_true(number_in(json, "predicted", "prefetches") == prefetches);
    assert_true(number_in(json, "predicted", "bytes_prefetched") ==
                number_in(json, "measured", "bytes_prefetched"));
    /* With the router's own routing too: an expert that had been overwritten before it ran would
     * have changed it. */
    assert_true(number_in(json, "predicted", "misses") == number_in(json, "measured", "misses"));
    assert_true(number_in(json, "events", "compared") ==
                number_in(json, "measured", "lookups") + number_in(json, "measured", "evictions") +
                    prefetches);
    cJSON_Delete(json);
    return prefetches;
}

static void every_predictor_order_and_scope_agrees_event_by_event(void **state)
{
    (void)state;
    static const char *const ORDERS[] = {"serial", "batch", "staged"};
    static const char *const SCOPES[] = {"layer", "device"};
    static const char *const EVICTS[] = {
        "fifo", "lifo-inactive-first", "lru", "lfu", "random", "arc", "s3-fifo", "least-stale"};
    static const struct {
        const char *name;
        bool needs_future;
    } PREDICTORS[] = {{"frequency", false}, {"previous-step", false},      {"transition", false},
                      {"next-gate", false}, {"activation-match:4", false}, {"pre-gate", true},
                      {"oracle:2", true},   {"synthetic:0.8,0.5", true}};
    for (size_t p = 0; p < sizeof PREDICTORS / sizeof PREDICTORS[0]; p++) {
        double prefetches = 0;
        for (int kind = 0; kind < 6; kind++)
            for (size_t e = 0; e < sizeof EVICTS / sizeof EVICTS[0]; e++) {
                const char *order = ORDERS[kind / 2];
                const char *scope = SCOPES[kind % 2];
                prefetches += validate_one(PREDICTORS[p].name, EVICTS[e], order, scope, true);
                if (!PREDICTORS[p].needs_future && e % 3 == 2)
                    validate_one(PREDICTORS[p].name, EVICTS[e], order, scope, false);
            }
        assert_true(prefetches > 1000);
    }
}

static void a_predictor_that_needs_the_future_is_refused_without_forced_routing(void **state)
{
    (void)state;
    static const char *const PREDICTORS[] = {"pre-gate", "oracle:1", "synthetic:1,1"};
    for (size_t i = 0; i < 3; i++) {
        char set[64];
        char wanted[64];
        snprintf(set, sizeof set, "prefetch.predictor=%s", PREDICTORS[i]);
        snprintf(wanted, sizeof wanted, "prefetch.predictor: %s needs the future", PREDICTORS[i]);
        RUN("validate", "--trace", trace, "--set", "buffer.slots=3", "--set", set);
        if (run.code != 2 || strstr(run.err, wanted) == NULL)
            fail_msg("exit %d: %s", run.code, run.err);
    }
}

/* One run over a link of SPEED. False: it was too fast for this machine to see it overtake much. */
static bool validate_slowly(const char *predictor, const char *order, const char *speed,
                            const char *routing)
{
    cJSON *json = NULL;
    RUN("validate", "--trace", trace, "--set", "buffer.slots=6", "--set", "buffer.evict=lru",
        "--set", predictor, "--set", "prefetch.max_inflight=4", "--set", order, "--set", speed,
        "--routing", routing, "--threads", "1", "--json");
    assert_run_done(&run);
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "agreed")));
    double cancelled = number_in(json, "measured", "prefetches_cancelled");
    double late = number_in(json, "measured", "late_loads");
    assert_true(late <= cancelled && cancelled < number_in(json, "measured", "prefetches"));
    assert_true(number_in(json, "predicted", "misses") == number_in(json, "measured", "misses"));
    assert_true(number_in(json, "predicted", "prefetches") ==
                number_in(json, "measured", "prefetches"));
    bool fewer = number_in(json, "measured", "bytes_prefetched") <
                 number_in(json, "predicted", "bytes_prefetched");
    assert_true(fewer == (cancelled > 0));
    cJSON_Delete(json);
    return cancelled > 10 && late > 0;
}

/* Over a slow link prefetches are overtaken and cancelled, and made up for when they are hit: no
 * decision changes, and no number, which the router's own choices would show. What is slow depends
 * on how long the machine takes to compute. */
static void a_slow_link_cancels_prefetches_and_changes_no_decision(void **unused)
{
    (void)unused;
    static const char *const ROUTINGS[] = {"gate", forced};
    static const char *const PREDICTORS[] = {"prefetch.predictor=next-gate",
                                             "prefetch.predictor=synthetic:0.6,0.6"};
    static const char *const ORDERS[] = {"buffer.order=batch", "buffer.order=serial"};
    static const char *const SPEEDS[] = {"link.h2d_gb_per_s=0.01", "link.h2d_gb_per_s=0.002",
                                         "link.h2d_gb_per_s=0.0004", NULL};
    for (size_t i = 0; i < 4; i++) {
        const char *const *speed = SPEEDS;
        while (!validate_slowly(PREDICTORS[i % 2], ORDERS[i / 2], *speed, ROUTINGS[i % 2]))
            assert_non_null(*++speed);
    }
}

/* Each plan of a study gives what it gives alone, and the executor obeys it. Plans that learn do so
 * from the first half. */
static void sweep_and_repeat(const char *text_of_study, bool learns)
{
    const char *option = learns ? "--train" : "--set";
    const char *value = learns ? "0:0.5" : "buffer.slots=4";
    char study[256];
    char out[256];
    char plan[256];
    sqlite3 *db;
    sqlite3_stmt *rows;
    uint32_t plans = 0;
    snprintf(study, sizeof study, "%s", scratch_path("study.json"));
    snprintf(out, sizeof out, "%s", scratch_path("study.db"));
    snprintf(plan, sizeof plan, "%s", scratch_path("plan.json"));
    assert_ok(file_write_all(study, text_of_study, strlen(text_of_study)));
    unlink(out);
    RUN("sweep", "--trace", trace, "--study", study, "--out", out, "--jobs", "2");
    assert_run_done(&run);
    assert_int_equal(sqlite3_open(out, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT plan, misses, prefetches FROM result WHERE done",
                                        -1, &rows, NULL),
                     SQLITE_OK);
    while (sqlite3_step(rows) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(rows, 0);
        cJSON *json;
        assert_ok(file_write_all(plan, text, strlen(text)));
        RUN("validate", "--trace", trace, "--plan", plan, option, value, "--routing", forced,
            "--threads", "1");
        assert_run_done(&run);
        RUN("simulate", "--trace", trace, "--plan", plan, option, value, "--json");
        assert_run_done(&run);
        assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
        assert_true(cJSON_GetObjectItemCaseSensitive(json, "misses")->valuedouble ==
                    sqlite3_column_double(rows, 1));
        assert_true(number_in(json, "prefetch", "loads") == sqlite3_column_double(rows, 2));
        cJSON_Delete(json);
        plans++;
    }
    assert_true(plans >= 8);
    sqlite3_finalize(rows);
    sqlite3_close(db);
}

/* Plans of one study that read different things of a trace. */
static void a_sweep_gives_what_simulate_gives(void **state)
{
    (void)state;
    sweep_and_repeat("{\"moebius_study\": 1, \"name\": \"signals\", \"grid\": "
                     "{\"buffer.slots\": [4], \"buffer.evict\": [\"lru\", \"ema-score\"], "
                     "\"prefetch.distance\": [1, 2], "
                     "\"prefetch.predictor\": [\"next-gate\", \"activation-match:4\"]}}",
                     false);
}

/* ... and whose budgets are learnt from them. */
static void budgets_learnt_with_scores_and_predictions_are_obeyed(void **state)
{
    (void)state;
    sweep_and_repeat("{\"moebius_study\": 1, \"name\": \"budgets\", \"base\": {\"buffer\": "
                     "{\"slots\": 4, \"budget\": \"optimal\"}}, \"grid\": "
                     "{\"buffer.evict\": [\"lru\", \"ema-score\"], \"prefetch.distance\": [1, 2], "
                     "\"prefetch.predictor\": [\"next-gate\", \"activation-match:4\"]}}",
                     true);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_predictor_order_and_scope_agrees_event_by_event),
        cmocka_unit_test(a_predictor_that_needs_the_future_is_refused_without_forced_routing),
        cmocka_unit_test(a_sweep_gives_what_simulate_gives),
        cmocka_unit_test(budgets_learnt_with_scores_and_predictions_are_obeyed),
        cmocka_unit_test(a_slow_link_cancels_prefetches_and_changes_no_decision),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
