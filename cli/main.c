#include <signal.h>

#include "base/memory.h"
#include "cli/command.h"

int main(int argc, char **argv)
{
    memory_install();
    /* A reader that goes away must not kill a sweep half-way: writing fails, and is reported. */
    signal(SIGPIPE, SIG_IGN);
    return moebius_main(argc, argv);
}
