/* record and forward at the command line: what they write, and what they refuse. */
#include "tests/cli_run.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/safetensors.h"
#include "tests/checkpoint_maker.h"
#include "tests/json_at.h"
#include "traces/reader.h"
#include "tests/online_maker.h"

static void record_says_what_it_did_and_where_it_came_from(void **state)
{
    (void)state;
    RUN("record", "--model", model, "--tokens", batch, "--key", "ids", "--out", out, "--batch", "2",
        "--generate", "5", "--ignore-eos", "--scores", "3", "--set", "buffer.slots=4", "--set",
        "buffer.evict=lru", "--json");
    cJSON *json = run_json(&run);
    assert_true(number_at(json, "tokens") == ROWS * (LENGTH + 4));
    assert_true(number_at(json, "generated") == ROWS * 5);
    assert_true(number_at(json, "prefill_tokens") == ROWS * LENGTH);
    assert_true(number_at(json, "lookups") == number_at(json, "hits") + number_at(json, "misses"));
    assert_true(number_at(json, "misses") > 0);
    cJSON_Delete(json);
    TraceReader *reader;
    assert_ok(trace_reader_open(out, &reader));
    const TraceRun *origin = trace_reader_run(reader);
    assert_string_equal(origin->model, model);
    assert_string_equal(origin->source, batch);
    assert_non_null(strstr(origin->model_config, "qwen3_moe"));
    assert_non_null(strstr(origin->plan, "\"lru\""));
    assert_non_null(strstr(origin->device, "OpenBLAS"));
    assert_non_null(strstr(origin->notes, "\"m\":3"));
    assert_non_null(strstr(origin->notes, "descending"));
    trace_reader_close(reader);
    RUN("check", out);
    assert_run_done(&run);
}

static void record_cuts_streams_into_requests(void **state)
{
    (void)state;
    RUN("record", "--model", model, "--tokens", batch, "--out", out, "--prompt-length", "4",
        "--requests", "1", "--json");
    cJSON *json = run_json(&run);
    assert_true(number_at(json, "tokens") == ROWS * 4);
    assert_true(number_at(json, "tokens_left_out") == ROWS * (LENGTH - 4));
    cJSON_Delete(json);
}

static void a_recorded_trace_runs_again_with_its_routing(void **state)
{
    (void)state;
    char first[256];
    char forced[300];
    snprintf(first, sizeof first, "%s", scratch_path("first.db"));
    snprintf(forced, sizeof forced, "trace:%s", first);
    RUN("record", "--model", model, "--tokens", batch, "--out", first, "--batch", "3");
    assert_run_done(&run);
    RUN("record", "--model", model, "--routing", forced, "--out", out, "--set", "buffer.slots=2",
        "--set", "buffer.evict=belady");
    assert_run_done(&run);
    unlink(out);
    RUN("record", "--model", model, "--tokens", batch, "--routing", forced, "--out", out);
    assert_run_done(&run);
    unlink(out);
    RUN("record", "--model", model, "--tokens", one, "--routing", forced, "--out", out);
    assert_run_done(&run);
    unlink(out);
    /* The same key with other tokens: the trace and the file must not disagree. */
    char other[256];
    snprintf(other, sizeof other, "%s", scratch_path("other.jsonl"));
    write_text(other, "{\"tokens\": [95, 95, 95, 95]}\n");
    RUN("record", "--model", model, "--tokens", other, "--routing", forced, "--out", out);
    assert_refused("position 0 of request 0");
    RUN("record", "--model", model, "--routing", forced, "--generate", "3", "--out", out);
    assert_refused("which gives the steps");
}

static void record_refuses_bad_command_lines(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[8];
        const char *wanted;
    } cases[] = {
        {{"--scores", "0"}, "--scores: '0'"},
        {{"--scores", "many"}, "--scores: 'many'"},
        {{"--predictions", "0"}, "--predictions: 0"},
        {{"--predictions", "99"}, "predictions 99 MoE layers ahead, the model has room for"},
        {{"--batch", "0"}, "--batch: 0"},
        {{"--ignore-eos"}, "--ignore-eos needs --generate"},
        {{"--beam", "3"}, "--beam and --output need --generate"},
        {{"--decoder-key", "x"}, "--decoder-key needs --decoder-tokens"},
        {{"--routing", "trace:"}, "--routing: 'trace:'"},
        {{"--routing", "guess"},
         "--routing: 'guess', allowed are gate, uniform, zipf:S and trace:FILE"},
        {{"--routing", "trace:/nonexistent.db"}, "/nonexistent.db"},
        {{"--device", "cuda9"}, "cuda9"},
        {{"--set", "buffer.slots=0"}, "buffer.slots"},
        {{"--set", "buffer.slots=2", "--set", "buffer.evict=belady"}, "belady needs the future"},
        {{"--set", "buffer.slots=2", "--set", "prefetch.predictor=oracle:1"},
         "prefetch.predictor: oracle:1 needs the future"},
        {{"--set", "nonsense=1"}, "nonsense"},
        {{"--plan", "/nonexistent.json"}, "/nonexistent.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *arguments[20] = {"record", "--model", model, "--tokens", batch, "--out", out};
        for (size_t j = 0; j < 8; j++)
            arguments[7 + j] = cases[i].arguments[j];
        cli_run(arguments, &run);
        assert_refused(cases[i].wanted);
    }
    RUN("record", "--model", model, "--out", out);
    assert_refused("--tokens is missing");
    RUN("record", "--model", model, "--tokens", "random:1x4", "--key", "ids", "--out", out);
    assert_refused("random:1x4: key \"ids\": random tokens have no keys");
    RUN("record", "--model", model, "--tokens", "random:0x4", "--out", out);
    assert_refused("'random:0x4' is no random:REQUESTSxLENGTH");
    RUN("record", "--model", model, "--tokens", batch, "--out", "/nonexistent/trace.db");
    assert_refused("/nonexistent/trace.db");
    write_text(out, "mine");
    RUN("record", "--model", model, "--tokens", batch, "--out", out);
    assert_int_equal(run.code, 2);
    assert_true(file_exists(out)); /* what was there stays */
}

static void record_refuses_bad_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *wanted;
    } cases[] = {
        {"", "holds no tokens"},
        {"\n\n", "holds no tokens"},
        {"{\"tokens\": []}\n", "line 1"},
        {"{\"tokens\": [1]}\n{\"tokens\": [1, 96]}\n", "line 2"},
        {"{\"tokens\": [-1]}\n", "line 1"},
        {"{\"tokens\": [1.5]}\n", "line 1"},
        {"{\"tokens\": [1]", "line 1"},
    };
    char tokens[256];
    snprintf(tokens, sizeof tokens, "%s", scratch_path("bad.jsonl"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text(tokens, cases[i].text);
        RUN("record", "--model", model, "--tokens", tokens, "--out", out);
        assert_refused(cases[i].wanted);
    }
    /* 40 positions are what the model has. */
    char text[512] = "{\"label\": \"long\", \"tokens\": [1";
    for (int i = 1; i < 41; i++)
        strcat(text, ", 1");
    strcat(text, "]}\n");
    write_text(tokens, text);
    RUN("record", "--model", model, "--tokens", tokens, "--out", out);
    assert_refused("request 0, long: 41 tokens and 0 to generate, the model allows 40 "
                   "(--prompt-length cuts long streams)");
    RUN("record", "--model", model, "--tokens", batch, "--generate", "30", "--out", out);
    assert_refused("11 tokens and 30 to generate, the model allows 40");
    RUN("record", "--model", model, "--tokens", batch, "--generate", "29", "--out", out);
    assert_run_done(&run);
}

static bool poison(void *argument, Tensor *edited, float *values, size_t count)
{
    if (values != NULL && strcmp(edited->name, argument) == 0)
        values[count / 2] = NAN;
    return true;
}

static bool leave_out(void *argument, Tensor *edited, float *values, size_t count)
{
    (void)values;
    (void)count;
    return strcmp(edited->name, argument) != 0;
}

static bool reshape(void *argument, Tensor *edited, float *values, size_t count)
{
    (void)count;
    if (values == NULL && strcmp(edited->name, argument) == 0)
        edited->shape[0]++;
    return true;
}

static void both_refuse_bad_models(void **state)
{
    (void)state;
    char expert[] = "model.layers.1.mlp.experts.3.up_proj.weight";
    char norm[] = "model.norm.weight";
    const struct {
        CheckpointSpec spec;
        const char *wanted;
    } cases[] = {
        {{.edit = poison, .edit_argument = expert}, expert},
        {{.edit = leave_out, .edit_argument = norm}, "model.norm.weight: missing"},
        {{.edit = reshape, .edit_argument = norm}, "shape [33], wanted [32]"},
        {{.config_from = "\"num_experts\": 8", .config_to = "\"num_experts\": 0"}, "num_experts"},
        {{.config_from = "\"num_experts_per_tok\": 2", .config_to = "\"num_experts_per_tok\": 9"},
         "num_experts_per_tok"},
        {{.config_from = "qwen3_moe", .config_to = "abacus"}, "abacus"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char bad[256];
        char name[32];
        snprintf(name, sizeof name, "bad-%zu", i);
        snprintf(bad, sizeof bad, "%s", scratch_path(name));
        make_checkpoint(bad, &cases[i].spec);
        RUN("record", "--model", bad, "--tokens", batch, "--out", out);
        assert_refused(cases[i].wanted);
        RUN("forward", "--model", bad, "--tokens", batch, "--out", out);
        assert_refused(cases[i].wanted);
    }
    RUN("forward", "--model", "/nonexistent", "--tokens", batch, "--out", out);
    assert_refused("/nonexistent");
}

static bool overflow(void *argument, Tensor *edited, float *values, size_t count)
{
    (void)argument;
    for (size_t i = 0; values != NULL && i < count; i++)
        if (strstr(edited->name, "down_proj") != NULL || strstr(edited->name, "up_proj") != NULL)
            values[i] *= 3e37f;
    return true;
}

static void numbers_that_overflow_are_named_with_layer_and_token(void **state)
{
    (void)state;
    char bad[256];
    snprintf(bad, sizeof bad, "%s", scratch_path("overflow"));
    make_checkpoint(bad, &(CheckpointSpec){.dtype = DTYPE_F32, .edit = overflow});
    RUN("record", "--model", bad, "--tokens", batch, "--out", out);
    assert_refused("step 0: layer 1: token 0 of the step, position 0: the router's probabilities");
}

static void rest_ms(long ms)
{
    nanosleep(&(const struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* Starts a command in a child, with stderr and stdout going nowhere. */
static pid_t start(const char *const *arguments)
{
    char *argv[CLI_ARGUMENTS + 1] = {"moebius"};
    int argc = 1;
    for (; arguments[argc - 1] != NULL; argc++)
        argv[argc] = (char *)(uintptr_t)arguments[argc - 1];
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0)
        return child;
    int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    _exit(moebius_main(argc, argv));
}

/* Records a long input to OUT until it is interrupted. */
static void record_and_interrupt(void)
{
    char tokens[256];
    snprintf(tokens, sizeof tokens, "%s", scratch_path("many.jsonl"));
    FILE *file = fopen(tokens, "w");
    assert_non_null(file);
    for (int i = 0; i < 20000; i++)
        fprintf(file, "{\"tokens\": [%d, %d]}\n", i % VOCABULARY, i % 7);
    assert_int_equal(fclose(file), 0);
    pid_t child =
        start((const char *const[]){"record", "--model", model, "--tokens", tokens, "--out", out,
                                    "--generate", "25", "--ignore-eos", "--threads", "1", NULL});
    for (int i = 0; i < 500 && !file_exists(out); i++)
        rest_ms(20);
    rest_ms(400);
    int status;
    assert_int_equal(kill(child, SIGINT), 0);
    assert_true(waitpid(child, &status, 0) == child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

static void an_interrupt_ends_after_the_step_with_a_readable_trace(void **state)
{
    (void)state;
    record_and_interrupt();
    TraceReader *reader;
    assert_ok(trace_reader_open(out, &reader));
    assert_true(trace_reader_complete(reader));
    assert_in_range(trace_reader_steps(reader), 1, 20000 * 25 - 1);
    trace_reader_close(reader);
    RUN("check", out);
    assert_run_done(&run);
    unlink(out);
}

/* The first entry of FOLDER, or NULL. */
static const char *first_entry(const char *folder)
{
    static char name[256];
    const struct dirent *entry;
    bool found = false;
    DIR *stream = opendir(folder);
    assert_non_null(stream);
    while (!found && (entry = readdir(stream)) != NULL) {
        found = entry->d_name[0] != '.';
        snprintf(name, sizeof name, "%s", entry->d_name);
    }
    closedir(stream);
    return found ? name : NULL;
}

/* Kills a command that writes a trace to a folder in FOLDER while it does. */
static void kill_while_it_writes(pid_t child, const char *folder)
{
    char path[600];
    int status;
    bool writes = false;
    for (int i = 0; i < 5000 && !writes; i++) {
        const char *name = first_entry(folder);
        snprintf(path, sizeof path, "%s/%s", folder, name != NULL ? name : "none");
        writes = name != NULL && first_entry(path) != NULL;
        rest_ms(2);
    }
    assert_true(writes);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_true(waitpid(child, &status, 0) == child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_non_null(first_entry(folder));
}

static void what_a_killed_command_was_writing_goes_with_the_next_one(void **state)
{
    (void)state;
    char folder[256];
    char imported[300];
    char lines[256];
    const char *const validate[] = {"validate",       "--trace",   out, "--set",
                                    "buffer.slots=3", "--threads", "1", NULL};
    const char *const import[] = {"import", "--from", "jsonl", lines, "--out", imported, NULL};
    snprintf(folder, sizeof folder, "%s", scratch_path("killed"));
    snprintf(imported, sizeof imported, "%s/trace.db", folder);
    snprintf(lines, sizeof lines, "%s", scratch_path("lines.jsonl"));
    assert_int_equal(mkdir(folder, 0700), 0);
    setenv("TMPDIR", folder, 1);
    record_and_interrupt();
    kill_while_it_writes(start(validate), folder);
    FILE *file = fopen(lines, "w");
    assert_non_null(file);
    for (int i = 0; i < 200000; i++)
        fprintf(file, "{\"layer_idx\":0,\"token_idx\":%d,\"selected_ids\":[%d]}\n", i, i % 5);
    assert_int_equal(fclose(file), 0);
    pid_t child = start(validate); /* removes the first's, and is killed itself */
    kill_while_it_writes(child, folder);
    cli_run(validate, &run);
    assert_run_done(&run);
    assert_null(first_entry(folder));
    unsetenv("TMPDIR");
    kill_while_it_writes(start(import), folder);
    cli_run(import, &run);
    assert_run_done(&run);
    assert_string_equal(first_entry(folder), "trace.db");
    unlink(imported);
    assert_null(first_entry(folder));
    unlink(out);
}

static void bench_refuses_what_it_does_not_know(void **state)
{
    (void)state;
    RUN("bench", "everything");
    assert_refused("'everything' is no benchmark");
    RUN("bench", "engine", "--threads", "2");
    assert_refused("'engine' runs no model: --model, --device and --threads have no meaning");
    RUN("bench", "record", "--shape", "olmoe-1b-7b");
    assert_refused("--shape has no meaning without moe-layer or attention");
    RUN("bench", "moe-layer", "--model", model);
    assert_refused("--model, --threads and --hardware have no meaning with moe-layer");
    RUN("bench", "attention", "--device", "cpu");
    assert_refused("--device: 'cpu', attention runs on cuda");
    RUN("bench", "engine", "--hardware", "hw.json");
    assert_refused("--hardware has no meaning with engine");
    RUN("bench", "simulate", "--hardware", "/nonexistent");
    assert_refused("/nonexistent");
    RUN("bench", "forward", "--model", "/nonexistent");
    assert_refused("/nonexistent");
    RUN("bench", "forward", "--model", model);
    assert_refused("the benchmark wants 256 positions, the model allows 40");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        /* first: they fork, and the others start threads */
        cmocka_unit_test_setup(what_a_killed_command_was_writing_goes_with_the_next_one,
                               remove_out),
        cmocka_unit_test_setup(an_interrupt_ends_after_the_step_with_a_readable_trace, remove_out),
        cmocka_unit_test_setup(record_says_what_it_did_and_where_it_came_from, remove_out),
        cmocka_unit_test_setup(record_cuts_streams_into_requests, remove_out),
        cmocka_unit_test_setup(a_recorded_trace_runs_again_with_its_routing, remove_out),
        cmocka_unit_test_setup(record_refuses_bad_command_lines, remove_out),
        cmocka_unit_test_setup(record_refuses_bad_tokens, remove_out),
        cmocka_unit_test_setup(both_refuse_bad_models, remove_out),
        cmocka_unit_test_setup(numbers_that_overflow_are_named_with_layer_and_token, remove_out),
        cmocka_unit_test_setup(bench_refuses_what_it_does_not_know, remove_out),
    };
    return cmocka_run_group_tests(tests, make_files, NULL);
}
