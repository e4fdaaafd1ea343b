/* This program as a process of its own, to be measured from start to end. */
#ifndef CLI_BENCH_CHILD_H
#define CLI_BENCH_CHILD_H

#include <stdint.h>

#include "base/status.h"

/* Runs the command ARGUMENTS, which end with NULL and do not name the program, with stdout in the
 * file OUT, and waits for it. *NS is the processor time that it took, system calls included. Fails
 * with ERR_IO when it cannot be run or does not exit with 0; what it says on stderr is said. */
Status bench_child_run(const char *const *arguments, const char *out, uint64_t *ns);

#endif
