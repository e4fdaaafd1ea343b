#include "exec/ranks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "exec/cuda/device_arena.h"
#include "exec/cuda/find_gpu.h"
#include "exec/cuda/nccl.h"

enum {
    FIRST_BYTES = 256, /* of what connects two ranks */
    NAP_NS = 2000      /* while the queue has not come to its end */
};

struct Ranks {
    Processes *processes;
    uint64_t limit_ns;
    int gpu;
    Nccl nccl;
    ncclUniqueId id;
    ncclComm_t communicator; /* NULL: none, or given up */
    cudaStream_t stream;
    cudaEvent_t marks[RANKS_MARKS];
    cudaEvent_t end; /* of the queue, for who waits */
    DeviceArena memory;
    void *given;
};

/* Machines have GPUs for those of their processes that are alone on theirs: NCCL refuses to send
 * from a GPU to itself, unless it is told that the processes are on different hosts. */
static Status choose_gpu(const Processes *processes, int *gpu)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
        return fail(ERR_UNSUPPORTED, "ranks: there is no GPU that can be used: %s",
                    error != cudaSuccess ? cudaGetErrorString(error) : "none is visible");
    if (processes->machine_count > (uint32_t)count && getenv("NCCL_HOSTID") == NULL)
        return fail(ERR_UNSUPPORTED,
                    "ranks: %u processes on a machine with %d GPU%s: each needs its own (or, to "
                    "try things out, an NCCL_HOSTID of its own)",
                    processes->machine_count, count, count == 1 ? "" : "s");
    *gpu = (int)(processes->machine_rank % (uint32_t)count);
    CUDA_TRY(cudaSetDevice(*gpu));
    return OK;
}

static Status open_gpu(Ranks *ranks, size_t bytes)
{
    TRY(choose_gpu(ranks->processes, &ranks->gpu));
    CUDA_TRY(cudaStreamCreateWithFlags(&ranks->stream, cudaStreamNonBlocking));
    for (int i = 0; i < RANKS_MARKS; i++)
        CUDA_TRY(cudaEventCreate(&ranks->marks[i]));
    CUDA_TRY(cudaEventCreateWithFlags(&ranks->end, cudaEventDisableTiming));
    TRY(device_arena_open(bytes + 512 + 2 * FIRST_BYTES * (size_t)ranks->processes->count,
                          &ranks->memory));
    return device_arena_take(&ranks->memory, bytes, 1, &ranks->given);
}

/* ---- what is queued ---- */

Status ranks_all_to_all(Ranks *ranks, const AllToAll *all)
{
    const Nccl *nccl = &ranks->nccl;
    const unsigned char *from = all->send;
    unsigned char *to = all->receive;
    NCCL_TRY(nccl, nccl->group_start());
    ncclResult_t error = ncclSuccess;
    for (uint32_t i = 0; error == ncclSuccess && i < ranks->processes->count; i++) {
        if (all->send_bytes[i] > 0)
            error = nccl->send(from, all->send_bytes[i], ncclUint8, (int)i, ranks->communicator,
                               ranks->stream);
        if (error == ncclSuccess && all->receive_bytes[i] > 0)
            error = nccl->receive(to, all->receive_bytes[i], ncclUint8, (int)i, ranks->communicator,
                                  ranks->stream);
        from += all->send_bytes[i];
        to += all->receive_bytes[i];
    }
    ncclResult_t ended = nccl->group_end();
    return error != ncclSuccess   ? nccl_failed(nccl, error, "ncclSend or ncclRecv")
           : ended != ncclSuccess ? nccl_failed(nccl, ended, "ncclGroupEnd")
                                  : OK;
}

Status ranks_copy(Ranks *ranks, void *to, const void *from, size_t bytes)
{
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, ranks->stream));
    return OK;
}

Status ranks_mark(Ranks *ranks, uint32_t mark)
{
    CUDA_TRY(cudaEventRecord(ranks->marks[mark], ranks->stream));
    return OK;
}

static Status event_passed(cudaEvent_t event, bool *passed)
{
    cudaError_t error = cudaEventQuery(event);
    *passed = error == cudaSuccess;
    return *passed || error == cudaErrorNotReady ? OK : cuda_failed(error, "cudaEventQuery(event)");
}

Status ranks_passed(Ranks *ranks, uint32_t mark, bool *passed)
{
    return event_passed(ranks->marks[mark], passed);
}

/* The others may be gone: what waits for them on the GPU ends, too. */
static void give_up(Ranks *ranks)
{
    if (ranks->communicator != NULL)
        ranks->nccl.abort(ranks->communicator);
    ranks->communicator = NULL;
}

/* What NCCL noticed meanwhile. */
static Status check_others(Ranks *ranks)
{
    ncclResult_t error;
    NCCL_TRY(&ranks->nccl, ranks->nccl.async_error(ranks->communicator, &error));
    return error == ncclSuccess || error == ncclInProgress
               ? OK
               : nccl_failed(&ranks->nccl, error, "another rank");
}

static Status waited_too_long(const Ranks *ranks, const char *what)
{
    return fail(ERR_IO, "ranks: rank %u of %u has waited %.1f s for the others: %s",
                ranks->processes->rank, ranks->processes->count, (double)ranks->limit_ns * 1e-9,
                what);
}

static Status poll_end(Ranks *ranks)
{
    uint64_t start_ns = clock_ns();
    CUDA_TRY(cudaEventRecord(ranks->end, ranks->stream));
    for (bool passed = false;;) {
        TRY(event_passed(ranks->end, &passed));
        if (passed)
            return OK;
        TRY(check_others(ranks));
        if (clock_ns() - start_ns > ranks->limit_ns)
            return waited_too_long(ranks, "one hangs or is gone");
        nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
}

Status ranks_wait(Ranks *ranks)
{
    Status status = poll_end(ranks);
    if (status != OK)
        give_up(ranks);
    return status;
}

Status ranks_elapsed(Ranks *ranks, double *ns)
{
    float milliseconds;
    CUDA_TRY(cudaEventElapsedTime(&milliseconds, ranks->marks[0], ranks->marks[1]));
    *ns = (double)milliseconds * 1e6;
    return OK;
}

/* ---- a communicator ---- */

/* The first message between two ranks makes their connection, which waits for the other rank. */
static Status connect_all(Ranks *ranks)
{
    uint32_t n = ranks->processes->count;
    uint64_t *bytes;
    void *send;
    void *receive;
    TRY(device_arena_take(&ranks->memory, n, FIRST_BYTES, &send));
    TRY(device_arena_take(&ranks->memory, n, FIRST_BYTES, &receive));
    TRY(mem_new(&bytes, n, sizeof *bytes, "ranks"));
    for (uint32_t i = 0; i < n; i++)
        bytes[i] = FIRST_BYTES;
    const AllToAll all = {
        .send = send, .send_bytes = bytes, .receive = receive, .receive_bytes = bytes};
    Status status = ranks_all_to_all(ranks, &all);
    mem_free(bytes);
    return status;
}

/* Calls that NCCL returns from only when all ranks have come: by a thread of their own, which is
 * left to itself when that takes too long. */
typedef struct {
    Ranks *ranks;
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool is_done;
    Status status;
    char record[1100];
} Meeting;

static Status meet_others(Ranks *ranks)
{
    const Processes *processes = ranks->processes;
    CUDA_TRY(cudaSetDevice(ranks->gpu));
    NCCL_TRY(&ranks->nccl, ranks->nccl.init_rank(&ranks->communicator, (int)processes->count,
                                                 ranks->id, (int)processes->rank));
    return connect_all(ranks);
}

static void *run_meeting(void *argument)
{
    Meeting *meeting = argument;
    Status status = meet_others(meeting->ranks);
    pthread_mutex_lock(&meeting->lock);
    meeting->status = status;
    strncpy(meeting->record, error_message(), sizeof meeting->record - 1);
    meeting->is_done = true;
    pthread_cond_signal(&meeting->done);
    pthread_mutex_unlock(&meeting->lock);
    return NULL;
}

static bool wait_for_meeting(Meeting *meeting, uint64_t limit_ns)
{
    struct timespec until;
    int error = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)(limit_ns / 1000000000) + 1;
    pthread_mutex_lock(&meeting->lock);
    while (!meeting->is_done && error == 0)
        error = pthread_cond_timedwait(&meeting->done, &meeting->lock, &until);
    bool done = meeting->is_done;
    pthread_mutex_unlock(&meeting->lock);
    return done;
}

/* *LEFT: the thread is still there, and what it uses must be. */
static Status meet(Ranks *ranks, bool *left)
{
    pthread_t thread;
    Meeting *meeting;
    *left = false;
    TRY(mem_new(&meeting, 1, sizeof *meeting, "ranks"));
    meeting->ranks = ranks;
    pthread_mutex_init(&meeting->lock, NULL);
    pthread_cond_init(&meeting->done, NULL);
    if (pthread_create(&thread, NULL, run_meeting, meeting) != 0) {
        mem_free(meeting);
        return fail(ERR_IO, "ranks: no thread can be started");
    }
    *left = !wait_for_meeting(meeting, ranks->limit_ns);
    if (*left) {
        pthread_detach(thread);
        return waited_too_long(ranks, "they do not meet");
    }
    pthread_join(thread, NULL);
    Status status = meeting->status == OK ? OK : fail(meeting->status, "%s", meeting->record);
    mem_free(meeting);
    return status;
}

/* Rank 0's, told to all. */
static Status share_id(Ranks *ranks)
{
    Status status = OK;
    if (ranks->processes->rank == 0) {
        ncclResult_t error = ranks->nccl.get_unique_id(&ranks->id);
        if (error != ncclSuccess)
            status = nccl_failed(&ranks->nccl, error, "ncclGetUniqueId");
    }
    TRY(processes_agree(ranks->processes, status));
    return processes_share(ranks->processes, &ranks->id, sizeof ranks->id);
}

static Status open_ranks(Ranks *ranks, const RanksOptions *options, bool *left)
{
    *left = false;
    Status status = nccl_load(&ranks->nccl);
    if (status == OK)
        status = open_gpu(ranks, options->bytes);
    TRY(processes_agree(ranks->processes, status));
    TRY(share_id(ranks));
    status = meet(ranks, left);
    if (status == OK)
        status = ranks_wait(ranks);
    return processes_agree(ranks->processes, status);
}

Status ranks_open(Processes *processes, const RanksOptions *options, Ranks **out)
{
    Ranks *ranks;
    bool left;
    *out = NULL;
    TRY(processes_agree(processes, mem_new(&ranks, 1, sizeof *ranks, "ranks")));
    ranks->processes = processes;
    ranks->limit_ns = options->limit_ns;
    Status status = open_ranks(ranks, options, &left);
    if (status == OK)
        *out = ranks;
    else if (!left)
        ranks_close(ranks);
    return status;
}

void ranks_close(Ranks *ranks)
{
    if (ranks == NULL)
        return;
    if (ranks->communicator != NULL)
        ranks->nccl.destroy(ranks->communicator);
    for (int i = 0; i < RANKS_MARKS; i++)
        if (ranks->marks[i] != NULL)
            cudaEventDestroy(ranks->marks[i]);
    if (ranks->end != NULL)
        cudaEventDestroy(ranks->end);
    if (ranks->memory.base != NULL)
        device_arena_close(&ranks->memory);
    if (ranks->stream != NULL)
        cudaStreamDestroy(ranks->stream);
    mem_free(ranks);
}

void *ranks_memory(const Ranks *ranks)
{
    return ranks->given;
}

const char *ranks_version(const Ranks *ranks)
{
    return ranks->nccl.version;
}

Status ranks_describe(const char *compute, char *text, size_t bytes)
{
    TRY(cuda_find_gpu());
    return cuda_describe_gpu(compute, text, bytes);
}

Status ranks_upload(Ranks *ranks, void *to, const void *from, size_t bytes)
{
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, ranks->stream));
    CUDA_TRY(cudaStreamSynchronize(ranks->stream));
    return OK;
}

Status ranks_download(Ranks *ranks, void *to, const void *from, size_t bytes)
{
    TRY(ranks_wait(ranks));
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, ranks->stream));
    CUDA_TRY(cudaStreamSynchronize(ranks->stream));
    return OK;
}
