#define _GNU_SOURCE
#include <sched.h>
#include <string.h>

#include "base/memory.h"
#include "base/processes_mpi.h"
#include "base/threads.h"
#include "sim/sweep_ranks.h"

enum { TAG = 1, SHARE_BYTES = 1 << 30 /* MPI counts with int */ };

/* A message on its way; COPY is NULL where there is none. */
typedef struct {
    MPI_Request request;
    void *copy;
} Sending;

typedef struct {
    SweepRanks ranks; /* first: a SweepRanks is converted back */
    MpiProcesses *processes;
    Sending *outbox;
    size_t outbox_room;
    void *inbox;
    size_t inbox_room;
} MpiRanks;

/* A place in the outbox that is free, after letting go of what has arrived. */
static Status find_room(MpiRanks *mpi, Sending **found)
{
    *found = NULL;
    for (size_t i = 0; i < mpi->outbox_room; i++) {
        Sending *sending = &mpi->outbox[i];
        int arrived = 1;
        if (sending->copy != NULL)
            MPI_TRY(mpi->processes, MPI_Test(&sending->request, &arrived, MPI_STATUS_IGNORE));
        if (!arrived)
            continue;
        mem_free(sending->copy);
        sending->copy = NULL;
        *found = sending;
    }
    if (*found != NULL)
        return OK;
    size_t n = mpi->outbox_room;
    TRY(mem_grow(&mpi->outbox, &mpi->outbox_room, n, sizeof *mpi->outbox,
                 "messages between ranks"));
    memset(mpi->outbox + n, 0, (mpi->outbox_room - n) * sizeof *mpi->outbox);
    *found = &mpi->outbox[n];
    return OK;
}

static Status mpi_send(SweepRanks *ranks, uint32_t to, const void *message, size_t bytes)
{
    MpiRanks *mpi = (MpiRanks *)ranks;
    Sending *sending;
    TRY(find_room(mpi, &sending));
    TRY(mem_new(&sending->copy, bytes, 1, "message between ranks"));
    memcpy(sending->copy, message, bytes);
    Status status = mpi_check(mpi->processes,
                              MPI_Isend(sending->copy, (int)bytes, MPI_BYTE, (int)to, TAG,
                                        mpi->processes->comm, &sending->request),
                              "MPI_Isend");
    if (status != OK) {
        mem_free(sending->copy);
        sending->copy = NULL;
    }
    return status;
}

static Status make_inbox(MpiRanks *mpi, size_t bytes)
{
    if (bytes <= mpi->inbox_room)
        return OK;
    mem_free(mpi->inbox);
    mpi->inbox_room = 0;
    TRY(mem_new(&mpi->inbox, bytes, 1, "message between ranks"));
    mpi->inbox_room = bytes;
    return OK;
}

static Status mpi_receive(SweepRanks *ranks, SweepMail *mail)
{
    MpiRanks *mpi = (MpiRanks *)ranks;
    MPI_Status from;
    int has_come = 0;
    int bytes = 0;
    *mail = (SweepMail){0};
    MPI_TRY(mpi->processes,
            MPI_Iprobe(MPI_ANY_SOURCE, TAG, mpi->processes->comm, &has_come, &from));
    if (!has_come)
        return OK;
    MPI_TRY(mpi->processes, MPI_Get_count(&from, MPI_BYTE, &bytes));
    TRY(make_inbox(mpi, (size_t)bytes));
    MPI_TRY(mpi->processes, MPI_Recv(mpi->inbox, bytes, MPI_BYTE, from.MPI_SOURCE, TAG,
                                     mpi->processes->comm, MPI_STATUS_IGNORE));
    *mail =
        (SweepMail){.data = mpi->inbox, .bytes = (size_t)bytes, .from = (uint32_t)from.MPI_SOURCE};
    return OK;
}

static Status mpi_share(SweepRanks *ranks, void *block, size_t bytes)
{
    MpiRanks *mpi = (MpiRanks *)ranks;
    unsigned char *at = block;
    while (bytes > 0) {
        int part = bytes < SHARE_BYTES ? (int)bytes : SHARE_BYTES;
        MPI_TRY(mpi->processes, MPI_Bcast(at, part, MPI_BYTE, 0, mpi->processes->comm));
        at += part;
        bytes -= (size_t)part;
    }
    return OK;
}

/* The processors that the ranks of one machine may use, divided by what each may use: ranks that
 * mpirun bound to processors of their own get those, ranks that it did not bind get equal shares.
 */
static Status share_processors(MpiRanks *mpi)
{
    cpu_set_t own;
    cpu_set_t together;
    MPI_Comm machine;
    long wanted = (long)thread_count_default();
    long sum = 0;
    CPU_ZERO(&own);
    sched_getaffinity(0, sizeof own, &own);
    MPI_TRY(mpi->processes, MPI_Comm_split_type(mpi->processes->comm, MPI_COMM_TYPE_SHARED, 0,
                                                MPI_INFO_NULL, &machine));
    MPI_TRY(mpi->processes, MPI_Allreduce(&own, &together, sizeof own, MPI_BYTE, MPI_BOR, machine));
    MPI_TRY(mpi->processes, MPI_Allreduce(&wanted, &sum, 1, MPI_LONG, MPI_SUM, machine));
    MPI_TRY(mpi->processes, MPI_Comm_free(&machine));
    long share = wanted * CPU_COUNT(&together) / sum;
    mpi->ranks.threads = share > 1 ? (uint32_t)share : 1;
    return OK;
}

Status sweep_ranks_join(SweepRanks **ranks)
{
    static const SweepTransport TRANSPORT = {mpi_send, mpi_receive, mpi_share};
    Processes *processes;
    MpiRanks *mpi_ranks;
    *ranks = NULL;
    TRY(processes_join(&processes));
    if (processes == NULL)
        return OK;
    Status status = mem_new(&mpi_ranks, 1, sizeof *mpi_ranks, "ranks");
    if (status != OK)
        return processes_leave(processes, status);
    mpi_ranks->processes = (MpiProcesses *)processes;
    mpi_ranks->ranks =
        (SweepRanks){.transport = &TRANSPORT, .rank = processes->rank, .count = processes->count};
    status = share_processors(mpi_ranks);
    if (status != OK)
        return sweep_ranks_leave(&mpi_ranks->ranks, status);
    *ranks = &mpi_ranks->ranks;
    return OK;
}

Status sweep_ranks_leave(SweepRanks *ranks, Status status)
{
    MpiRanks *mpi_ranks = (MpiRanks *)ranks;
    if (mpi_ranks == NULL)
        return status;
    MpiProcesses *mpi = mpi_ranks->processes;
    if (ranks->rank == 0 ? ranks->count > 1 && !ranks->dismissed : status != OK)
        mpi->broken = true;
    for (size_t i = 0; i < mpi_ranks->outbox_room; i++) {
        Sending *sending = &mpi_ranks->outbox[i];
        if (sending->copy != NULL && !mpi->broken)
            mpi->broken = MPI_Wait(&sending->request, MPI_STATUS_IGNORE) != MPI_SUCCESS;
        mem_free(sending->copy);
    }
    mem_free(mpi_ranks->outbox);
    mem_free(mpi_ranks->inbox);
    mem_free(mpi_ranks);
    processes_leave(&mpi->processes, OK);
    return status;
}
