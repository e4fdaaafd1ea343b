/* Runs the program in this process and keeps what it said. */
#ifndef TESTS_CLI_RUN_H
#define TESTS_CLI_RUN_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/command.h"
#include "tests/support.h"

enum { CLI_ARGUMENTS = 24 };

typedef struct {
    int code;
    char out[1 << 16];
    char err[4096];
} CliRun;

/* Runs the program with stdout going to OUT and stderr to ERR, as files. ARGUMENTS ends with NULL
 * and does not name the program. */
static inline int cli_run_into(int out, int err, const char *const *arguments)
{
    char *argv[CLI_ARGUMENTS + 2] = {(char[]){"moebius"}};
    int argc = 1;
    for (; arguments[argc - 1] != NULL; argc++) {
        assert_true(argc <= CLI_ARGUMENTS);
        argv[argc] = strdup(arguments[argc - 1]);
    }
    fflush(stdout);
    fflush(stderr);
    int saved_out = dup(STDOUT_FILENO);
    int saved_err = dup(STDERR_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    int code = moebius_main(argc, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(saved_out, STDOUT_FILENO);
    dup2(saved_err, STDERR_FILENO);
    close(saved_out);
    close(saved_err);
    for (int i = 1; i < argc; i++)
        free(argv[i]);
    return code;
}

static inline void cli_read_back(int descriptor, char *text, size_t room)
{
    ssize_t bytes = pread(descriptor, text, room - 1, 0);
    assert_true(bytes >= 0);
    text[bytes] = '\0';
}

/* An empty file without a name, so that the test's own paths stay valid. */
static inline int cli_open_output(void)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    int descriptor = dup(fileno(file));
    fclose(file);
    return descriptor;
}

static inline void cli_run(const char *const *arguments, CliRun *run)
{
    int out = cli_open_output();
    int err = cli_open_output();
    run->code = cli_run_into(out, err, arguments);
    cli_read_back(out, run->out, sizeof run->out);
    cli_read_back(err, run->err, sizeof run->err);
    close(out);
    close(err);
}

/* Keeps it in the test's own `run`. */
#define RUN(...) cli_run((const char *const[]){__VA_ARGS__, NULL}, &run)

/* True when stderr is empty after exit status 0, else exactly one line that begins as every error
 * does. */
static inline bool cli_said_one_line(const CliRun *run)
{
    const char *end = strchr(run->err, '\n');
    if (run->code == 0)
        return run->err[0] == '\0';
    return strncmp(run->err, "moebius: ", 9) == 0 && end != NULL && end[1] == '\0';
}

/* It did what it should, in silence. */
static inline void assert_run_done(const CliRun *run)
{
    if (run->code != 0 || run->err[0] != '\0')
        fail_msg("exit %d: %s", run->code, run->err);
}

/* Exactly one line on stderr, which says WANTED, and nothing on stdout. */
static inline void assert_run_refused(const CliRun *run, int code, const char *wanted)
{
    if (run->code != code || !cli_said_one_line(run) || strstr(run->err, wanted) == NULL ||
        run->out[0] != '\0')
        fail_msg("wanted exit %d and \"%s\", got exit %d, stderr \"%s\", stdout \"%s\"", code,
                 wanted, run->code, run->err, run->out);
}

/* What it printed, which is one JSON object; deleted by the caller. */
static inline cJSON *run_json(const CliRun *run)
{
    cJSON *json = NULL;
    assert_run_done(run);
    assert_ok(json_parse(run->out, strlen(run->out), "stdout", &json));
    assert_true(cJSON_IsObject(json));
    return json;
}

#endif
