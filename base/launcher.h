/* What a launcher of parallel programs (mpirun, srun) told this process through its environment. */
#ifndef BASE_LAUNCHER_H
#define BASE_LAUNCHER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint32_t rank;
    uint32_t count; /* 0: it does not say */
} Launch;

/* False when no launcher started this process, or only it. */
bool launcher_find(Launch *launch);

#endif
