/* Stands in for sweep_mpi.c in builds without MPI: one process sweeps, and several are refused
 * before they write the same study.db. */
#include <assert.h>

#include "sim/launcher.h"
#include "sim/sweep_ranks.h"

Status sweep_ranks_join(SweepRanks **ranks)
{
    Launch launch;
    *ranks = NULL;
    if (!launcher_find(&launch))
        return OK;
    if (launch.rank > 0)
        return STATUS_END;
    return fail(ERR_UNSUPPORTED,
                "started as %u processes, and this build has no MPI to share the "
                "work: build with mpicc in PATH, or start one process",
                launch.count);
}

Status sweep_ranks_leave(SweepRanks *ranks, Status status)
{
    assert(ranks == NULL);
    (void)ranks;
    return status;
}
