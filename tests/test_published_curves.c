/* An engine with a staging area publishes hit rates by policy and budget with the routes that they
 * are of (BigMoeOnEdge): order staged gives them to the last digit. Runs where the files are. */
#include "base/status.h" /* before cmocka, which has a macro called fail */
#include "tests/import_maker.h"

#include <stdio.h>

#include "base/files.h"
#include "base/memory.h"
#include "sim/replay.h"

enum { MIB = 1 << 20 };

/* What the engine calls it, and what it is here. */
static const struct {
    const char *published;
    const char *evict;
    BufferScopeKind scope;
} POLICIES[] = {{"lru", "lru", SCOPE_DEVICE},
                {"lfu", "lfu", SCOPE_DEVICE},
                {"layer", "lru", SCOPE_LAYER},
                {"layerlfu", "lfu", SCOPE_LAYER},
                {"belady", "belady-admit", SCOPE_DEVICE}};

/* A line of the published table. */
typedef struct {
    unsigned budget_mib;
    char policy[16];
    char figures[64]; /* hit_pct_cum,hit_pct_decode,read_mib */
} Published;

static double percent(uint64_t hits, uint64_t misses)
{
    return 100.0 * (double)hits / (double)(hits + misses);
}

/* The budget is shared equally where each layer has its own. */
static void replay_line(const PackedTrace *trace, const char *evict, BufferScopeKind scope,
                        unsigned budget_mib, char *figures, size_t room)
{
    ReplayFuture future = {0};
    ReplayResult result;
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.order = ORDER_STAGED;
    plan.buffer.scope = scope;
    plan.buffer.bytes = (uint64_t)budget_mib * MIB / (scope == SCOPE_LAYER ? trace->n_layers : 1);
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", evict);
    assert_ok(replay_prepare(trace, &plan, &future));
    assert_ok(replay_run(trace, &plan, &future, NULL, NULL, &result));
    const BufferCounts *all = &result.total.counts;
    const ReplayPhase *decode = &result.phases[PHASE_DECODE];
    snprintf(figures, room, "%.3f,%.3f,%.1f", percent(all->hits, all->misses),
             percent(decode->hits, decode->misses), (double)all->bytes_loaded / MIB);
    replay_result_free(&result);
    replay_future_free(&future);
}

static bool check_line(const PackedTrace *trace, const Published *line)
{
    char figures[64];
    for (size_t i = 0; i < sizeof POLICIES / sizeof POLICIES[0]; i++) {
        if (strcmp(POLICIES[i].published, line->policy) != 0)
            continue;
        replay_line(trace, POLICIES[i].evict, POLICIES[i].scope, line->budget_mib, figures,
                    sizeof figures);
        if (strcmp(figures, line->figures) != 0)
            fail_msg("%u MiB, %s: %s, published are %s", line->budget_mib, line->policy, figures,
                     line->figures);
        return true;
    }
    return false; /* their random is not ours */
}

static void check_model(const char *model, const char *out)
{
    char path[600];
    char text[200];
    uint32_t checked = 0;
    ImportReport report;
    PackedTrace trace;
    Published line;
    const char *shared = getenv("MOEBIUS_SHARED");
    shared = shared != NULL ? shared : "../shared";
    snprintf(path, sizeof path, "%s/traces/bigmoe-on-edge/%s.route.csv", shared, model);
    if (!file_exists(path))
        skip();
    const ImportOptions options = {
        .from = IMPORT_BIGMOE_CSV, .path = path, .out = scratch_name(out)};
    assert_ok(trace_import(&options, &report));
    assert_ok(packed_trace_load(options.out, &trace));
    snprintf(path, sizeof path, "%s/traces/bigmoe-on-edge/%s-curve.csv", shared, model);
    FILE *table = fopen(path, "r");
    assert_non_null(table);
    while (fgets(text, sizeof text, table) != NULL)
        if (sscanf(text, "%u,%15[^,],%63s", &line.budget_mib, line.policy, line.figures) == 3)
            checked += check_line(&trace, &line);
    fclose(table);
    packed_trace_free(&trace);
    assert_int_equal(checked, 55); /* 11 budgets */
}

static void qwens_hit_rates_are_those_published(void **state)
{
    (void)state;
    check_model("qwen", "qwen.db");
}

static void gpt_osss_hit_rates_are_those_published(void **state)
{
    (void)state;
    check_model("gptoss", "gptoss.db");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwens_hit_rates_are_those_published),
        cmocka_unit_test(gpt_osss_hit_rates_are_those_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
