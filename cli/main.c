#include <signal.h>

#include "base/memory.h"
#include "cli/command.h"
#include "exec/cpu/blas_threads.h"

int main(int argc, char **argv)
{
    memory_install();
    blas_threads_end();
    /* A reader that goes away must not kill a sweep half-way: the write fails and is reported. */
    signal(SIGPIPE, SIG_IGN);
    return moebius_main(argc, argv);
}
