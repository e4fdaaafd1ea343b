#define _GNU_SOURCE
#include "base/processes_mpi.h"

#include <limits.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/launcher.h"
#include "base/memory.h"

enum {
    RECORD_BYTES = 1100, /* of an error record */
    AGREE_TAG = 2,
    BUSY_NS = 200000, /* of waiting without a nap */
    LEAST_NAP_NS = 20000,
    MOST_NAP_NS = 5000000
};

Status mpi_check(MpiProcesses *mpi, int code, const char *call)
{
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (code == MPI_SUCCESS)
        return OK;
    mpi->broken = true;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS)
        length = 0;
    return fail(ERR_IO, "%s failed: %.*s", call, length, text);
}

/* Naps grow with the time that was waited. */
static void take_nap(uint64_t waited_ns)
{
    uint64_t nap_ns = waited_ns / 16;
    if (waited_ns < BUSY_NS)
        return;
    nap_ns = nap_ns < LEAST_NAP_NS ? LEAST_NAP_NS : nap_ns > MOST_NAP_NS ? MOST_NAP_NS : nap_ns;
    nanosleep(&(struct timespec){.tv_nsec = (long)nap_ns}, NULL);
}

/* MPI itself would keep a processor busy all the while. */
static Status await(MpiProcesses *mpi, MPI_Request *request)
{
    uint64_t start_ns = clock_ns();
    for (int done = 0;;) {
        MPI_TRY(mpi, MPI_Test(request, &done, MPI_STATUS_IGNORE));
        uint64_t waited_ns = clock_ns() - start_ns;
        if (done)
            return OK;
        if (mpi->processes.limit_ns > 0 && waited_ns > mpi->processes.limit_ns) {
            mpi->broken = true;
            return fail(ERR_IO, "rank %u: waited %.0f s for another rank", mpi->processes.rank,
                        (double)waited_ns * 1e-9);
        }
        take_nap(waited_ns);
    }
}

static Status find_machine(MpiProcesses *mpi)
{
    MPI_Comm machine;
    int rank;
    int count;
    MPI_TRY(mpi, MPI_Comm_split_type(mpi->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine));
    MPI_TRY(mpi, MPI_Comm_rank(machine, &rank));
    MPI_TRY(mpi, MPI_Comm_size(machine, &count));
    MPI_TRY(mpi, MPI_Comm_free(&machine));
    mpi->processes.machine_rank = (uint32_t)rank;
    mpi->processes.machine_count = (uint32_t)count;
    return OK;
}

static Status start(MpiProcesses *mpi, const Launch *launch)
{
    int provided;
    int rank;
    int count;
    MPI_TRY(mpi, MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided));
    MPI_TRY(mpi, MPI_Comm_dup(MPI_COMM_WORLD, &mpi->comm));
    MPI_TRY(mpi, MPI_Comm_set_errhandler(mpi->comm, MPI_ERRORS_RETURN));
    MPI_TRY(mpi, MPI_Comm_rank(mpi->comm, &rank));
    MPI_TRY(mpi, MPI_Comm_size(mpi->comm, &count));
    mpi->processes.rank = (uint32_t)rank;
    mpi->processes.count = (uint32_t)count;
    if (launch->count == 0 || launch->count == mpi->processes.count)
        return find_machine(mpi);
    if (launch->rank > 0)
        return STATUS_END;
    return fail(ERR_UNSUPPORTED, "started as %u processes by another MPI than this build's",
                launch->count);
}

Status processes_join(Processes **processes)
{
    Launch launch;
    MpiProcesses *mpi;
    *processes = NULL;
    if (!launcher_find(&launch))
        return OK;
    TRY(mem_new(&mpi, 1, sizeof *mpi, "processes"));
    Status status = start(mpi, &launch);
    if (status != OK) {
        mpi->broken = true;
        return processes_leave(&mpi->processes, status);
    }
    *processes = &mpi->processes;
    return OK;
}

Status processes_share(Processes *processes, void *block, size_t bytes)
{
    MpiProcesses *mpi = (MpiProcesses *)processes;
    MPI_Request request;
    if (bytes > INT_MAX)
        return fail(ERR_UNSUPPORTED, "a block of %zu bytes is too large to share", bytes);
    MPI_TRY(mpi, MPI_Ibcast(block, (int)bytes, MPI_BYTE, 0, mpi->comm, &request));
    return await(mpi, &request);
}

Status processes_most(Processes *processes, double *values, uint32_t n)
{
    MpiProcesses *mpi = (MpiProcesses *)processes;
    MPI_Request request;
    MPI_TRY(mpi,
            MPI_Iallreduce(MPI_IN_PLACE, values, (int)n, MPI_DOUBLE, MPI_MAX, mpi->comm, &request));
    return await(mpi, &request);
}

/* The record of rank FROM comes to rank 0. */
static Status tell_failure(MpiProcesses *mpi, uint32_t from, Status status)
{
    struct {
        Status status;
        char text[RECORD_BYTES];
    } record = {.status = status};
    MPI_Request request;
    uint32_t rank = mpi->processes.rank;
    if (rank != from && rank != 0)
        return STATUS_END;
    if (from == 0)
        return rank == 0 ? status : STATUS_END;
    strncpy(record.text, error_message(), sizeof record.text - 1);
    if (rank == from) {
        MPI_TRY(mpi,
                MPI_Isend(&record, sizeof record, MPI_BYTE, 0, AGREE_TAG, mpi->comm, &request));
        return await(mpi, &request) == OK ? STATUS_END : ERR_IO;
    }
    MPI_TRY(mpi,
            MPI_Irecv(&record, sizeof record, MPI_BYTE, (int)from, AGREE_TAG, mpi->comm, &request));
    TRY(await(mpi, &request));
    return fail(record.status, "rank %u: %s", from, record.text);
}

Status processes_agree(Processes *processes, Status status)
{
    MpiProcesses *mpi = (MpiProcesses *)processes;
    MPI_Request request;
    uint32_t first = status == OK ? UINT32_MAX : processes->rank;
    if (mpi->broken)
        return status;
    MPI_TRY(mpi,
            MPI_Iallreduce(MPI_IN_PLACE, &first, 1, MPI_UINT32_T, MPI_MIN, mpi->comm, &request));
    TRY(await(mpi, &request));
    return first == UINT32_MAX ? OK : tell_failure(mpi, first, status);
}

/* Where the others cannot be reached, MPI_Finalize() would wait for them: the launcher ends them
 * when this process ends. */
Status processes_leave(Processes *processes, Status status)
{
    MpiProcesses *mpi = (MpiProcesses *)processes;
    MPI_Request request;
    if (mpi == NULL)
        return status;
    mpi->processes.limit_ns = 0;
    if (status != OK && status != STATUS_END)
        mpi->broken = true;
    if (!mpi->broken && MPI_Ibarrier(mpi->comm, &request) == MPI_SUCCESS)
        mpi->broken = await(mpi, &request) != OK;
    if (!mpi->broken) {
        MPI_Comm_free(&mpi->comm);
        MPI_Finalize();
    }
    mem_free(mpi);
    return status;
}
