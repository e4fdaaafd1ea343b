#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

static const Command COMMANDS[] = {
    {"record", "run a model on tokens and record its routing", command_record},
    {"forward", "run a model on tokens and write logits and routing", command_forward},
    {"import", "write a trace from what another tool or engine recorded", command_import},
    {"tokenize", "turn text into a model's tokens, and back", command_tokenize},
    {"export", "write a trace's routing, or a placement, for other tools", command_export},
    {"models", "say what checkpoints hold, and what of it a GPU has room for", command_models},
    {"info", "say what a trace holds", command_info},
    {"check", "verify every checksum and length of a trace or a study", command_check},
    {"analyze", "say what a trace's routing is like", command_analyze},
    {"simulate", "replay a trace under one plan", command_simulate},
    {"sweep", "replay a trace under every plan of a study", command_sweep},
    {"plan", "write the best plan of a study", command_plan},
    {"report", "write a study or a trace as one HTML page", command_report},
    {"place", "place the experts on ranks, and score how even that is", command_place},
    {"calibrate", "measure what a machine needs for a model's operations", command_calibrate},
    {"validate", "run a plan and compare it with its simulation, event by event", command_validate},
    {"bench", "measure replay, recording and the forward pass", command_bench},
};

enum { N_COMMANDS = sizeof COMMANDS / sizeof COMMANDS[0] };

static const Command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(COMMANDS[i].name, name) == 0)
            return &COMMANDS[i];
    return NULL;
}

static void print_overview(void)
{
    puts("usage: moebius COMMAND [OPTION]...\n\n"
         "Records what a Mixture-of-Experts model routes, replays it through caching policies,\n"
         "and runs the best plan to see whether the prediction was true.\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        printf("  %-10s %s\n", COMMANDS[i].name, COMMANDS[i].summary);
    puts("\n'moebius help COMMAND' or 'moebius COMMAND --help' lists a command's options.\n\n"
         "example:\n"
         "  moebius simulate --trace trace.db --set buffer.slots=8 --set buffer.evict=lru");
}

/* `moebius help [COMMAND]` */
static Status run_help(int argc, char **argv)
{
    if (argc <= 2) {
        print_overview();
        return OK;
    }
    const Command *command = find_command(argv[2]);
    if (command == NULL)
        return fail(ERR_USAGE, "%s: unknown command (see 'moebius --help')", argv[2]);
    if (argc > 3)
        return fail(ERR_USAGE, "%s: unexpected argument (see 'moebius --help')", argv[3]);
    char help[] = "--help";
    char *arguments[] = {argv[2], help, NULL};
    return command->run(2, arguments);
}

static Status run(int argc, char **argv)
{
    if (argc < 2)
        return fail(ERR_USAGE, "no command given (see 'moebius --help')");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return run_help(argc, argv);
    if (strcmp(argv[1], "--version") == 0) {
        puts("moebius " MOEBIUS_VERSION);
        return OK;
    }
    const Command *command = find_command(argv[1]);
    if (command == NULL)
        return fail(ERR_USAGE, "unknown command (see 'moebius --help')");
    return command->run(argc - 1, argv + 1);
}

/* A result that did not reach its reader is a failure, however well the work went. */
static Status flush_stdout(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return OK;
    clearerr(stdout);
    return fail(ERR_IO, "stdout: cannot write: %s", errno != 0 ? strerror(errno) : "output error");
}

/* A reader that goes away, or a file that may not grow, must not kill a sweep half-way: writing
 * fails, and is reported. */
static void survive_writing(void)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

int moebius_main(int argc, char **argv)
{
    error_clear();
    survive_writing();
    Status status = run(argc, argv);
    if (status == OK || status == STATUS_END)
        status = flush_stdout();
    else
        fflush(stdout);
    if (status == OK)
        return 0;
    if (argc < 2)
        fprintf(stderr, "moebius: %s\n", error_message());
    else
        fprintf(stderr, "moebius: %s: %s\n", argv[1], error_message());
    return status_exit_code(status);
}
