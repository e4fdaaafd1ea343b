/* Stands in for processes_mpi.c in builds without MPI: one process works, and several are refused
 * before each does the work of all. */
#include "base/launcher.h"
#include "base/processes.h"

#include <assert.h>

Status processes_join(Processes **processes)
{
    Launch launch;
    *processes = NULL;
    if (!launcher_find(&launch))
        return OK;
    if (launch.rank > 0)
        return STATUS_END;
    return fail(ERR_UNSUPPORTED,
                "started as %u processes, and this build has no MPI to share the "
                "work: build with mpicc in PATH, or start one process",
                launch.count);
}

static Status alone(const Processes *processes)
{
    assert(processes == NULL);
    (void)processes;
    return fail(ERR_UNSUPPORTED, "this build has no MPI");
}

Status processes_share(Processes *processes, void *block, size_t bytes)
{
    (void)block;
    (void)bytes;
    return alone(processes);
}

Status processes_most(Processes *processes, double *values, uint32_t n)
{
    (void)values;
    (void)n;
    return alone(processes);
}

Status processes_agree(Processes *processes, Status status)
{
    (void)status;
    return alone(processes);
}

Status processes_leave(Processes *processes, Status status)
{
    assert(processes == NULL);
    (void)processes;
    return status;
}
