#include "traces/recorder.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "traces/layers.h"
#include "traces/recorder_check.h"
#include "traces/recorder_slot.h"
#include "traces/writer.h"

enum {
    DEFAULT_SLOTS = 8,
    DEFAULT_TRANSACTION_STEPS = 256,
    DEFAULT_TRANSACTION_NS = 250000000,
    LOOK_NS = 1000000,    /* how often the writer looks for steps by itself, ... */
    AWAKE_NS = 500000000, /* ... for so long after the last */
    MESSAGE_BYTES = 1024,
    SHARE_AT_ONCE = 8, /* of the ring */
};

struct Recorder {
    char *path;
    Writer *writer; /* the writer thread's until it has ended */
    TraceLayer *layers;
    uint32_t n_layers;
    StackSpan spans[2]; /* by Stack */
    bool any_step;
    uint32_t last_step;
    uint64_t n_steps; /* handed over */
    uint32_t transaction_steps;
    uint64_t transaction_ns;

    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t filled; /* the writer has to look at the ring, or ending was asked for */
    pthread_cond_t freed;  /* at least half of the ring is free, what was lent has been read, or
                              the writer has failed */
    RecorderSlot *slots;   /* [n_slots] */
    uint32_t n_slots;
    uint32_t head;   /* the slot written out next */
    uint32_t count;  /* slots filled */
    uint32_t n_lent; /* of those, whose arrays are the producer's */
    bool sleeps;     /* the writer, until FILLED is signalled */
    bool ending;
    bool abandoned; /* do not write what is left */
    Status status;  /* of the writer thread */
    char message[MESSAGE_BYTES];

    _Atomic uint64_t committed;
};

static Status write_slot(Recorder *recorder, RecorderSlot *slot)
{
    const TraceStep *step = &slot->rows.step;
    if (slot->is_request)
        return writer_put_request(recorder->writer, &slot->request);
    if (slot->lent_until == 0)
        return writer_put_step(recorder->writer, &slot->rows);
    TRY(layers_check_experts(recorder->path, recorder->layers, recorder->spans[step->stack],
                             step->step, step->tokens, step->experts, ERR_INPUT));
    TRY(writer_put_step(recorder->writer, &slot->rows));
    pthread_mutex_lock(&recorder->mutex);
    slot->lent_until = 0;
    recorder->n_lent--;
    pthread_cond_signal(&recorder->freed);
    pthread_mutex_unlock(&recorder->mutex);
    return OK;
}

static Status commit(Recorder *recorder)
{
    TRY(writer_commit(recorder->writer));
    atomic_store(&recorder->committed, writer_committed_steps(recorder->writer));
    return OK;
}

static void wait_until(Recorder *recorder, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                             .tv_nsec = (long)(until_ns % 1000000000u)};
    pthread_cond_timedwait(&recorder->filled, &recorder->mutex, &until);
}

/* Waits, with the mutex held, for a slot to write. False: there is none, because the transaction's
 * time is over or the recording ends. While steps come the writer looks for them by itself: to wake
 * a thread takes time, of which a producer has none between two steps, and on a busy processor the
 * one that is woken may run in the producer's place. */
static bool wait_for_slot(Recorder *recorder, uint64_t deadline_ns)
{
    bool open = writer_in_transaction(recorder->writer);
    uint64_t sleep_ns = clock_ns() + AWAKE_NS;
    while (recorder->count == 0 && !recorder->ending) {
        uint64_t now = clock_ns();
        if (open && now >= deadline_ns)
            break;
        recorder->sleeps = !open && now >= sleep_ns;
        if (recorder->sleeps)
            pthread_cond_wait(&recorder->filled, &recorder->mutex);
        else
            wait_until(recorder, open && deadline_ns - now < LOOK_NS ? deadline_ns : now + LOOK_NS);
    }
    recorder->sleeps = false;
    return recorder->count > 0 && !recorder->abandoned;
}

/* How many slots the writer takes at once: where there are many, it need not ask for each. */
static uint32_t slots_to_write(const Recorder *recorder)
{
    uint32_t most = recorder->n_slots < 2 * SHARE_AT_ONCE ? 1 : recorder->n_slots / SHARE_AT_ONCE;
    return recorder->count < most ? recorder->count : most;
}

static void release_slots(Recorder *recorder, uint32_t n)
{
    recorder->head = (recorder->head + n) % recorder->n_slots;
    recorder->count -= n;
    if (recorder->count <= recorder->n_slots / 2)
        pthread_cond_signal(&recorder->freed);
}

static Status write_and_commit(Recorder *recorder, RecorderSlot *slot, uint64_t *deadline_ns)
{
    if (!writer_in_transaction(recorder->writer))
        *deadline_ns = clock_ns() + recorder->transaction_ns;
    TRY(slot != NULL ? write_slot(recorder, slot) : OK);
    if (writer_open_steps(recorder->writer) < recorder->transaction_steps &&
        clock_ns() < *deadline_ns)
        return OK;
    return commit(recorder);
}

/* Writes and commits until the recording ends. The mutex is held on entry and exit. */
static Status write_all(Recorder *recorder)
{
    uint64_t deadline_ns = 0;
    for (;;) {
        bool have = wait_for_slot(recorder, deadline_ns);
        if (recorder->ending && !have)
            return OK;
        uint32_t head = recorder->head;
        uint32_t n = have ? slots_to_write(recorder) : 0;
        pthread_mutex_unlock(&recorder->mutex);
        Status status = have ? OK : write_and_commit(recorder, NULL, &deadline_ns);
        for (uint32_t i = 0; i < n && status == OK; i++)
            status = write_and_commit(recorder, &recorder->slots[(head + i) % recorder->n_slots],
                                      &deadline_ns);
        pthread_mutex_lock(&recorder->mutex);
        if (status != OK)
            return status;
        if (have)
            release_slots(recorder, n);
    }
}

static void *writer_thread(void *argument)
{
    Recorder *recorder = argument;
    pthread_mutex_lock(&recorder->mutex);
    Status status = write_all(recorder);
    if (status != OK) {
        recorder->status = status;
        snprintf(recorder->message, sizeof recorder->message, "%s", error_message());
        pthread_cond_signal(&recorder->freed);
    }
    pthread_mutex_unlock(&recorder->mutex);
    return NULL;
}

/* The writer thread takes no signals: they are the program's, and a file-size signal becomes an
 * error of write(). */
static Status start_thread(Recorder *recorder)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&recorder->thread, NULL, writer_thread, recorder);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0)
        return fail(ERR_MEMORY, "%s: cannot start the writer thread: %s", recorder->path,
                    strerror(code));
    return OK;
}

static void init_sync(Recorder *recorder)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&recorder->mutex, NULL);
    pthread_cond_init(&recorder->filled, &monotonic);
    pthread_cond_init(&recorder->freed, NULL);
    pthread_condattr_destroy(&monotonic);
}

static void free_recorder(Recorder *recorder)
{
    for (uint32_t i = 0; recorder->slots != NULL && i < recorder->n_slots; i++)
        recorder_slot_free(&recorder->slots[i]);
    pthread_cond_destroy(&recorder->freed);
    pthread_cond_destroy(&recorder->filled);
    pthread_mutex_destroy(&recorder->mutex);
    mem_free(recorder->slots);
    mem_free(recorder->layers);
    mem_free(recorder->path);
    mem_free(recorder);
}

static Status copy_head(Recorder *recorder, const char *path, const TraceLayer *layers,
                        uint32_t n_layers)
{
    size_t length = strlen(path) + 1;
    TRY(mem_new(&recorder->path, length, 1, "recorder"));
    memcpy(recorder->path, path, length);
    TRY(mem_new(&recorder->layers, n_layers, sizeof *layers, "recorder"));
    memcpy(recorder->layers, layers, n_layers * sizeof *layers);
    recorder->n_layers = n_layers;
    recorder->spans[STACK_DECODER] = layers_span(layers, n_layers, STACK_DECODER);
    recorder->spans[STACK_ENCODER] = layers_span(layers, n_layers, STACK_ENCODER);
    return mem_new(&recorder->slots, recorder->n_slots, sizeof *recorder->slots, "recorder ring");
}

Status recorder_open(const char *path, const TraceRun *run, const TraceLayer *layers,
                     uint32_t n_layers, const RecorderOptions *options, Recorder **out)
{
    const RecorderOptions defaults = {0};
    if (options == NULL)
        options = &defaults;
    TRY(recorder_check_options(path, options));
    TRY(recorder_check_head(path, layers, n_layers));
    Recorder *recorder;
    TRY(mem_new(&recorder, 1, sizeof *recorder, "recorder"));
    recorder->n_slots = options->ring_slots ? options->ring_slots : DEFAULT_SLOTS;
    recorder->transaction_steps =
        options->transaction_steps ? options->transaction_steps : DEFAULT_TRANSACTION_STEPS;
    recorder->transaction_ns =
        options->transaction_ns ? options->transaction_ns : DEFAULT_TRANSACTION_NS;
    init_sync(recorder);
    Status status = copy_head(recorder, path, layers, n_layers);
    if (status == OK)
        status = writer_open(path, run, layers, n_layers, options->durability, options->page_bytes,
                             &recorder->writer);
    if (status == OK) {
        status = start_thread(recorder);
        if (status != OK)
            writer_abandon(recorder->writer);
    }
    if (status != OK) {
        free_recorder(recorder);
        return status;
    }
    *out = recorder;
    return OK;
}

Status recorder_reserve(Recorder *recorder, uint32_t tokens)
{
    const StackSpan *spans = recorder->spans;
    size_t top_k = spans[STACK_DECODER].top_k > spans[STACK_ENCODER].top_k
                       ? spans[STACK_DECODER].top_k
                       : spans[STACK_ENCODER].top_k;
    for (uint32_t i = 0; i < recorder->n_slots; i++)
        TRY(recorder_slot_reserve(&recorder->slots[i], tokens, tokens * top_k));
    return OK;
}

/* Waits for a free slot, the next one to fill. */
static Status take_slot(Recorder *recorder, RecorderSlot **slot)
{
    pthread_mutex_lock(&recorder->mutex);
    while (recorder->count == recorder->n_slots && recorder->status == OK)
        pthread_cond_wait(&recorder->freed, &recorder->mutex);
    Status status = recorder->status;
    if (status != OK)
        fail(status, "%s", recorder->message);
    *slot = &recorder->slots[(recorder->head + recorder->count) % recorder->n_slots];
    pthread_mutex_unlock(&recorder->mutex);
    return status;
}

/* True while something is lent that changes before step number STEP. */
static bool is_lent(const Recorder *recorder, uint64_t step)
{
    for (uint32_t i = 0; i < recorder->count && recorder->n_lent > 0; i++) {
        uint64_t until = recorder->slots[(recorder->head + i) % recorder->n_slots].lent_until;
        if (until > 0 && until <= step)
            return true;
    }
    return false;
}

/* Waits, with the mutex held, until nothing is. A writer that has failed reads no more. */
static void await_lent(Recorder *recorder, uint64_t step)
{
    while (is_lent(recorder, step) && recorder->status == OK) {
        pthread_cond_signal(&recorder->filled);
        pthread_cond_wait(&recorder->freed, &recorder->mutex);
    }
}

void recorder_settle(Recorder *recorder)
{
    pthread_mutex_lock(&recorder->mutex);
    await_lent(recorder, UINT64_MAX);
    pthread_mutex_unlock(&recorder->mutex);
}

/* Gives SLOT to the writer, which is woken where it sleeps or the ring fills; then the producer may
 * change what it lent up to now. */
static void hand_over(Recorder *recorder, const RecorderSlot *slot)
{
    pthread_mutex_lock(&recorder->mutex);
    recorder->n_lent += slot->lent_until > 0;
    if (++recorder->count > recorder->n_slots / 2 || recorder->sleeps)
        pthread_cond_signal(&recorder->filled);
    await_lent(recorder, recorder->n_steps);
    pthread_mutex_unlock(&recorder->mutex);
}

Status recorder_request(Recorder *recorder, const TraceRequest *request)
{
    RecorderSlot *slot;
    if (request->arrival_ns > INT64_MAX)
        return fail(ERR_INPUT, "%s: request %u: arrival_ns: %" PRIu64 " is too large",
                    recorder->path, request->request, request->arrival_ns);
    TRY(take_slot(recorder, &slot));
    TRY(recorder_slot_put_request(slot, request));
    hand_over(recorder, slot);
    return OK;
}

/* LENT_UNTIL 0: all is copied. */
static Status put_step(Recorder *recorder, const TraceStep *step, uint64_t lent_until,
                       const ResidencyRecord *residency, size_t n_residency,
                       const TimingRecord *timing, size_t n_timing)
{
    RecorderSlot *slot;
    if (recorder->any_step && step->step <= recorder->last_step)
        return fail(ERR_INPUT, "%s: step %u: comes after step %u, numbers must ascend",
                    recorder->path, step->step, recorder->last_step);
    TRY(recorder_check_step(recorder->path, recorder->layers, recorder->spans, step, lent_until > 0,
                            n_residency, n_timing));
    TRY(take_slot(recorder, &slot));
    size_t ids = (size_t)step->tokens * recorder->spans[step->stack].top_k;
    const StepRows rows = {.step = *step,
                           .residency = residency,
                           .n_residency = n_residency,
                           .timing = timing,
                           .n_timing = n_timing};
    TRY(recorder_slot_put_step(slot, &rows, ids, lent_until));
    recorder->any_step = true;
    recorder->last_step = step->step;
    recorder->n_steps++;
    hand_over(recorder, slot);
    return OK;
}

Status recorder_step(Recorder *recorder, const TraceStep *step, const ResidencyRecord *residency,
                     size_t n_residency, const TimingRecord *timing, size_t n_timing)
{
    return put_step(recorder, step, 0, residency, n_residency, timing, n_timing);
}

Status recorder_lend_step(Recorder *recorder, const TraceStep *step, uint32_t kept_for,
                          const ResidencyRecord *residency, size_t n_residency,
                          const TimingRecord *timing, size_t n_timing)
{
    uint64_t until = kept_for > 1 ? recorder->n_steps + kept_for : 0;
    return put_step(recorder, step, until, residency, n_residency, timing, n_timing);
}

static void end_thread(Recorder *recorder, bool abandon)
{
    pthread_mutex_lock(&recorder->mutex);
    recorder->ending = true;
    recorder->abandoned = abandon;
    pthread_cond_signal(&recorder->filled);
    pthread_mutex_unlock(&recorder->mutex);
    pthread_join(recorder->thread, NULL);
}

Status recorder_close(Recorder *recorder)
{
    end_thread(recorder, false);
    Status status = recorder->status;
    if (status == OK) {
        status = writer_finish(recorder->writer);
    } else {
        fail(status, "%s", recorder->message);
        writer_abandon(recorder->writer);
    }
    free_recorder(recorder);
    return status;
}

void recorder_abandon(Recorder *recorder)
{
    if (recorder == NULL)
        return;
    end_thread(recorder, true);
    writer_abandon(recorder->writer);
    free_recorder(recorder);
}

Status recorder_end(Recorder *recorder, Status status)
{
    if (status == OK && recorder != NULL)
        return recorder_close(recorder);
    recorder_abandon(recorder);
    return status;
}

uint64_t recorder_committed_steps(const Recorder *recorder)
{
    return atomic_load(&recorder->committed);
}
