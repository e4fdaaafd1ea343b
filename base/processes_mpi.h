/* What processes are under MPI, for files that call it. */
#ifndef BASE_PROCESSES_MPI_H
#define BASE_PROCESSES_MPI_H

#include <mpi.h>

#include <stdbool.h>

#include "base/processes.h"

typedef struct {
    Processes processes; /* first: a Processes is converted back */
    MPI_Comm comm;
    bool broken; /* a call failed: the processes cannot speak any more */
} MpiProcesses;

/* OK of MPI_SUCCESS; else the record says which CALL failed and why, and MPI is broken. */
Status mpi_check(MpiProcesses *mpi, int code, const char *call);

#define MPI_TRY(mpi, call) TRY(mpi_check(mpi, call, #call))

#endif
