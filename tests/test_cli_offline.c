#include "base/status.h"
#include "tests/support.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/table.h"
#include "policies/plan.h"
#include "traces/recorder.h"

enum { LAYERS = 2, EXPERTS = 8, TOP_K = 2, STEPS = 40, MAX_ARGUMENTS = 16 };

/* What a run of the program said. */
typedef struct {
    int code;
    char out[1 << 16];
    char err[4096];
} Run;

static char trace_path[256];
static char study_path[256];
static char out_path[256];
static char err_path[256];

static void read_back(const char *path, char *text, size_t room)
{
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    text[fread(text, 1, room - 1, stream)] = '\0';
    fclose(stream);
}

/* Runs the program in this process with stdout going to OUT and stderr to ERR. */
static int run_into(const char *out, const char *err, const char *const *arguments)
{
    char *argv[MAX_ARGUMENTS + 2] = {(char[]){"moebius"}};
    int argc = 1;
    for (; arguments[argc - 1] != NULL; argc++)
        argv[argc] = strdup(arguments[argc - 1]);
    fflush(stdout);
    fflush(stderr);
    int saved_out = dup(STDOUT_FILENO);
    int saved_err = dup(STDERR_FILENO);
    int to_out = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int to_err = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(to_out, STDOUT_FILENO);
    dup2(to_err, STDERR_FILENO);
    int code = moebius_main(argc, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(saved_out, STDOUT_FILENO);
    dup2(saved_err, STDERR_FILENO);
    close(saved_out);
    close(saved_err);
    close(to_out);
    close(to_err);
    for (int i = 1; i < argc; i++)
        free(argv[i]);
    return code;
}

static Run run_list(const char *const *arguments)
{
    Run run = {0};
    run.code = run_into(out_path, err_path, arguments);
    read_back(out_path, run.out, sizeof run.out);
    read_back(err_path, run.err, sizeof run.err);
    return run;
}

#define RUN(...) run_list((const char *const[]){__VA_ARGS__, NULL})

/* Exactly one line on stderr, none on stdout. */
static void assert_refused(const Run *run, int code, const char *wanted)
{
    const char *end = strchr(run->err, '\n');
    if (run->code != code || strstr(run->err, wanted) == NULL || end == NULL || end[1] != '\0' ||
        strncmp(run->err, "moebius: ", 9) != 0 || run->out[0] != '\0')
        fail_msg("wanted exit %d and \"%s\", got exit %d, stderr \"%s\", stdout \"%s\"", code,
                 wanted, run->code, run->err, run->out);
}

static void assert_done(const Run *run)
{
    if (run->code != 0 || run->err[0] != '\0')
        fail_msg("exit %d: %s", run->code, run->err);
}

static cJSON *parse_output(const Run *run)
{
    cJSON *json = NULL;
    assert_done(run);
    assert_ok(json_parse(run->out, strlen(run->out), "stdout", &json));
    assert_true(cJSON_IsObject(json));
    return json;
}

static double number_at(const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!cJSON_IsNumber(item))
        fail_msg("no number %s", key);
    return item->valuedouble;
}

static const char *text_at(const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (!cJSON_IsString(item))
        fail_msg("no text %s", key);
    return item->valuestring;
}

static void record_steps(Recorder *recorder)
{
    uint64_t state = 5;
    for (uint32_t i = 0; i < STEPS; i++) {
        uint32_t tokens = i == 0 ? 4 : 1;
        uint32_t request[4] = {0};
        uint32_t position[4] = {0};
        uint16_t experts[LAYERS * 4 * TOP_K];
        for (uint32_t j = 0; j < tokens; j++)
            position[j] = i == 0 ? j : 3 + i;
        for (uint32_t j = 0; j < LAYERS * tokens; j++) {
            experts[TOP_K * j] = (uint16_t)random_below(&state, EXPERTS);
            experts[TOP_K * j + 1] =
                (uint16_t)((experts[TOP_K * j] + 1 + random_below(&state, EXPERTS - 1)) % EXPERTS);
        }
        TraceStep step = {.step = i,
                          .phase = i == 0 ? PHASE_PREFILL : PHASE_DECODE,
                          .tokens = tokens,
                          .request = request,
                          .position = position,
                          .experts = experts};
        assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
    }
}

static void record_trace(const char *path)
{
    const TraceRun run = {
        .tool = "test", .source = "made up", .model = "small\x1b[31m", .device = "none"};
    const TraceRequest request = {.request = 0, .label = "only", .prompt_tokens = 4};
    TraceLayer layers[LAYERS];
    Recorder *recorder;
    memset(layers, 0, sizeof layers);
    for (uint32_t i = 0; i < LAYERS; i++) {
        layers[i].layer = i;
        layers[i].experts = EXPERTS;
        layers[i].top_k = TOP_K;
        layers[i].d_model = 16;
        layers[i].d_ff = 32;
        layers[i].expert_bytes = 3 * 16 * 32 * 2;
        snprintf(layers[i].name, sizeof layers[i].name, "model.layers.%u.mlp", i);
    }
    assert_ok(recorder_open(path, &run, layers, LAYERS, NULL, &recorder));
    assert_ok(recorder_request(recorder, &request));
    record_steps(recorder);
    assert_ok(recorder_close(recorder));
}

static int make_files(void **unused)
{
    (void)unused;
    snprintf(trace_path, sizeof trace_path, "%s", scratch_path("trace.db"));
    snprintf(study_path, sizeof study_path, "%s", scratch_path("study.json"));
    record_trace(trace_path);
    snprintf(out_path, sizeof out_path, "%s", scratch_path("stdout.txt"));
    snprintf(err_path, sizeof err_path, "%s", scratch_path("stderr.txt"));
    static const char study[] =
        "{\"moebius_study\": 1, \"name\": \"small\", \"grid\": {\"buffer.evict\": [\"lru\","
        " \"lifo-inactive-first\"], \"buffer.slots\": [2, 4, 8]}}";
    assert_ok(file_write_all(study_path, study, strlen(study)));
    return 0;
}

static void the_option_table_reads_every_kind_in_both_spellings(void **unused)
{
    (void)unused;
    static const char *const COLOURS[] = {"red", "green", NULL};
    bool flag = false;
    const char *text = NULL;
    const char *file = NULL;
    uint32_t small = 7;
    uint64_t large = 0;
    double real = 0;
    int colour = -1;
    OptionList list = {0};
    const Option options[] = {
        {.name = "flag", .kind = OPTION_FLAG, .value = &flag},
        {.name = "text", .argument = "T", .kind = OPTION_TEXT, .value = &text},
        {.name = "small", .argument = "N", .kind = OPTION_U32, .value = &small, .most = 9},
        {.name = "large", .argument = "N", .kind = OPTION_U64, .value = &large, .most = UINT64_MAX},
        {.name = "real", .argument = "R", .kind = OPTION_F64, .value = &real, .low = -1, .high = 1},
        {.name = "colour",
         .argument = "C",
         .kind = OPTION_CHOICE,
         .value = &colour,
         .choices = COLOURS},
        {.name = "item", .argument = "I", .kind = OPTION_LIST, .value = &list},
        {.name = "FILE", .kind = OPTION_POSITIONAL, .value = &file},
    };
    const OptionTable table = {.command = "test", .options = options, .n_options = 8};
    char *argv[] = {"test",   "--flag",  "--text=a=b", "--large", "18446744073709551615",
                    "--real", "-0.5",    "--colour",   "green",   "--item",
                    "x=1",    "--item=", "--",         "--file",  NULL};
    argv[11] = "--item=--y";
    assert_ok(options_parse(&table, 14, argv));
    assert_true(flag);
    assert_string_equal(text, "a=b");
    assert_int_equal(small, 7);
    assert_true(large == UINT64_MAX);
    assert_true(real == -0.5);
    assert_int_equal(colour, 1);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.items[0], "x=1");
    assert_string_equal(list.items[1], "--y");
    assert_string_equal(file, "--file");
    option_list_free(&list);
}

static void bad_command_lines_are_usage_errors_with_a_hint(void **unused)
{
    (void)unused;
    static const struct {
        const char *arguments[MAX_ARGUMENTS];
        const char *wanted;
    } cases[] = {
        {{"simulate"}, "simulate: --trace is missing (see 'moebius simulate --help')"},
        {{"simulate", "--trace"}, "--trace: needs FILE"},
        {{"simulate", "--trace", "--json"}, "--trace: needs FILE, not --json"},
        {{"simulate", "--trace="}, "--trace: the value is empty"},
        {{"simulate", "--trace", "a", "--plan", "b", "--plan", "c"}, "--plan: given twice"},
        {{"simulate", "--trace", "a", "--json=yes"}, "--json: takes no value"},
        {{"simulate", "--trace", "a", "--bogus=1"}, "--bogus: unknown option"},
        {{"simulate", "--trace", "a", "-x"}, "-x: unknown option"},
        {{"simulate", "--trace", "a", "b"}, "'b': unexpected argument"},
        {{"simulate", "--trac", "a"}, "--trac: unknown option"},
        {{"sweep", "--sizes", "some"}, "--sizes: 'some', allowed are given, all"},
        {{"sweep", "--jobs", "0"}, "--jobs: 0, allowed is 1 to 1024"},
        {{"sweep", "--jobs", "-1"}, "--jobs: '-1' is no whole number"},
        {{"sweep", "--jobs", "3x"}, "--jobs: '3x' is no whole number"},
        {{"sweep", "--jobs", "99999999999999999999"}, "--jobs: 99999999999999999999, allowed"},
        {{"plan", "--best", "speed"}, "--best: 'speed', allowed are time, misses, memory"},
        {{"plan", "--misses-at-most", "1.5"}, "--misses-at-most: 1.5, allowed is 0 to 1"},
        {{"plan", "--misses-at-most", "nan"}, "--misses-at-most: 'nan' is no number"},
        {{"plan", "--from", "a", "--out", "b"}, "--best is missing"},
        {{"plan", "--from", "a", "--best", "time"}, "--out is missing"},
        {{"plan", "--from", "a", "--pareto", "--best", "time"}, "--pareto shows plans"},
        {{"plan", "--from", "a", "--pareto", "--memory-at-most", "80Gib"},
         "--memory-at-most: '80Gib' is no size"},
        {{"plan", "--from", "a", "--pareto", "--memory-at-most", "0.2"}, "'0.2' is no size"},
        {{"bench", "host-experts", "--rows", "1,0"}, "--rows: '1,0' is no list"},
        {{"info"}, "info: TRACE is missing"},
        {{"check", "a", "b"}, "'b': unexpected argument"},
        {{"check", ""}, "FILE: the value is empty"},
        {{"frobnicate"}, "moebius: frobnicate: unknown command (see 'moebius --help')"},
        {{"help", "frobnicate"}, "frobnicate: unknown command"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Run run = run_list(cases[i].arguments);
        assert_refused(&run, 2, cases[i].wanted);
        assert_non_null(strstr(run.err, "--help')"));
    }
    Run run = run_list((const char *const[]){NULL});
    assert_refused(&run, 2, "moebius: no command given");
}

static void assert_lines_fit(const char *text, const char *end)
{
    while (text < end) {
        size_t bytes = strcspn(text, "\n");
        assert_in_range(bytes, 0, 100);
        text += bytes + 1;
    }
}

static void a_file_that_is_read_is_not_written_over(void **unused)
{
    (void)unused;
    static const char *const CASES[][MAX_ARGUMENTS] = {
        {"export", "FILE", "--to", "csv", "--out", "FILE"},
        {"export", "FILE", "--to", "csv", "--out", "LINK"},
        {"export", "--to", "sglang", "--plan", "FILE", "--out", "FILE"},
        {"plan", "--from", "FILE", "--best", "misses", "--out", "FILE"},
        {"place", "--trace", "a", "--trace", "LINK", "--ranks", "2", "--method", "greedy", "--out",
         "FILE"},
        {"simulate", "--trace", "a", "--plan", "FILE", "--hardware", "b", "--timeline", "FILE"},
        {"simulate", "--trace", "a", "--hardware", "FILE", "--timeline", "FILE"},
        {"validate", "--trace", "a", "--routing", "trace:FILE", "--timeline", "FILE"},
        {"validate", "--trace", "a", "--out", "new", "--timeline", "new"},
        {"forward", "--model", "a", "--tokens", "FILE", "--out", "FILE"},
        {"record", "--model", "a", "--tokens", "FILE", "--out", "b", "--output", "FILE"},
        {"record", "--model", "a", "--tokens", "b", "--out", "new", "--output", "new"},
        {"tokenize", "--model", "a", "--text", "FILE", "--out", "FILE"},
        {"report", "FILE", "-o", "LINK"},
    };
    char file[64];
    char link[64];
    char from[80];
    snprintf(file, sizeof file, "%s", scratch_path("read.db"));
    snprintf(link, sizeof link, "%s", scratch_path("link.db"));
    snprintf(from, sizeof from, "trace:%s", file);
    assert_ok(file_write_all(file, "kept", 4));
    assert_int_equal(symlink(file, link), 0);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        const char *arguments[MAX_ARGUMENTS] = {NULL};
        char *text;
        size_t bytes;
        for (size_t k = 0; k < MAX_ARGUMENTS && CASES[i][k] != NULL; k++) {
            const char *word = CASES[i][k];
            arguments[k] = strcmp(word, "FILE") == 0         ? file
                           : strcmp(word, "LINK") == 0       ? link
                           : strcmp(word, "trace:FILE") == 0 ? from
                                                             : word;
        }
        Run run = run_list(arguments);
        assert_refused(&run, 2, " is the file that ");
        assert_ok(file_read_all(file, 100, &text, &bytes));
        assert_string_equal(text, "kept");
        mem_free(text);
    }
    unlink(link);
    unlink(file);
}

static void a_file_that_may_not_grow_is_an_error(void **unused)
{
    (void)unused;
    const char *out = scratch_path("limited.csv");
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit limit = {.rlim_cur = 1024, .rlim_max = before.rlim_max};
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    Run run = RUN("export", trace_path, "--to", "csv", "--out", out);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_refused(&run, 1, "limited.csv: cannot write: File too large");
    assert_false(file_exists(out));
}

static void help_lists_every_command_and_each_has_an_example(void **unused)
{
    (void)unused;
    static const char *const COMMANDS[] = {"record", "forward",  "import",    "export",   "info",
                                           "check",  "analyze",  "simulate",  "sweep",    "plan",
                                           "place",  "validate", "calibrate", "tokenize", "models",
                                           "report", "bench"};
    Run all = RUN("--help");
    assert_done(&all);
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++) {
        char usage[64];
        assert_non_null(strstr(all.out, COMMANDS[i]));
        Run one = RUN(COMMANDS[i], "--help");
        Run other = RUN("help", COMMANDS[i]);
        assert_done(&one);
        assert_string_equal(one.out, other.out);
        snprintf(usage, sizeof usage, "usage: moebius %s ", COMMANDS[i]);
        assert_memory_equal(one.out, usage, strlen(usage));
        snprintf(usage, sizeof usage, "example:\n  moebius %s ", COMMANDS[i]);
        assert_non_null(strstr(one.out, usage));
        assert_lines_fit(one.out, strstr(one.out, usage));
        assert_null(strstr(one.out, "\nmoebius ")); /* further examples are indented as well */
    }
    Run version = RUN("--version");
    assert_done(&version);
    assert_string_equal(version.out, "moebius " MOEBIUS_VERSION "\n");
}

static void simulate_prints_the_same_numbers_as_json_and_as_a_table(void **unused)
{
    (void)unused;
    Run run = RUN("simulate", "--trace", trace_path, "--set", "buffer.slots=3", "--set",
                  "buffer.evict=lru", "--json");
    cJSON *json = parse_output(&run);
    double lookups = number_at(json, "lookups");
    double misses = number_at(json, "misses");
    assert_true(number_at(json, "hits") + misses == lookups);
    assert_true(number_at(json, "miss_ratio") == misses / lookups);
    assert_true(number_at(json, "assignments") == (STEPS + 3) * LAYERS * TOP_K);
    assert_true(number_at(json, "bytes_loaded") == number_at(json, "loads") * 3072);
    assert_true(number_at(json, "memory_bytes") == LAYERS * 3 * 3072);
    assert_true(number_at(json, "assignment_hits") <= number_at(json, "assignments"));
    assert_true(number_at(json, "evictions") > 0);
    assert_string_equal(text_at(json, "trace"), trace_path);
    assert_string_equal(text_at(json, "routing"), "as recorded");
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(json, "per_layer");
    double sum = 0;
    const cJSON *layer;
    cJSON_ArrayForEach(layer, layers) sum += number_at(layer, "misses");
    assert_int_equal(cJSON_GetArraySize(layers), LAYERS);
    assert_true(sum == misses);
    Plan plan;
    assert_ok(plan_from_json(cJSON_GetObjectItemCaseSensitive(json, "plan"), "plan", &plan));
    assert_int_equal(plan.buffer.slots, 3);
    assert_string_equal(plan.buffer.evict, "lru");
    cJSON_Delete(json);
    Run people = RUN("simulate", "--trace", trace_path, "--set", "buffer.slots=3", "--set",
                     "buffer.evict=lru");
    char number[NUMBER_BYTES];
    assert_done(&people);
    assert_non_null(strstr(people.out, "replay order batch"));
    assert_non_null(strstr(people.out, number_text((uint64_t)misses, number)));
    assert_non_null(strstr(people.out, "assignment hits"));
}

static void simulate_without_a_buffer_misses_nothing(void **unused)
{
    (void)unused;
    Run run = RUN("simulate", "--trace", trace_path, "--json");
    cJSON *json = parse_output(&run);
    assert_true(number_at(json, "misses") == 0);
    assert_true(number_at(json, "memory_bytes") == LAYERS * EXPERTS * 3072);
    cJSON_Delete(json);
}

static void simulate_says_what_static_gating_wastes(void **unused)
{
    (void)unused;
    Run run = RUN("simulate", "--trace", trace_path, "--set", "gating.mode=static", "--set",
                  "gating.capacity_factor=0.25", "--json");
    cJSON *json = parse_output(&run);
    const cJSON *gating = cJSON_GetObjectItemCaseSensitive(json, "static_gating");
    /* One row for each expert in every step: a quarter of 4 tokens, and of 1 rounded up. */
    assert_true(number_at(gating, "slots") == STEPS * LAYERS * EXPERTS);
    assert_true(number_at(gating, "assignments") == number_at(json, "assignments"));
    assert_true(number_at(gating, "waste_factor") ==
                number_at(gating, "slots") / number_at(gating, "assignments"));
    cJSON_Delete(json);
    Run people = RUN("simulate", "--trace", trace_path, "--set", "gating.mode=static");
    assert_done(&people);
    assert_non_null(strstr(people.out, "Static gating drops 0.0000 of"));
}

static void set_changes_the_plan_of_a_file_and_errors_name_it(void **unused)
{
    (void)unused;
    const char *plan = scratch_path("set-plan.json");
    static const char text[] =
        "{\"moebius_plan\": 1, \"buffer\": {\"slots\": 2, \"evict\": \"fifo\"}}";
    assert_ok(file_write_all(plan, text, strlen(text)));
    Run run = RUN("simulate", "--trace", trace_path, "--plan", plan, "--set", "buffer.order=serial",
                  "--set", "buffer.slots=5", "--json");
    cJSON *json = parse_output(&run);
    Plan read;
    assert_ok(plan_from_json(cJSON_GetObjectItemCaseSensitive(json, "plan"), "plan", &read));
    assert_int_equal(read.buffer.order, ORDER_SERIAL);
    assert_int_equal(read.buffer.slots, 5);
    assert_string_equal(read.buffer.evict, "fifo");
    cJSON_Delete(json);
    static const struct {
        const char *set;
        const char *wanted;
    } cases[] = {
        {"buffer.slots=0", "buffer.slots: 0"},
        {"buffer.slots=many", "buffer.slots: must be"},
        {"buffer.slot=4", "buffer.slot: unknown key"},
        {"buffer.evict=best", "buffer.evict: \"best\""},
        {"buffer.slots", "--set buffer.slots: "},
        {"=4", "--set =4: "},
        {"moebius_plan=2", "moebius_plan: 2"},
        {"buffer.slots.x=4", "slots"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Run bad = RUN("simulate", "--trace", trace_path, "--plan", plan, "--set", cases[i].set);
        assert_refused(&bad, 2, cases[i].wanted);
    }
    Run absent = RUN("simulate", "--trace", trace_path, "--plan", "/no/such/plan.json");
    assert_refused(&absent, 2, "/no/such/plan.json: cannot open");
}

static void a_study_goes_from_sweep_to_plan_to_simulate(void **unused)
{
    (void)unused;
    const char *out = scratch_path("loop.db");
    const char *best = scratch_path("best.json");
    Run sweep = RUN("sweep", "--trace", trace_path, "--study", study_path, "--out", out, "--jobs",
                    "2", "--json");
    cJSON *json = parse_output(&sweep);
    assert_true(number_at(json, "plans") == 9);
    assert_true(number_at(json, "bounds") == 3);
    assert_true(number_at(json, "done") == 9);
    cJSON_Delete(json);
    Run again = RUN("sweep", "--trace", trace_path, "--study", study_path, "--out", out);
    assert_done(&again);
    assert_non_null(strstr(again.out, "0 replayed now, 9 kept"));
    Run check = RUN("check", out);
    assert_done(&check);
    assert_string_equal(check.out, "ok: 9 plans, 9 results\n");
    Run pick = RUN("plan", "--from", out, "--best", "misses", "--where", "slots < 8", "--out", best,
                   "--json");
    json = parse_output(&pick);
    Plan plan;
    assert_ok(plan_load(best, &plan));
    assert_int_equal(plan.buffer.slots, 4);
    assert_string_equal(text_at(json, "name"), plan.name);
    Run simulate = RUN("simulate", "--trace", trace_path, "--plan", best, "--json");
    cJSON *result = parse_output(&simulate);
    assert_true(number_at(result, "misses") == number_at(json, "misses"));
    assert_true(number_at(result, "bytes_loaded") == number_at(json, "bytes_loaded"));
    assert_true(number_at(result, "memory_bytes") == number_at(json, "memory_bytes"));
    cJSON_Delete(result);
    cJSON_Delete(json);
    static const struct {
        const char *option;
        const char *value;
        uint32_t slots;
    } MEMORY[] = {{"--misses-at-most", "1", 2}, {"--where", "slots > 2", 4}, {NULL, NULL, 2}};
    for (size_t i = 0; i < sizeof MEMORY / sizeof *MEMORY; i++) {
        Run memory = RUN("plan", "--from", out, "--best", "memory", "--out", best, MEMORY[i].option,
                         MEMORY[i].value);
        assert_done(&memory);
        assert_ok(plan_load(best, &plan));
        assert_int_equal(plan.buffer.slots, MEMORY[i].slots);
    }
}

/* What was scored on the second half is what a simulation of that half gives, with the plan as it
 * was written and without the trace's first half. */
static void a_plan_that_learnt_says_all_that_it_needs(void **unused)
{
    (void)unused;
    const char *study = scratch_path("learns.json");
    const char *out = scratch_path("learns.db");
    const char *best = scratch_path("learnt.json");
    static const char TEXT[] =
        "{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"static\", \"lru\"],"
        " \"buffer.slots\": [2, 4]}}";
    assert_ok(file_write_all(study, TEXT, sizeof TEXT - 1));
    Run sweep = RUN("sweep", "--trace", trace_path, "--study", study, "--out", out, "--json");
    cJSON *json = parse_output(&sweep);
    const cJSON *test = cJSON_GetObjectItemCaseSensitive(json, "test");
    const cJSON *train = cJSON_GetObjectItemCaseSensitive(json, "train");
    assert_true(number_at(train, "first_step") == 0);
    assert_true(number_at(train, "end_step") == number_at(test, "first_step"));
    cJSON_Delete(json);
    Run pick = RUN("plan", "--from", out, "--best", "misses", "--where",
                   "evict = 'static' AND slots = 4", "--out", best, "--json");
    cJSON *picked = parse_output(&pick);
    Run alone = RUN("simulate", "--trace", trace_path, "--plan", best, "--test", "0.5:1", "--json");
    json = parse_output(&alone);
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(json, "train")));
    assert_true(number_at(json, "misses") == number_at(picked, "misses"));
    assert_true(number_at(json, "memory_bytes") == number_at(picked, "memory_bytes"));
    cJSON_Delete(json);
    Run trained = RUN("simulate", "--trace", trace_path, "--set", "buffer.slots=4", "--set",
                      "buffer.evict=static", "--train", "0:0.5", "--json");
    json = parse_output(&trained);
    assert_true(number_at(json, "misses") == number_at(picked, "misses"));
    cJSON_Delete(json);
    cJSON_Delete(picked);
    Run people = RUN("simulate", "--trace", trace_path, "--plan", best, "--test", "0.5:1");
    assert_done(&people);
    assert_non_null(strstr(people.out, "Nothing learnt, scored on steps "));
    assert_non_null(strstr(people.out, ", starting cold."));
    Run warm = RUN("simulate", "--trace", trace_path, "--set", "buffer.slots=4", "--set",
                   "buffer.initial=hottest", "--train", "0:0.5");
    assert_done(&warm);
    assert_non_null(strstr(warm.out, ", starting with the plan's initial experts."));
    Run none = RUN("simulate", "--trace", trace_path, "--set", "buffer.slots=4", "--set",
                   "buffer.evict=static");
    assert_refused(&none, 2, "buffer.hot: must be learnt from a part of a trace before");
    Run idle = RUN("simulate", "--trace", trace_path, "--plan", best, "--train", "0:0.5");
    assert_refused(&idle, 2, "--train: nothing is learnt");
    Run wrong = RUN("simulate", "--trace", trace_path, "--test", "1:0");
    assert_refused(&wrong, 2, "--test: \"1:0\": must be FROM:TO");
}

static void sweep_of_all_sizes_names_the_first_hit_of_lru(void **unused)
{
    (void)unused;
    const char *out = scratch_path("sizes.db");
    Run sweep = RUN("sweep", "--trace", trace_path, "--study", study_path, "--out", out, "--sizes",
                    "all", "--json");
    cJSON *json = parse_output(&sweep);
    assert_true(number_at(json, "plans") == 3 * EXPERTS); /* two policies and the bound */
    assert_true(number_at(json, "bounds") == EXPERTS);
    const cJSON *first = cJSON_GetObjectItemCaseSensitive(json, "lru_first_hit_slots");
    double slots = number_at(first, "layer");
    assert_null(cJSON_GetObjectItemCaseSensitive(first, "device"));
    char set[64];
    for (int less = 0; less < 2 && slots - less >= 1; less++) {
        snprintf(set, sizeof set, "buffer.slots=%d", (int)slots - less);
        Run one = RUN("simulate", "--trace", trace_path, "--set", set, "--set", "buffer.evict=lru",
                      "--set", "buffer.order=serial", "--json");
        cJSON *counts = parse_output(&one);
        assert_int_equal(number_at(counts, "hits") > 0, less == 0);
        cJSON_Delete(counts);
    }
    cJSON_Delete(json);
    Run again =
        RUN("sweep", "--trace", trace_path, "--study", study_path, "--out", out, "--sizes", "all");
    assert_done(&again);
    assert_non_null(strstr(again.out, "lru in order serial has its first hit at"));
}

static void a_study_of_all_sizes_need_not_give_any(void **unused)
{
    (void)unused;
    static const char study[] =
        "{\"moebius_study\": 1, \"base\": {\"buffer\": {\"evict\": \"lru\"}},"
        " \"grid\": {\"buffer.order\": [\"serial\", \"batch\"]},"
        " \"plans\": [{\"moebius_plan\": 1, \"buffer\": {\"evict\": \"fifo\"}}]}";
    char without[256];
    snprintf(without, sizeof without, "%s", scratch_path("no-sizes.json"));
    const char *out = scratch_path("no-sizes.db");
    assert_ok(file_write_all(without, study, strlen(study)));
    Run given = RUN("sweep", "--trace", trace_path, "--study", without, "--out", out);
    assert_refused(&given, 2, "combination 1 (buffer.order=\"serial\"): buffer: needs \"slots\"");
    Run all = RUN("sweep", "--trace", trace_path, "--study", without, "--out", out, "--sizes",
                  "all", "--json");
    cJSON *json = parse_output(&all);
    assert_true(number_at(json, "plans") == 5 * EXPERTS); /* three plans and two bounds */
    cJSON_Delete(json);
}

static void plan_refusals_leave_no_file(void **unused)
{
    (void)unused;
    const char *from = scratch_path("refuse.db");
    const char *out = scratch_path("refuse.json");
    Run sweep = RUN("sweep", "--trace", trace_path, "--study", study_path, "--out", from);
    assert_done(&sweep);
    Run time = RUN("plan", "--from", from, "--best", "time", "--out", out);
    assert_refused(&time, 2, "the study has no times");
    Run none =
        RUN("plan", "--from", from, "--best", "misses", "--where", "slots > 99", "--out", out);
    assert_refused(&none, 2, "no result meets the conditions");
    Run sql = RUN("plan", "--from", from, "--best", "misses", "--where",
                  "1); drop table result; --", "--out", out);
    assert_refused(&sql, 2, "plan: --where: ");
    Run trace = RUN("plan", "--from", trace_path, "--best", "misses", "--out", out);
    assert_refused(&trace, 2, "not a Moebius study");
    assert_false(file_exists(out));
    Run folder = RUN("plan", "--from", from, "--best", "misses", "--out", "/no/such/plan.json");
    assert_refused(&folder, 2, "/no/such/plan.json: cannot create");
}

/* SQLite would wait for a FIFO's other end for ever. */
static void what_is_no_regular_file_is_no_study(void **unused)
{
    (void)unused;
    const char *fifo = scratch_path("fifo");
    const char *out = scratch_path("fifo.json");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    const char *const paths[] = {fifo, "/dev/null", scratch_path("")};
    for (size_t i = 0; i < 3; i++) {
        Run plan = RUN("plan", "--from", paths[i], "--best", "misses", "--out", out);
        assert_refused(&plan, 2, "not a regular file");
        Run sweep = RUN("sweep", "--trace", trace_path, "--study", study_path, "--out", paths[i]);
        assert_refused(&sweep, 2, "not a regular file");
        Run info = RUN("info", paths[i]);
        assert_refused(&info, 2, "not a regular file");
    }
    assert_false(file_exists(out));
    unlink(fifo);
}

static void sweep_refuses_bad_studies_and_outputs(void **unused)
{
    (void)unused;
    const char *study = scratch_path("bad-study.json");
    const char *out = scratch_path("bad-study.db");
    static const char text[] = "{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [4, -1]}}";
    assert_ok(file_write_all(study, text, strlen(text)));
    Run bad = RUN("sweep", "--trace", trace_path, "--study", study, "--out", out);
    assert_refused(&bad, 2, "bad-study.json: combination 2 (buffer.slots=-1)");
    Run absent = RUN("sweep", "--trace", "/no/trace.db", "--study", study_path, "--out", out);
    assert_refused(&absent, 2, "/no/trace.db");
    assert_false(file_exists(out));
    Run output =
        RUN("sweep", "--trace", trace_path, "--study", study_path, "--out", "/no/such/study.db");
    assert_refused(&output, 2, "/no/such/study.db: cannot open for writing");
    Run trace = RUN("sweep", "--trace", trace_path, "--study", study_path, "--out", trace_path);
    assert_refused(&trace, 2, "not a Moebius study");
    Run check = RUN("check", trace_path);
    assert_done(&check);
}

static void info_says_what_the_trace_holds(void **unused)
{
    (void)unused;
    Run run = RUN("info", trace_path, "--json");
    cJSON *json = parse_output(&run);
    assert_true(number_at(json, "steps") == STEPS);
    assert_true(number_at(json, "tokens") == STEPS + 3);
    assert_true(number_at(json, "requests") == 1);
    assert_true(number_at(json, "file_bytes") > 4096);
    assert_true(number_at(json, "bytes_per_token") == number_at(json, "file_bytes") / (STEPS + 3));
    assert_true(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(json, "has_weights")));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "complete")));
    const cJSON *phases = cJSON_GetObjectItemCaseSensitive(json, "phases");
    const cJSON *prefill = cJSON_GetObjectItemCaseSensitive(phases, "prefill");
    assert_true(number_at(prefill, "steps") == 1 && number_at(prefill, "tokens") == 4);
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(json, "layers");
    assert_int_equal(cJSON_GetArraySize(layers), LAYERS);
    assert_true(number_at(cJSON_GetArrayItem(layers, 1), "experts") == EXPERTS);
    cJSON_Delete(json);
    Run people = RUN("info", trace_path);
    assert_done(&people);
    assert_non_null(strstr(people.out, "model.layers.1.mlp"));
    assert_null(strchr(people.out, '\x1b')); /* a trace may not send escapes to the terminal */
}

static void check_says_ok_or_names_the_bad_step(void **unused)
{
    (void)unused;
    const char *path = scratch_path("corrupt.db");
    record_trace(path);
    Run good = RUN("check", path);
    assert_done(&good);
    assert_memory_equal(good.out, "ok: 40 steps, 43 tokens, 1 requests", 35);
    Run json_run = RUN("check", path, "--json");
    cJSON *json = parse_output(&json_run);
    assert_true(number_at(json, "steps") == STEPS);
    cJSON_Delete(json);
    sqlite3 *sqlite;
    assert_int_equal(sqlite3_open(path, &sqlite), SQLITE_OK);
    assert_int_equal(sqlite3_exec(sqlite,
                                  "UPDATE step SET duration_ns = 1 + duration_ns"
                                  " WHERE step = 17",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(sqlite);
    Run bad = RUN("check", path);
    assert_refused(&bad, 2, "step 17");
    Run info = RUN("info", path);
    assert_refused(&info, 2, "step 17");
    Run study = RUN("check", study_path);
    assert_refused(&study, 2, "study.json");
}

static void a_result_that_cannot_be_written_is_a_failure(void **unused)
{
    (void)unused;
    static const char *const cases[][8] = {
        {"--help"},
        {"--version"},
        {"info", trace_path},
        {"check", trace_path},
        {"simulate", "--help"},
        {"simulate", "--trace", trace_path, "--json"},
    };
    char text[4096];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(run_into("/dev/full", err_path, cases[i]), 1);
        read_back(err_path, text, sizeof text);
        assert_non_null(strstr(text, "stdout: cannot write: No space left on device"));
    }
    Run after = RUN("--version"); /* the failure is not kept */
    assert_done(&after);
}

static void tables_align_and_numbers_read_well(void **unused)
{
    (void)unused;
    static const char *const TITLES[] = {"a", "number"};
    char text[256] = "";
    char number[NUMBER_BYTES];
    Table *table;
    assert_ok(table_new(TITLES, "lr", &table));
    table_cell(table, "long name");
    table_cell(table, "%d", 7);
    table_cell(table, "\t");
    table_cell(table, "%s", number_text(1234567, number));
    FILE *stream = fmemopen(text, sizeof text, "w");
    assert_ok(table_print(table, stream));
    fclose(stream);
    table_free(table);
    assert_string_equal(text, "a             number\n"
                              "--------------------\n"
                              "long name          7\n"
                              "?          1,234,567\n");
    assert_string_equal(number_text(0, number), "0");
    assert_string_equal(number_text(UINT64_MAX, number), "18,446,744,073,709,551,615");
    assert_string_equal(bytes_text(1023, number), "1023 B");
    assert_string_equal(bytes_text(3 << 19, number), "1.50 MiB");
    assert_string_equal(ratio_text(1, 0, number), "-");
    assert_string_equal(duration_text(2500000, number), "2.5 ms");
    assert_string_equal(duration_text(1874000000, number), "1.87 s");
    assert_string_equal(duration_text(18740000000, number), "18.7 s");
}

static void shards_and_other_batches_are_replayed_as_one_trace(void **unused)
{
    (void)unused;
    Run run = RUN("simulate", "--trace", trace_path, "--set", "buffer.slots=4", "--json");
    cJSON *one = parse_output(&run);
    run = RUN("simulate", "--trace", trace_path, "--trace", trace_path, "--set", "buffer.slots=4",
              "--json");
    cJSON *two = parse_output(&run);
    assert_true(number_at(two, "assignments") == 2 * number_at(one, "assignments"));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(two, "trace")), 2);
    run = RUN("simulate", "--trace", trace_path, "--trace", trace_path, "--set", "buffer.slots=4",
              "--set", "batching.mode=mixed", "--set", "batching.sequences=2", "--json");
    cJSON *regrouped = parse_output(&run);
    assert_true(number_at(regrouped, "assignments") == number_at(two, "assignments"));
    assert_true(number_at(regrouped, "lookups") < number_at(two, "lookups"));
    cJSON_Delete(one);
    cJSON_Delete(two);
    cJSON_Delete(regrouped);
    run = RUN("simulate", "--trace", trace_path, "--set", "batching.mode=mixed");
    assert_refused(&run, 2, "batching: mode \"mixed\" needs \"sequences\"");
}

static void a_study_regroups_in_one_way_only(void **unused)
{
    (void)unused;
    static const char SAME[] =
        "{\"moebius_study\": 1, \"grid\": {\"batching.mode\": [\"apart\"], "
        "\"batching.sequences\": [4], \"buffer.slots\": [2, 4], \"buffer.evict\": [\"lru\"]}}";
    static const char DIFFERENT[] =
        "{\"moebius_study\": 1, \"grid\": {\"batching.mode\": [\"apart\"], "
        "\"batching.sequences\": [4, 8], \"buffer.slots\": [2]}}";
    char study[256];
    snprintf(study, sizeof study, "%s", scratch_path("batches.json"));
    assert_ok(file_write_all(study, SAME, strlen(SAME)));
    Run run = RUN("sweep", "--trace", trace_path, "--study", study, "--out",
                  scratch_path("batches.db"), "--json");
    cJSON *json = parse_output(&run);
    assert_true(number_at(json, "plans") == 4);
    cJSON_Delete(json);
    assert_ok(file_write_all(study, DIFFERENT, strlen(DIFFERENT)));
    run = RUN("sweep", "--trace", trace_path, "--study", study, "--out",
              scratch_path("different.db"));
    assert_refused(&run, 2, "regroup the trace in different ways");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_option_table_reads_every_kind_in_both_spellings),
        cmocka_unit_test(bad_command_lines_are_usage_errors_with_a_hint),
        cmocka_unit_test(shards_and_other_batches_are_replayed_as_one_trace),
        cmocka_unit_test(a_study_regroups_in_one_way_only),
        cmocka_unit_test(a_file_that_is_read_is_not_written_over),
        cmocka_unit_test(a_file_that_may_not_grow_is_an_error),
        cmocka_unit_test(help_lists_every_command_and_each_has_an_example),
        cmocka_unit_test(simulate_prints_the_same_numbers_as_json_and_as_a_table),
        cmocka_unit_test(simulate_without_a_buffer_misses_nothing),
        cmocka_unit_test(simulate_says_what_static_gating_wastes),
        cmocka_unit_test(set_changes_the_plan_of_a_file_and_errors_name_it),
        cmocka_unit_test(a_study_goes_from_sweep_to_plan_to_simulate),
        cmocka_unit_test(a_plan_that_learnt_says_all_that_it_needs),
        cmocka_unit_test(sweep_of_all_sizes_names_the_first_hit_of_lru),
        cmocka_unit_test(a_study_of_all_sizes_need_not_give_any),
        cmocka_unit_test(plan_refusals_leave_no_file),
        cmocka_unit_test(what_is_no_regular_file_is_no_study),
        cmocka_unit_test(sweep_refuses_bad_studies_and_outputs),
        cmocka_unit_test(info_says_what_the_trace_holds),
        cmocka_unit_test(check_says_ok_or_names_the_bad_step),
        cmocka_unit_test(a_result_that_cannot_be_written_is_a_failure),
        cmocka_unit_test(tables_align_and_numbers_read_well),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
