/* Text through the program: tokenize, and --text of the commands that run a model. */
#include "tests/cli_run.h"

#include "base/files.h"
#include "base/memory.h"

#define TINY "models/tiny-32x4"

static const char TEXT[] =
    "Zwölf Boxkämpfer jagen Viktor.\n\nThey'll see 12,345 \xF0\x9F\xA6\x8A!\n";

static CliRun run;

static void write_text(const char *path)
{
    assert_ok(file_write_all(path, TEXT, sizeof TEXT - 1));
}

static void text_through_tokens_and_back_is_the_same_text(void **state)
{
    const char *text = scratch_path("in.txt");
    const char *tokens = scratch_path("tokens.jsonl");
    const char *back = scratch_path("out.txt");
    char *read = NULL;
    size_t bytes = 0;
    (void)state;
    write_text(text);
    RUN("tokenize", "--model", TINY, "--text", text, "--out", tokens);
    assert_run_done(&run);
    RUN("tokenize", "--model", TINY, "--tokens", tokens, "--out", back, "--json");
    assert_run_done(&run);
    assert_non_null(strstr(run.out, "\"kind\":\t\"byte-level BPE\""));
    assert_non_null(strstr(run.out, "jagen Viktor."));
    assert_ok(file_read_all(back, 4096, &read, &bytes));
    assert_int_equal(bytes, sizeof TEXT - 1);
    assert_memory_equal(read, TEXT, bytes);
    mem_free(read);
}

/* What is written for --tokens and what --text runs are the same requests: equal logits. */
static void text_and_its_tokens_run_alike(void **state)
{
    char *outputs[2] = {NULL, NULL};
    size_t bytes[2] = {0, 0};
    const char *text = scratch_path("in.txt");
    const char *tokens = scratch_path("tokens.jsonl");
    const char *out = scratch_path("out.safetensors");
    (void)state;
    write_text(text);
    RUN("tokenize", "--model", TINY, "--text", text, "--out", tokens);
    assert_run_done(&run);
    for (int i = 0; i < 2; i++) {
        RUN("forward", "--model", TINY, i == 0 ? "--text" : "--tokens", i == 0 ? text : tokens,
            "--threads", "1", "--out", out);
        assert_run_done(&run);
        assert_ok(file_read_all(out, 1 << 26, &outputs[i], &bytes[i]));
    }
    assert_int_equal(bytes[0], bytes[1]);
    assert_memory_equal(outputs[0], outputs[1], bytes[0]);
    mem_free(outputs[0]);
    mem_free(outputs[1]);
}

static void record_runs_each_line_and_prints_what_it_generated(void **state)
{
    const char *text = scratch_path("lines.txt");
    const char *trace = scratch_path("text.db");
    (void)state;
    write_text(text);
    RUN("record", "--model", TINY, "--text", text, "--lines", "--generate", "3", "--ignore-eos",
        "--print-text", "--json", "--out", trace);
    assert_run_done(&run);
    assert_non_null(strstr(run.out, "\"generated\":\t6"));
    assert_non_null(strstr(run.out, "\"label\":\t\"lines.txt:1\""));
    assert_non_null(strstr(run.out, "\"label\":\t\"lines.txt:3\""));
    assert_non_null(strstr(run.out, "\"text\":"));
}

static void options_that_do_not_go_together_are_refused(void **state)
{
    char out[256]; /* scratch_path() keeps only the last few */
    (void)state;
    snprintf(out, sizeof out, "%s", scratch_path("never"));
    RUN("record", "--model", TINY, "--text", "a", "--tokens", "b", "--out", out);
    assert_run_refused(&run, 2, "--text and --tokens");
    RUN("record", "--model", TINY, "--tokens", "b", "--lines", "--out", out);
    assert_run_refused(&run, 2, "--lines needs --text");
    RUN("record", "--model", TINY, "--text", "a", "--key", "k", "--out", out);
    assert_run_refused(&run, 2, "--key needs --tokens");
    RUN("record", "--model", TINY, "--text", "a", "--print-text", "--out", out);
    assert_run_refused(&run, 2, "--print-text needs --generate");
    RUN("forward", "--model", TINY, "--text", "a", "--tokens", "b", "--out", out);
    assert_run_refused(&run, 2, "--text and --tokens");
    RUN("tokenize", "--model", TINY);
    assert_run_refused(&run, 2, "one of --text and --tokens");
    RUN("tokenize", "--model", TINY, "--tokens", "b", "--lines");
    assert_run_refused(&run, 2, "--lines needs --text");
    RUN("tokenize", "--model", "tests", "--text", "Makefile");
    assert_run_refused(&run, 2, "holds no tokenizer");
    RUN("tokenize", "--model", "Makefile", "--text", "Makefile");
    assert_run_refused(&run, 2, "no tokenizer");
    assert_false(file_exists(out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_through_tokens_and_back_is_the_same_text),
        cmocka_unit_test(text_and_its_tokens_run_alike),
        cmocka_unit_test(record_runs_each_line_and_prints_what_it_generated),
        cmocka_unit_test(options_that_do_not_go_together_are_refused),
    };
    memory_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
