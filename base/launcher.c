#include "base/launcher.h"

#include <stddef.h>
#include <stdlib.h>

/* Open MPI; MPICH, Intel MPI and Slurm's PMI; MVAPICH; PMIx, which has no variable for the count.
 */
static const struct {
    const char *rank;
    const char *count;
} LAUNCHERS[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
    {"PMI_RANK", "PMI_SIZE"},
    {"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"},
    {"PMIX_RANK", "SLURM_STEP_NUM_TASKS"},
};

static bool read_number(const char *name, uint32_t *number)
{
    const char *text = getenv(name);
    char *end;
    if (text == NULL || text[0] < '0' || text[0] > '9')
        return false;
    unsigned long value = strtoul(text, &end, 10);
    if (*end != '\0' || value > UINT32_MAX)
        return false;
    *number = (uint32_t)value;
    return true;
}

bool launcher_find(Launch *launch)
{
    for (size_t i = 0; i < sizeof LAUNCHERS / sizeof LAUNCHERS[0]; i++) {
        *launch = (Launch){0};
        if (read_number(LAUNCHERS[i].rank, &launch->rank)) {
            read_number(LAUNCHERS[i].count, &launch->count);
            return launch->count != 1;
        }
    }
    return false;
}
