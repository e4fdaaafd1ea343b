/* Commands whose every allocation fails once. MOEBIUS_EXHAUSTIVE=1 takes all of them. */
#define _POSIX_C_SOURCE 200809L
#include "base/status.h"

#include <dirent.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/files.h"
#include "base/memory.h"
#include "tests/checkpoint_maker.h"
#include "tests/cli_run.h"
#include "tests/fault_vfs.h"
#include "traces/reader.h"

static char model[256];
static char tokens[256];
static char trace[256];
static char plan[256];
static char study_spec[256];
static char study[256];
static char folder[256]; /* what the commands write, and their TMPDIR */
static char out[300];

static void keep_path(char *into, size_t room, const char *name)
{
    snprintf(into, room, "%s", scratch_path(name));
}

static void run_good(const char *const *arguments)
{
    static CliRun run;
    cli_run(arguments, &run);
    if (run.code != 0)
        fail_msg("%s: exit %d: %s", arguments[0], run.code, run.err);
}

static void write_text(const char *path, const char *text)
{
    assert_ok(file_write_all(path, text, strlen(text)));
}

static int make_files(void **unused)
{
    (void)unused;
    const CheckpointSpec spec = {.n_layers = 3, .dense_layers = 2, .shards = 2, .seed = 4};
    keep_path(model, sizeof model, "model");
    keep_path(tokens, sizeof tokens, "tokens.jsonl");
    keep_path(trace, sizeof trace, "trace.db");
    keep_path(plan, sizeof plan, "plan.json");
    keep_path(study_spec, sizeof study_spec, "study.json");
    keep_path(study, sizeof study, "study.db");
    keep_path(folder, sizeof folder, "outputs");
    snprintf(out, sizeof out, "%s/out", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(setenv("TMPDIR", folder, 1), 0);
    make_checkpoint(model, &spec);
    write_text(tokens, "{\"label\":\"a\",\"tokens\":[1,2,3,4,5,6,7]}\n"
                       "{\"label\":\"b\",\"tokens\":[9,8,7]}\n");
    write_text(plan, "{\"moebius_plan\":1,\"name\":\"small\","
                     "\"buffer\":{\"slots\":3,\"evict\":\"lru\",\"order\":\"batch\"}}");
    write_text(study_spec, "{\"moebius_study\":1,\"name\":\"few\",\"grid\":{"
                           "\"buffer.evict\":[\"lru\",\"fifo\"],\"buffer.slots\":[2,4]}}");
    run_good((const char *[]){"record", "--model", model, "--tokens", tokens, "--batch", "2",
                              "--generate", "4", "--out", trace, NULL});
    run_good(
        (const char *[]){"sweep", "--trace", trace, "--study", study_spec, "--out", study, NULL});
    return 0;
}

/* Entries of FOLDER; removes them when asked. */
static size_t count_outputs(bool remove_them)
{
    size_t count = 0;
    DIR *stream = opendir(folder);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        char path[600];
        if (entry->d_name[0] == '.' && strlen(entry->d_name) < 3)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        count++;
        if (remove_them)
            assert_int_equal(unlink(path), 0);
    }
    closedir(stream);
    return count;
}

/* What may stand under the output's name after a failure: never a part of a file. */
typedef enum {
    THE_WHOLE_FILE, /* the failure came after it, in printing */
    A_GOOD_TRACE,   /* with the steps that were committed */
    A_STUDY_TO_GO_ON_WITH
} Leftover;

typedef struct {
    const char *name;
    Leftover leftover;
    uint32_t whole_crc; /* of the output, when all went well */
    const char *arguments[CLI_ARGUMENTS];
} Work;

static bool prints_json(const Work *work)
{
    for (size_t i = 0; work->arguments[i] != NULL; i++)
        if (strcmp(work->arguments[i], "--json") == 0)
            return true;
    return false;
}

static uint32_t crc_of_output(void)
{
    char *data;
    size_t bytes;
    assert_ok(file_read_all(out, 1 << 24, &data, &bytes));
    uint32_t crc = crc32c(0, data, bytes);
    mem_free(data);
    return crc;
}

static void assert_leftover(const Work *work, const char *what)
{
    TraceCheck found;
    size_t outputs = count_outputs(false);
    if (outputs == 0)
        return;
    if (outputs != 1 || !file_exists(out))
        fail_msg("%s: %zu files are left", what, outputs);
    if (work->leftover == A_GOOD_TRACE)
        assert_ok(trace_check(out, &found, NULL, NULL));
    else if (work->leftover == A_STUDY_TO_GO_ON_WITH)
        run_good(work->arguments);
    else if (crc_of_output() != work->whole_crc)
        fail_msg("%s: a part of the file is left", what);
}

/* Runs WORK with its K-th allocation failing; false when it has fewer. */
static bool fail_one(const Work *work, uint64_t k, unsigned *failures)
{
    static CliRun run;
    char what[128];
    snprintf(what, sizeof what, "%s, allocation %llu", work->name, (unsigned long long)k);
    count_outputs(true);
    int64_t before = mem_live_blocks();
    mem_fail_at(k);
    cli_run(work->arguments, &run);
    bool reached = mem_fail_reached();
    mem_fail_at(0);
    if (mem_live_blocks() != before)
        fail_msg("%s: %d blocks are still held; exit %d, %s", what,
                 (int)(mem_live_blocks() - before), run.code, run.err);
    bool silent = run.out[0] == '\0' || !prints_json(work); /* tables for people may begin */
    bool clean = run.code == 0 || (run.code == 1 && silent && strstr(run.err, " memory") != NULL);
    if (!clean || !cli_said_one_line(&run) || (!reached && run.code != 0))
        fail_msg("%s: exit %d, stdout \"%.200s\", stderr \"%s\"", what, run.code, run.out, run.err);
    if (run.code != 0)
        assert_leftover(work, what);
    *failures += run.code != 0;
    return reached;
}

/* The first ones each, then ever fewer, the last ones each. */
static uint64_t next_of(uint64_t k, uint64_t total)
{
    enum { FIRST = 120, LAST = 40 };
    if (exhaustive() || k < FIRST || k + LAST >= total)
        return k + 1;
    uint64_t next = k + 1 + k / 24;
    return next + LAST < total ? next : total - LAST;
}

static void fail_each(Work *work)
{
    static CliRun run;
    unsigned failures = 0;
    uint64_t runs = 0;
    count_outputs(true);
    uint64_t before = mem_allocations();
    cli_run(work->arguments, &run);
    uint64_t total = mem_allocations() - before;
    if (run.code != 0)
        fail_msg("%s: exit %d: %s", work->name, run.code, run.err);
    if (work->leftover == THE_WHOLE_FILE && file_exists(out))
        work->whole_crc = crc_of_output();
    for (uint64_t k = 1; k <= total + 1; k = next_of(k, total), runs++)
        if (!fail_one(work, k, &failures) && k < total / 2)
            fail_msg("%s: there was no allocation %llu of %llu", work->name, (unsigned long long)k,
                     (unsigned long long)total);
    if (fail_one(work, 2 * total, &failures)) /* threads do not do that much in another order */
        fail_msg("%s: more than the %llu allocations that were counted", work->name,
                 (unsigned long long)total);
    print_message("%s: %llu allocations, %llu made to fail, exit status 1 after %u\n", work->name,
                  (unsigned long long)total, (unsigned long long)runs, failures);
    assert_true(failures > 10);
}

static void record_survives_every_failed_allocation(void **unused)
{
    (void)unused;
    fail_each(&(Work){.name = "record",
                      .leftover = A_GOOD_TRACE,
                      .arguments = {"record", "--model", model, "--tokens", tokens, "--batch", "2",
                                    "--generate", "3", "--plan", plan, "--scores", "3", "--out",
                                    out, "--json"}});
}

static void record_with_forced_routing_survives_every_failed_allocation(void **unused)
{
    (void)unused;
    char routing[300];
    snprintf(routing, sizeof routing, "trace:%s", trace);
    fail_each(
        &(Work){.name = "record with forced routing",
                .leftover = A_GOOD_TRACE,
                .arguments = {"record", "--model", model, "--routing", routing, "--set",
                              "buffer.slots=2", "--set", "buffer.evict=belady", "--out", out}});
}

static void forward_survives_every_failed_allocation(void **unused)
{
    (void)unused;
    fail_each(&(Work){.name = "forward",
                      .arguments = {"forward", "--model", model, "--tokens", tokens, "--key", "a",
                                    "--plan", plan, "--out", out, "--json"}});
}

static void validate_survives_every_failed_allocation(void **unused)
{
    (void)unused;
    char routing[300];
    snprintf(routing, sizeof routing, "trace:%s", trace);
    fail_each(&(Work){.name = "validate",
                      .arguments = {"validate", "--trace", trace, "--plan", plan, "--json"}});
    fail_each(&(Work){.name = "validate with forced routing",
                      .arguments = {"validate", "--trace", trace, "--model", model, "--routing",
                                    routing, "--set", "buffer.slots=3", "--set",
                                    "buffer.evict=belady", "--set", "buffer.order=serial"}});
}

static void sweep_survives_every_failed_allocation(void **unused)
{
    (void)unused;
    fail_each(&(Work){.name = "sweep",
                      .leftover = A_STUDY_TO_GO_ON_WITH,
                      .arguments = {"sweep", "--trace", trace, "--study", study_spec, "--out", out,
                                    "--jobs", "1"}});
    fail_each(&(Work){.name = "sweep on two threads",
                      .leftover = A_STUDY_TO_GO_ON_WITH,
                      .arguments = {"sweep", "--trace", trace, "--study", study_spec, "--out", out,
                                    "--jobs", "2", "--json"}});
}

static void import_survives_every_failed_allocation(void **unused)
{
    (void)unused;
    char routing[256];
    keep_path(routing, sizeof routing, "routing.jsonl");
    write_text(
        routing,
        "{\"layer_idx\":0,\"token_idx\":0,\"selected_ids\":[1,3],\"gate_weights\":[0.5,0.5]}\n"
        "{\"layer_idx\":2,\"token_idx\":0,\"selected_ids\":[0,7],\"gate_weights\":[0.6,0.4]}\n"
        "{\"layer_idx\":0,\"token_idx\":1,\"selected_ids\":[2,4],\"gate_weights\":[0.5,0.5]}\n"
        "{\"layer_idx\":2,\"token_idx\":1,\"selected_ids\":[5,1],\"gate_weights\":[0.7,0.3]}\n");
    fail_each(&(Work){.name = "import",
                      .leftover = A_GOOD_TRACE,
                      .arguments = {"import", "--from", "jsonl", routing, "--out", out, "--experts",
                                    "8", "--json"}});
}

static void plan_and_simulate_survive_every_failed_allocation(void **unused)
{
    (void)unused;
    fail_each(&(Work){.name = "plan",
                      .arguments = {"plan", "--from", study, "--best", "memory", "--misses-at-most",
                                    "0.9", "--where", "slots > 1", "--out", out}});
    fail_each(&(Work){.name = "simulate",
                      .arguments = {"simulate", "--trace", trace, "--plan", plan, "--set",
                                    "buffer.evict=random", "--json"}});
    fail_each(&(Work){.name = "info", .arguments = {"info", trace}});
    fail_each(&(Work){.name = "analyze", .arguments = {"analyze", trace}});
    fail_each(&(Work){.name = "report", .arguments = {"report", trace, "-o", out}});
    fail_each(&(Work){.name = "report", .arguments = {"report", study, "-o", out}});
    fail_each(&(Work){.name = "check", .arguments = {"check", trace, "--json"}});
}

int main(void)
{
    memory_install();
    fault_vfs_install(); /* never armed: it spares the thousands of syncs */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(record_survives_every_failed_allocation),
        cmocka_unit_test(record_with_forced_routing_survives_every_failed_allocation),
        cmocka_unit_test(forward_survives_every_failed_allocation),
        cmocka_unit_test(validate_survives_every_failed_allocation),
        cmocka_unit_test(sweep_survives_every_failed_allocation),
        cmocka_unit_test(import_survives_every_failed_allocation),
        cmocka_unit_test(plan_and_simulate_survive_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
