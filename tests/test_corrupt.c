/* Every command on damaged files.
 *
 * A command that reads a damaged trace refuses it in one line or prints what it printed of the
 * whole one, to the byte: nothing that a result depends on changes unnoticed. What it may not
 * notice is what no result depends on: free pages, unused bytes of pages, counters of SQLite's, and
 * columns that the command does not read; tests/test_reader_damage.c holds `check` to every column
 * of every table. The same holds of study.db, which a sweep that refuses it leaves as it is. */
#define _POSIX_C_SOURCE 200809L
#include "base/status.h"

#include <sys/stat.h>

#include "base/files.h"
#include "base/memory.h"
#include "policies/plan.h"
#include "tests/checkpoint_maker.h"
#include "tests/cli_run.h"
#include "tests/fault_vfs.h"

enum { PAGE_BYTES = 4096 };

static char trace[256];
static char study_spec[256];
static char study[256];
static char good_study[256];
static char out[256];

/* The commands that read a trace, and what they print of the good one. */
typedef struct {
    const char *arguments[CLI_ARGUMENTS];
    char *good; /* freed at the end of the program */
} Reading;

static Reading readings[] = {
    {.arguments = {"info", trace, "--json"}},
    {.arguments = {"analyze", trace, "--json"}},
    {.arguments = {"report", trace, "--out", out}},
    {.arguments = {"check", trace, "--json"}},
    {.arguments = {"simulate", "--trace", trace, "--set", "buffer.slots=3", "--json"}},
    {.arguments = {"simulate", "--trace", trace, "--set", "buffer.slots=3", "--set",
                   "buffer.evict=belady", "--set", "buffer.scope=device", "--json"}},
    {.arguments = {"simulate", "--trace", trace, "--set", "buffer.slots=3", "--set",
                   "buffer.evict=ema-score", "--set", "prefetch.predictor=next-gate", "--json"}},
    {.arguments = {"simulate", "--trace", trace, "--set", "buffer.slots=3", "--set",
                   "prefetch.predictor=activation-match:3", "--json"}},
    {.arguments = {"sweep", "--trace", trace, "--study", study_spec, "--out", out, "--jobs", "1",
                   "--json"}},
    {.arguments = {"validate", "--trace", trace, "--set", "buffer.slots=3", "--threads", "1",
                   "--json"}},
};
enum { N_READINGS = sizeof readings / sizeof readings[0] };

/* Takes the lines with times out of TEXT. */
static void drop_times(char *text)
{
    char *to = text;
    for (char *line = text; *line != '\0';) {
        size_t length = strcspn(line, "\n");
        length += line[length] == '\n';
        bool is_time = strncmp(line + strspn(line, "\t"), "\"replay_ns\"", 11) == 0 ||
                       strncmp(line + strspn(line, "\t"), "\"elapsed_ns\"", 12) == 0 ||
                       strncmp(line + strspn(line, "\t"), "\"lookups_per_s\"", 15) == 0;
        if (!is_time) {
            memmove(to, line, length);
            to += length;
        }
        line += length;
    }
    *to = '\0';
}

static void read_with(const Reading *reading, CliRun *run)
{
    unlink(out);
    cli_run(reading->arguments, run);
    drop_times(run->out);
}

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

static int make_files(void **unused)
{
    (void)unused;
    static CliRun run;
    static const char tokens_text[] = "{\"label\":\"a\",\"tokens\":[1,2,3,4,5,6,7]}\n"
                                      "{\"label\":\"b\",\"tokens\":[9,8,7]}\n";
    static const char study_text[] = "{\"moebius_study\":1,\"name\":\"few\",\"grid\":{"
                                     "\"buffer.evict\":[\"lru\",\"fifo\"],\"buffer.slots\":[2,4]}}";
    const char *model = scratch_path("model");
    const char *tokens = scratch_path("tokens.jsonl");
    keep_path(trace, sizeof trace, "trace.db");
    keep_path(study_spec, sizeof study_spec, "study.json");
    keep_path(study, sizeof study, "study.db");
    keep_path(good_study, sizeof good_study, "good.db");
    keep_path(out, sizeof out, "out");
    make_checkpoint(model, &(CheckpointSpec){.seed = 4});
    assert_ok(file_write_all(tokens, tokens_text, strlen(tokens_text)));
    assert_ok(file_write_all(study_spec, study_text, strlen(study_text)));
    run_good((const char *[]){"record", "--model", model, "--tokens", tokens, "--batch", "2",
                              "--generate", "30", "--predictions", "1", "--scores", "all", "--set",
                              "buffer.slots=4", "--out", trace, NULL});
    run_good((const char *[]){"sweep", "--trace", trace, "--study", study_spec, "--out", good_study,
                              NULL});
    for (size_t i = 0; i < N_READINGS; i++) {
        read_with(&readings[i], &run);
        if (run.code != 0)
            fail_msg("%s: exit %d: %s", readings[i].arguments[0], run.code, run.err);
        readings[i].good = mem_alloc(strlen(run.out) + 1, 1);
        assert_non_null(readings[i].good);
        strcpy(readings[i].good, run.out);
    }
    return 0;
}

static int free_files(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < N_READINGS; i++)
        mem_free(readings[i].good);
    return 0;
}

/* The bytes of a good file, to be damaged again and again. */
typedef struct {
    char *good;
    char *damaged;
    size_t bytes; /* of the good one */
    size_t left;  /* of the damaged one */
    char what[128];
} Victim;

static Victim victim_of(const char *path)
{
    Victim victim = {0};
    assert_ok(file_read_all(path, 1 << 24, &victim.good, &victim.bytes));
    victim.damaged = mem_alloc(victim.bytes, 1);
    assert_non_null(victim.damaged);
    return victim;
}

static void victim_free(Victim *victim)
{
    mem_free(victim->good);
    mem_free(victim->damaged);
}

/* One or two bytes, near each other or not. */
static void change_bytes(Victim *victim, uint64_t *state)
{
    uint32_t bytes = (uint32_t)victim->bytes;
    size_t first = random_below(state, bytes);
    size_t second = random_below(state, 2) ? (first + 1) % bytes : random_below(state, bytes);
    victim->damaged[first] ^= (char)(1 + random_below(state, 255));
    if (random_below(state, 2) == 0)
        victim->damaged[second] ^= (char)(1 + random_below(state, 255));
    snprintf(victim->what, sizeof victim->what, "bytes %zu and perhaps %zu", first, second);
}

/* What disks and copies do: a page of zeros, two pages exchanged, a page twice, an end missing. */
static void change_pages(Victim *victim, uint64_t *state)
{
    uint32_t pages = (uint32_t)(victim->bytes / PAGE_BYTES);
    char *one = victim->damaged + (size_t)PAGE_BYTES * random_below(state, pages);
    char *other = victim->damaged + (size_t)PAGE_BYTES * random_below(state, pages);
    char kept[PAGE_BYTES];
    uint32_t kind = random_below(state, 4);
    memcpy(kept, one, PAGE_BYTES);
    if (kind == 0)
        memset(one, 0, PAGE_BYTES);
    else if (kind == 3)
        victim->left = (size_t)PAGE_BYTES * random_below(state, pages);
    else if (one != other)
        memcpy(one, other, PAGE_BYTES);
    if (kind == 1)
        memcpy(other, kept, PAGE_BYTES);
    snprintf(victim->what, sizeof victim->what, "pages, kind %u, %d and %d", kind,
             (int)((one - victim->damaged) / PAGE_BYTES),
             (int)((other - victim->damaged) / PAGE_BYTES));
}

static void remove_beside(const char *path)
{
    static const char *const suffixes[] = {"-wal", "-shm", "-journal"};
    for (size_t i = 0; i < 3; i++) {
        char name[300];
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

/* Puts the damaged bytes in place; not atomically, and without a sync. */
static void damage(const char *path, Victim *victim, uint32_t round, uint64_t *state)
{
    memcpy(victim->damaged, victim->good, victim->bytes);
    victim->left = victim->bytes;
    if (round % 10 == 9)
        change_pages(victim, state);
    else
        change_bytes(victim, state);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(victim->damaged, 1, victim->left, stream), victim->left);
    assert_int_equal(fclose(stream), 0);
    remove_beside(path);
}

static void a_damaged_trace_is_refused_or_gives_the_same_result(void **unused)
{
    (void)unused;
    static CliRun run;
    Victim victim = victim_of(trace);
    uint32_t rounds = exhaustive() ? 20000 : 2000;
    uint64_t state = 2024;
    uint32_t refused = 0;
    int64_t before = mem_live_blocks();
    for (uint32_t round = 0; round < rounds; round++) {
        const Reading *reading = &readings[round % N_READINGS];
        damage(trace, &victim, round / N_READINGS, &state);
        read_with(reading, &run);
        bool same = run.code == 0 && strcmp(run.out, reading->good) == 0;
        bool clean = run.code == 2 && run.out[0] == '\0' && !file_exists(out);
        if (!cli_said_one_line(&run) || !(same || clean))
            fail_msg("round %u, %s, %s: exit %d, \"%s\", \"%s\"", round, victim.what,
                     reading->arguments[0], run.code, run.err, run.out);
        if (mem_live_blocks() != before)
            fail_msg("round %u, %s: blocks are still held", round, victim.what);
        refused += !same;
    }
    assert_ok(file_write_all(trace, victim.good, victim.bytes));
    remove_beside(trace);
    victim_free(&victim);
    print_message("%u of %u damaged traces were refused\n", refused, rounds);
    assert_true(refused > rounds / 4);
}

static const char *const study_commands[][CLI_ARGUMENTS] = {
    {"plan", "--from", study, "--best", "misses", "--out", out, "--json"},
    {"plan", "--from", study, "--best", "memory", "--misses-at-most", "1", "--where",
     "name <> 'x' AND slots < 9", "--out", out},
    {"check", study, "--json"},
    {"sweep", "--trace", trace, "--study", study_spec, "--out", study, "--jobs", "1"},
};
enum { STUDY_COMMANDS = sizeof study_commands / sizeof study_commands[0] };

/* What the command prints, and the plan that it writes, freed with mem_free(). */
static char *read_study(const char *const *command, CliRun *run)
{
    char *plan = NULL;
    size_t bytes = 0;
    unlink(out);
    cli_run(command, run);
    if (file_exists(out))
        assert_ok(file_read_all(out, 1 << 20, &plan, &bytes));
    size_t printed = strlen(run->out);
    char *all = mem_alloc(printed + bytes + 1, 1);
    assert_non_null(all);
    memcpy(all, run->out, printed);
    if (plan != NULL)
        memcpy(all + printed, plan, bytes);
    all[printed + bytes] = '\0';
    mem_free(plan);
    return all;
}

static void assert_bytes_are(const char *path, const Victim *victim)
{
    char *bytes;
    size_t n;
    assert_ok(file_read_all(path, 1 << 24, &bytes, &n));
    if (n != victim->left || memcmp(bytes, victim->damaged, n) != 0)
        fail_msg("%s: %s was refused, but changed", victim->what, path);
    mem_free(bytes);
}

/* After a sweep that took STUDY: the best plan is the one of the good study. */
static void assert_best_is(const char *best, const Victim *victim)
{
    static CliRun run;
    char *now = read_study(study_commands[0], &run);
    if (run.code != 0 || strcmp(now, best) != 0)
        fail_msg("%s: after a sweep: exit %d, \"%s\", \"%s\"", victim->what, run.code, run.err,
                 now);
    mem_free(now);
}

static void a_damaged_study_is_refused_and_left_alone_or_gives_the_same_result(void **unused)
{
    (void)unused;
    static CliRun run;
    Victim victim = victim_of(good_study);
    uint32_t rounds = exhaustive() ? 20000 : 2000;
    uint64_t state = 2025;
    uint32_t refused = 0;
    char *good[STUDY_COMMANDS];
    assert_ok(file_write_all(study, victim.good, victim.bytes));
    for (size_t i = 0; i < STUDY_COMMANDS; i++)
        good[i] = read_study(study_commands[i], &run);
    for (uint32_t round = 0; round < rounds; round++) {
        size_t at = round % STUDY_COMMANDS;
        bool sweeps = study_commands[at][0][0] == 's';
        int64_t before = mem_live_blocks();
        damage(study, &victim, round / STUDY_COMMANDS, &state);
        char *now = read_study(study_commands[at], &run);
        bool same = run.code == 0 && (sweeps || strcmp(now, good[at]) == 0);
        bool clean = run.code == 2 && now[0] == '\0' && strstr(run.err, study) != NULL;
        mem_free(now);
        if (!cli_said_one_line(&run) || !(same || clean) || mem_live_blocks() != before)
            fail_msg("round %u, %s, %s: exit %d, \"%s\", \"%s\", %d blocks", round, victim.what,
                     study_commands[at][0], run.code, run.err, run.out,
                     (int)(mem_live_blocks() - before));
        if (clean)
            assert_bytes_are(study, &victim);
        else if (sweeps)
            assert_best_is(good[0], &victim);
        refused += clean;
    }
    for (size_t i = 0; i < STUDY_COMMANDS; i++)
        mem_free(good[i]);
    victim_free(&victim);
    print_message("%u of %u damaged studies were refused\n", refused, rounds);
    assert_true(refused > rounds / 4);
}

int main(void)
{
    memory_install();
    fault_vfs_install(); /* never armed: it spares the thousands of syncs */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_damaged_trace_is_refused_or_gives_the_same_result),
        cmocka_unit_test(a_damaged_study_is_refused_and_left_alone_or_gives_the_same_result),
    };
    return cmocka_run_group_tests(tests, make_files, free_files);
}
