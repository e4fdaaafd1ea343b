/* Reports: pages are well-formed and say the numbers that the other commands say. */
#include "tests/cli_run.h"
#include "tests/routed_trace.h"
#include "tests/sweep_maker.h"
#include "tests/xml_check.h"

#include <inttypes.h>
#include <sys/stat.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"

static CliRun run;
static char trace[256];
static char study[256];
static char spec[256];
static char out[256];

/* More slots are faster, and take more memory. */
static const char TIMES[] =
    "UPDATE study SET hardware = 'box <1> & more';"
    "UPDATE result SET peak_bytes = 1000000 + 1000 * slots, total_ns = 3000000000 / (10 + slots),"
    " tokens_per_s = 100.25 * (10 + slots), exposed_load_ns = 700000 / slots;"
    "UPDATE result SET tokens_per_s = tokens_per_s - 1, total_ns = total_ns + 9 WHERE evict ="
    " 'fifo'";

static void route(uint64_t *random, uint16_t *experts)
{
    for (int i = 0; i < 4; i += 2) {
        experts[i] = (uint16_t)random_below(random, 1 + random_below(random, 8));
        experts[i + 1] = (uint16_t)((experts[i] + 1 + random_below(random, 7)) % 8);
    }
}

static void make_trace_file(void)
{
    const TraceLayer layers[2] = {
        {.layer = 1, .name = "<one>", .experts = 8, .top_k = 2, .expert_bytes = 1000},
        {.layer = 3, .name = "two\xFF", .experts = 8, .top_k = 2, .expert_bytes = 1000}};
    const TraceRun of = {.tool = "test", .source = "a & b", .model = "</td><script>"};
    record_routed(trace, &(RoutedTrace){.run = &of,
                                        .layers = layers,
                                        .n_layers = 2,
                                        .steps = 60,
                                        .requests = 1,
                                        .first = PHASE_PREFILL,
                                        .phase = PHASE_DECODE,
                                        .route = route,
                                        .random = 9});
}

static int make_files(void **unused)
{
    static const char STUDY[] =
        "{\"moebius_study\": 1, \"name\": \"few\", \"grid\": {\"buffer.evict\": [\"lru\","
        " \"fifo\"], \"buffer.slots\": [2, 4, 6]}}";
    (void)unused;
    snprintf(trace, sizeof trace, "%s", scratch_path("trace <&>.db"));
    snprintf(study, sizeof study, "%s", scratch_path("study \xFF.db"));
    snprintf(spec, sizeof spec, "%s", scratch_path("study.json"));
    snprintf(out, sizeof out, "%s", scratch_path("report.html"));
    make_trace_file();
    assert_ok(file_write_all(spec, STUDY, sizeof STUDY - 1));
    RUN("sweep", "--trace", trace, "--study", spec, "--out", study);
    return run.code;
}

/* The page of FILE; freed with mem_free(). */
static char *page_of(const char *file)
{
    char *page;
    size_t bytes;
    unlink(out);
    RUN("report", file, "-o", out);
    if (run.code != 0)
        fail_msg("%s", run.err);
    assert_ok(file_read_all(out, 1 << 24, &page, &bytes));
    assert_true(xml_is_well_formed(page));
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "href"));
    assert_null(strstr(page, "src="));
    return page;
}

static cJSON *printed(void)
{
    cJSON *json;
    if (run.code != 0)
        fail_msg("%s", run.err);
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    return json;
}

static const cJSON *member(const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (item == NULL)
        fail_msg("no %s", key);
    return item;
}

static double number(const cJSON *json, const char *key)
{
    return member(json, key)->valuedouble;
}

/* Cell COLUMN of the row of PAGE that begins with NAME. */
static const char *cell_of(const char *page, const char *name, int column)
{
    static char text[64];
    char start[256];
    snprintf(start, sizeof start, "<tr><td>%s</td>", name);
    const char *at = strstr(page, start);
    if (at == NULL)
        fail_msg("no row %s", name);
    for (int i = 0; i < column; i++)
        at = strstr(at, "</td><td") + 5;
    at = strchr(strchr(at, 't'), '>') + 1;
    snprintf(text, sizeof text, "%.*s", (int)strcspn(at, "<"), at);
    return text;
}

static void assert_cell(const char *page, const char *name, int column, const char *format,
                        double value)
{
    char wanted[64];
    snprintf(wanted, sizeof wanted, format, value);
    assert_string_equal(cell_of(page, name, column), wanted);
}

static void misses_are_those_of_simulate_beside_belady(void **unused)
{
    (void)unused;
    static const char *const EVICTS[] = {"lru", "fifo", "belady"};
    char *page = page_of(study);
    assert_non_null(strstr(page, "This is a study"));
    assert_non_null(strstr(page, "a hit rate is not a throughput"));
    for (int i = 0; i < 3; i++)
        for (int slots = 2; slots <= 6; slots += 2) {
            char evict[64];
            char size[64];
            snprintf(evict, sizeof evict, "buffer.evict=%s", EVICTS[i]);
            snprintf(size, sizeof size, "buffer.slots=%d", slots);
            RUN("simulate", "--trace", trace, "--set", evict, "--set", size, "--json");
            cJSON *json = printed();
            assert_cell(page, EVICTS[i], slots / 2, "%.4f", number(json, "miss_ratio"));
            cJSON_Delete(json);
        }
    mem_free(page);
}

/* Slots are those of a rank, so that sizes of one rank and of several are not compared. */
static void each_number_of_ranks_has_misses_of_its_own(void **unused)
{
    (void)unused;
    static const char STUDY[] =
        "{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\"], \"buffer.slots\": [2],"
        " \"placement.ranks\": [1, 2, 4]}}";
    char grid[256];
    char of_ranks[256];
    snprintf(grid, sizeof grid, "%s", scratch_path("grid.json"));
    snprintf(of_ranks, sizeof of_ranks, "%s", scratch_path("ranks.db"));
    assert_ok(file_write_all(grid, STUDY, sizeof STUDY - 1));
    RUN("sweep", "--trace", trace, "--study", grid, "--out", of_ranks);
    char *page = page_of(of_ranks);
    for (int ranks = 1; ranks <= 4; ranks *= 2) {
        char set[64];
        char title[96];
        snprintf(set, sizeof set, "placement.ranks=%d", ranks);
        snprintf(title, sizeof title, ranks > 1 ? "layer, order batch, %d ranks<" : "batch<",
                 ranks);
        RUN("simulate", "--trace", trace, "--set", "buffer.slots=2", "--set", set, "--json");
        cJSON *json = printed();
        const char *part = strstr(page, title);
        assert_non_null(part);
        assert_cell(part, "lru", 1, "%.4f", number(json, "miss_ratio"));
        cJSON_Delete(json);
    }
    mem_free(page);
}

/* A copy of the study with times; its path is valid until the next scratch_path(). */
static const char *timed_study(void)
{
    static char path[256];
    char *data;
    size_t bytes;
    snprintf(path, sizeof path, "%s", scratch_path("times.db"));
    assert_ok(file_read_all(study, 1 << 24, &data, &bytes));
    assert_ok(file_write_all(path, data, bytes));
    mem_free(data);
    change(path, TIMES);
    return path;
}

static void the_front_leads_and_is_that_of_plan(void **unused)
{
    (void)unused;
    const char *path = timed_study();
    char *page = page_of(path);
    const cJSON *point;
    assert_true(strstr(page, "Time and memory") < strstr(page, "Misses by policy"));
    assert_non_null(strstr(page, "box &lt;1&gt; &amp; more"));
    RUN("plan", "--from", path, "--pareto", "--json");
    cJSON *json = printed();
    assert_int_equal(cJSON_GetArraySize(member(json, "pareto")), 3);
    cJSON_ArrayForEach(point, member(json, "pareto"))
    {
        const char *name = member(point, "name")->valuestring;
        double waited = number(point, "exposed_load_ns") / number(point, "total_ns");
        assert_cell(page, name, 2, "%.0f", number(point, "peak_bytes"));
        assert_cell(page, name, 3, "%.1f", number(point, "tokens_per_s"));
        assert_cell(page, name, 4, "%.3g ms", number(point, "total_ns") / 1e6);
        assert_cell(page, name, 6, "%.1f %%", 100 * waited);
        assert_cell(page, name, 7, "%.4f", number(point, "miss_ratio"));
    }
    cJSON_Delete(json);
    mem_free(page);
    RUN("plan", "--from", path, "--pareto", "--tokens-per-second-at-least", "1e9");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "times.db: no result meets the conditions\n"));
}

static void a_plan_of_the_front_is_picked_by_its_bytes(void **unused)
{
    (void)unused;
    const char *path = timed_study();
    char *page = page_of(path);
    char plan[256];
    char bytes[64];
    snprintf(plan, sizeof plan, "%s", scratch_path("plan.json"));
    snprintf(bytes, sizeof bytes, "%s", cell_of(page, "lru 4/layer batch", 2));
    RUN("plan", "--from", path, "--best", "time", "--memory-at-most", bytes, "--out", plan,
        "--json");
    cJSON *json = printed();
    assert_string_equal(member(json, "name")->valuestring, "lru 4/layer batch");
    cJSON_Delete(json);
    mem_free(page);
}

static void assert_character(const char *page, const char *row, const cJSON *layer)
{
    const cJSON *reuse = member(layer, "reuse");
    assert_cell(page, row, 1, "%.0f", number(layer, "events"));
    assert_cell(page, row, 2, "%.2f", number(layer, "lookups") / number(layer, "events"));
    assert_cell(page, row, 3, "%.4f", number(layer, "active_share"));
    assert_cell(page, row, 4, "%.4f", number(layer, "busiest_tenth_share"));
    assert_cell(page, row, 5, "%.1f", number(layer, "effective_experts"));
    assert_cell(page, row, 6, "%.4f", number(layer, "again_share"));
    assert_cell(page, row, 7, "%.2f", number(reuse, "mean_events"));
    assert_cell(page, row, 8, "%.4f", number(reuse, "within_4"));
    assert_cell(page, row, 11, "%.2f", number(layer, "waste_factor"));
}

static void a_trace_is_told_as_analyze_and_info_do(void **unused)
{
    (void)unused;
    char *page = page_of(trace);
    const cJSON *layer;
    assert_non_null(strstr(page, "This is a trace"));
    assert_non_null(strstr(page, "trace &lt;&amp;&gt;.db"));
    assert_non_null(strstr(page, "&lt;/td&gt;&lt;script&gt;"));
    RUN("analyze", trace, "--json");
    cJSON *json = printed();
    assert_character(page, "total", member(json, "total"));
    cJSON_ArrayForEach(layer, member(json, "per_layer"))
    {
        char row[32];
        snprintf(row, sizeof row, "%.0f", number(layer, "layer"));
        assert_character(page, row, layer);
        assert_cell(page, row, 12, "%.3f", number(member(layer, "correlation"), "mean_absolute"));
    }
    cJSON_Delete(json);
    RUN("info", trace, "--json");
    json = printed();
    assert_cell(page, "decode", 1, "%.0f",
                number(member(member(json, "phases"), "decode"), "steps"));
    cJSON_Delete(json);
    mem_free(page);
}

/* Refused with exit status 2 in one line; there is no file of that name after. */
static void assert_refused(const char *file, const char *page, const char *reason)
{
    struct stat info;
    RUN("report", file, "-o", page);
    assert_int_equal(run.code, 2);
    assert_true(cli_said_one_line(&run));
    if (strstr(run.err, reason) == NULL)
        fail_msg("%s: no %s", run.err, reason);
    assert_int_not_equal(stat(page, &info), 0);
}

static void assert_damage_is_refused(const char *file, size_t at)
{
    char path[256];
    char *data;
    size_t bytes;
    snprintf(path, sizeof path, "%s", scratch_path("damaged.db"));
    assert_ok(file_read_all(file, 1 << 24, &data, &bytes));
    for (size_t i = at; i < at + 600 && i < bytes; i++)
        data[i] ^= 0x55;
    assert_ok(file_write_all(path, data, bytes));
    mem_free(data);
    unlink(out);
    assert_refused(path, out, "damaged.db");
}

static void damaged_files_and_others_leave_no_page(void **unused)
{
    (void)unused;
    struct stat info;
    assert_int_equal(stat(study, &info), 0);
    assert_damage_is_refused(study, 4096 + 3400);
    assert_damage_is_refused(trace, 100);
    unlink(out);
    assert_refused(spec, out, "study.json");
    assert_refused(scratch_path("nothing.db"), out, "nothing.db");
}

static void a_page_that_cannot_be_written_is_refused(void **unused)
{
    (void)unused;
    char page[300];
    snprintf(page, sizeof page, "%s/report.html", spec); /* below a file */
    assert_refused(trace, page, "study.json/report.html");
    snprintf(page, sizeof page, "%s", scratch_path("no-folder/report.html"));
    assert_refused(study, page, "no-folder/report.html");
    RUN("report", study, "-o", study);
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "is the file that FILE reads"));
    RUN("check", study);
    assert_int_equal(run.code, 0);
}

static void the_name_of_the_page_is_asked_for_either_way(void **unused)
{
    (void)unused;
    RUN("report", trace);
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "--out is missing"));
    RUN("report", trace, "-o");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "-o: needs HTML"));
    RUN("report", trace, "-x", out);
    assert_non_null(strstr(run.err, "-x: unknown option"));
    RUN("report", trace, "-o", out, "--out", out);
    assert_non_null(strstr(run.err, "given twice"));
    RUN("report", trace, "--out", out);
    assert_int_equal(run.code, 0);
    RUN("report", trace, "--out", out, "--json");
    assert_int_equal(run.code, 0);
    assert_non_null(strstr(run.out, "\"trace\":"));
    assert_non_null(strstr(run.out, "\"steps\":"));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(misses_are_those_of_simulate_beside_belady),
        cmocka_unit_test(each_number_of_ranks_has_misses_of_its_own),
        cmocka_unit_test(the_front_leads_and_is_that_of_plan),
        cmocka_unit_test(a_plan_of_the_front_is_picked_by_its_bytes),
        cmocka_unit_test(a_trace_is_told_as_analyze_and_info_do),
        cmocka_unit_test(damaged_files_and_others_leave_no_page),
        cmocka_unit_test(a_page_that_cannot_be_written_is_refused),
        cmocka_unit_test(the_name_of_the_page_is_asked_for_either_way),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
