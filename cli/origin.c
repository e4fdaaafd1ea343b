#include "cli/origin.h"

#include <stdio.h>
#include <string.h>

#include "commit.h"

void origin_driver(char version[64])
{
    char line[256] = "";
    FILE *file = fopen("/proc/driver/nvidia/version", "r");
    version[0] = '\0';
    if (file == NULL)
        return;
    if (fgets(line, sizeof line, file) != NULL)
        for (const char *p = strstr(line, "  "); p != NULL; p = strstr(p + 1, "  "))
            if (sscanf(p, " %63[0-9.]", version) == 1)
                break;
    fclose(file);
}

void origin_of(const char *program, int argc, char **argv, Origin *origin)
{
    size_t room = sizeof origin->command;
    size_t used = (size_t)snprintf(origin->command, room, "%s", program);
    for (int i = 0; i < argc && used < room; i++)
        used += (size_t)snprintf(origin->command + used, room - used, " %s", argv[i]);
    snprintf(origin->commit, sizeof origin->commit, "%s", MOEBIUS_COMMIT);
    origin_driver(origin->driver);
}
