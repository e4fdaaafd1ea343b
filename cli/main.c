#include "base/memory.h"
#include "cli/command.h"

int main(int argc, char **argv)
{
    memory_install();
    return moebius_main(argc, argv);
}
