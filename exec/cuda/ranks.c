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
#include "exec/cuda/rank_work.h"

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
    cudaEvent_t marks[RANKS_QUEUES][RANKS_MARKS];
    cudaEvent_t order; /* of one stream, for the other */
    cudaEvent_t end;   /* of both, for who waits */
    RankWork work;
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

/* Exchanges need few processors and go first, where products take all. */
static Status make_queues(Ranks *ranks)
{
    int least;
    int greatest;
    CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_TRY(cudaStreamCreateWithPriority(&ranks->stream, cudaStreamNonBlocking, greatest));
    for (int queue = 0; queue < RANKS_QUEUES; queue++)
        for (int i = 0; i < RANKS_MARKS; i++)
            CUDA_TRY(cudaEventCreate(&ranks->marks[queue][i]));
    CUDA_TRY(cudaEventCreateWithFlags(&ranks->order, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&ranks->end, cudaEventDisableTiming));
    return OK;
}

static Status open_gpu(Ranks *ranks, const RanksOptions *options)
{
    size_t first = 2 * FIRST_BYTES * (size_t)ranks->processes->count;
    TRY(choose_gpu(ranks->processes, &ranks->gpu));
    TRY(make_queues(ranks));
    TRY(device_arena_open(options->bytes + 512 + first +
                              rank_work_bytes(options->side, options->most_rows),
                          &ranks->memory));
    TRY(device_arena_take(&ranks->memory, options->bytes, 1, &ranks->given));
    return options->side == 0
               ? OK
               : rank_work_open(&ranks->memory, options->side, options->most_rows, &ranks->work);
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

Status ranks_multiply(Ranks *ranks, uint32_t rows, uint32_t times)
{
    return rank_work_queue(&ranks->work, rows, times);
}

Status ranks_order(Ranks *ranks)
{
    CUDA_TRY(cudaEventRecord(ranks->order, ranks->stream));
    CUDA_TRY(cudaStreamWaitEvent(ranks->work.stream, ranks->order, 0));
    return OK;
}

Status ranks_mark(Ranks *ranks, RanksQueue queue, uint32_t mark)
{
    cudaStream_t stream = queue == RANKS_EXCHANGES ? ranks->stream : ranks->work.stream;
    CUDA_TRY(cudaEventRecord(ranks->marks[queue][mark], stream));
    return OK;
}

static Status event_passed(cudaEvent_t event, bool *passed)
{
    cudaError_t error = cudaEventQuery(event);
    *passed = error == cudaSuccess;
    return *passed || error == cudaErrorNotReady ? OK : cuda_failed(error, "cudaEventQuery(event)");
}

Status ranks_passed(Ranks *ranks, RanksQueue queue, uint32_t mark, bool *passed)
{
    return event_passed(ranks->marks[queue][mark], passed);
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

/* At the end of what is queued in both. */
static Status record_end(Ranks *ranks)
{
    if (ranks->work.stream != NULL) {
        CUDA_TRY(cudaEventRecord(ranks->order, ranks->work.stream));
        CUDA_TRY(cudaStreamWaitEvent(ranks->stream, ranks->order, 0));
    }
    CUDA_TRY(cudaEventRecord(ranks->end, ranks->stream));
    return OK;
}

static Status poll_end(Ranks *ranks)
{
    uint64_t start_ns = clock_ns();
    TRY(record_end(ranks));
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

Status ranks_elapsed(Ranks *ranks, RanksQueue queue, double *ns)
{
    float milliseconds;
    const cudaEvent_t *marks = ranks->marks[queue];
    CUDA_TRY(cudaEventElapsedTime(&milliseconds, marks[0], marks[1]));
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
        status = open_gpu(ranks, options);
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

static void free_events(Ranks *ranks)
{
    const cudaEvent_t events[] = {ranks->marks[0][0], ranks->marks[0][1], ranks->marks[1][0],
                                  ranks->marks[1][1], ranks->order,       ranks->end};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (events[i] != NULL)
            cudaEventDestroy(events[i]);
}

void ranks_close(Ranks *ranks)
{
    if (ranks == NULL)
        return;
    /* Where an exchange is still queued another rank may never come to it. */
    if (ranks->communicator != NULL && cudaStreamQuery(ranks->stream) != cudaSuccess)
        give_up(ranks);
    if (ranks->communicator != NULL)
        ranks->nccl.destroy(ranks->communicator);
    rank_work_close(&ranks->work);
    free_events(ranks);
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
    TRY(ranks_wait(ranks));
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
