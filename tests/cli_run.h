/* Runs the program in this process and keeps what it said. */
#ifndef TESTS_CLI_RUN_H
#define TESTS_CLI_RUN_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "tests/support.h"

enum { CLI_ARGUMENTS = 24 };

typedef struct {
    int code;
    char out[1 << 16];
    char err[4096];
} CliRun;

static inline void cli_read_back(int descriptor, char *text, size_t room)
{
    ssize_t bytes = pread(descriptor, text, room - 1, 0);
    assert_true(bytes >= 0);
    text[bytes] = '\0';
}

/* ARGUMENTS ends with NULL and does not name the program. */
static inline void cli_run(const char *const *arguments, CliRun *run)
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
    int out = open(scratch_path("stdout.txt"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    int err = open(scratch_path("stderr.txt"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    run->code = moebius_main(argc, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(saved_out, STDOUT_FILENO);
    dup2(saved_err, STDERR_FILENO);
    cli_read_back(out, run->out, sizeof run->out);
    cli_read_back(err, run->err, sizeof run->err);
    close(saved_out);
    close(saved_err);
    close(out);
    close(err);
    for (int i = 1; i < argc; i++)
        free(argv[i]);
}

/* True when stderr is empty after exit status 0, else exactly one line that begins as every error
 * does. */
static inline bool cli_said_one_line(const CliRun *run)
{
    const char *end = strchr(run->err, '\n');
    if (run->code == 0)
        return run->err[0] == '\0';
    return strncmp(run->err, "moebius: ", 9) == 0 && end != NULL && end[1] == '\0';
}

#endif
