/* The subcommands of `moebius`, and the program as a function. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "base/status.h"

/* RUN gets its own name in argv[0]. It prints its result on stdout and nothing on stderr but
 * progress and notes: moebius_main() prints the error record. */
typedef struct {
    const char *name;
    const char *summary; /* one line for `moebius --help` */
    Status (*run)(int argc, char **argv);
} Command;

Status command_record(int argc, char **argv);
Status command_forward(int argc, char **argv);
Status command_import(int argc, char **argv);
Status command_tokenize(int argc, char **argv);
Status command_export(int argc, char **argv);
Status command_models(int argc, char **argv);
Status command_info(int argc, char **argv);
Status command_check(int argc, char **argv);
Status command_analyze(int argc, char **argv);
Status command_simulate(int argc, char **argv);
Status command_sweep(int argc, char **argv);
Status command_plan(int argc, char **argv);
Status command_report(int argc, char **argv);
Status command_place(int argc, char **argv);
Status command_calibrate(int argc, char **argv);
Status command_validate(int argc, char **argv);
Status command_bench(int argc, char **argv);

/* Runs `moebius ARGV[1] ...` and returns the exit status: 0 done, 1 the work failed or a validation
 * did not hold, 2 usage or bad input. A failure is one line on stderr, "moebius: COMMAND: ...";
 * stdout is flushed, and what could not be written there is a failure too. Keeps nothing, so that
 * it may be called again. */
int moebius_main(int argc, char **argv);

#endif
