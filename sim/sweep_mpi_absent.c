/* Stands in for sweep_mpi.c in builds without MPI: one process sweeps, and several are refused
 * before they write the same study.db. */
#include <assert.h>

#include "base/processes.h"
#include "sim/sweep_ranks.h"

Status sweep_ranks_join(SweepRanks **ranks)
{
    Processes *processes;
    *ranks = NULL;
    return processes_join(&processes);
}

Status sweep_ranks_leave(SweepRanks *ranks, Status status)
{
    assert(ranks == NULL);
    (void)ranks;
    return status;
}
