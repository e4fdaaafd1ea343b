/* Records steps into a trace: a bounded ring of step buffers and one writer thread behind it.
 *
 * The producer (one thread) hands over a step by copying it into a ring slot, or by lending what is
 * large of it; the writer thread converts, checksums and inserts it. When the ring is full the
 * producer waits: nothing is ever dropped. One transaction holds up to transaction_steps steps or
 * transaction_ns of time, so a killed process loses at most the open one. The file is written under
 * its own name, in WAL mode: whatever is committed is a readable trace at every moment. */
#ifndef TRACES_RECORDER_H
#define TRACES_RECORDER_H

#include "traces/trace.h"

typedef struct Recorder Recorder;

typedef struct {
    uint32_t ring_slots;        /* steps in flight; 0: 8 */
    uint32_t transaction_steps; /* 0: 256 */
    uint64_t transaction_ns;    /* 0: 250 ms */
    Durability durability;
    uint32_t page_bytes; /* of SQLite, a power of two from 512 to 65536; 0: 4096 */
} RecorderOptions;

/* Creates PATH. LAYERS[n_layers]: the MoE layers, encoder first, ascending layer number. Fails with
 * ERR_OUTPUT when PATH exists already or cannot be created. OPTIONS may be NULL. */
Status recorder_open(const char *path, const TraceRun *run, const TraceLayer *layers,
                     uint32_t n_layers, const RecorderOptions *options, Recorder **recorder);

/* Before the first step: makes room for steps of up to TOKENS in every slot, so that none of them
 * waits for memory. Fails with ERR_MEMORY. */
Status recorder_reserve(Recorder *recorder, uint32_t tokens);

/* Adds or replaces a request row (replacing is how output_tokens gets its final value). Copies the
 * label. */
Status recorder_request(Recorder *recorder, const TraceRequest *request);

/* Copies STEP (and RESIDENCY[n_residency] for rank 0, and TIMING[n_timing]) into the ring.
 * Allocates only while a slot has not yet seen a step this large. A failure of the writer thread
 * (disk full) is returned here, once it has happened, with its record, and by every later call.
 * Fails with ERR_INPUT, and the recording can go on, when the step does not come after the last
 * one, has no token, an expert id out of range, or a stack that does not go with its phase. */
Status recorder_step(Recorder *recorder, const TraceStep *step, const ResidencyRecord *residency,
                     size_t n_residency, const TimingRecord *timing, size_t n_timing);

/* The same, but with KEPT_FOR above 1 EXPERTS and WEIGHTS of STEP are not copied: the writer thread
 * reads them where they are, and they must stay as they are until the call that hands over the
 * (KEPT_FOR - 1)th step after this one has returned, or recorder_settle() has. The experts' ids are
 * then checked by the writer thread: one out of range is a failure of it. */
Status recorder_lend_step(Recorder *recorder, const TraceStep *step, uint32_t kept_for,
                          const ResidencyRecord *residency, size_t n_residency,
                          const TimingRecord *timing, size_t n_timing);
/* Waits until nothing that was lent is needed any more. */
void recorder_settle(Recorder *recorder);

/* Drains the ring, commits, closes the file and leaves one file without -wal and -shm (while
 * somebody is reading it, both stay, and belong to it). Frees RECORDER in any case. After a failure
 * the committed steps stay; when no step was ever committed the file is removed. */
Status recorder_close(Recorder *recorder);

/* Gives up after a failure elsewhere: as recorder_close(), but the steps since the last commit are
 * rolled back. Keeps the caller's error record. Accepts NULL. */
void recorder_abandon(Recorder *recorder);
/* The end of a recording whose steps ended with STATUS: recorder_close() after OK, else
 * recorder_abandon(), and STATUS again. Accepts NULL. */
Status recorder_end(Recorder *recorder, Status status);

/* Steps committed to the file so far (monotone; for messages and progress). */
uint64_t recorder_committed_steps(const Recorder *recorder);

#endif
