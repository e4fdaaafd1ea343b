/* The SQL side of recording: rows, checksums, transactions, and the digest. No thread, no ring: one
 * thread at a time calls it (traces/recorder.c). */
#ifndef TRACES_WRITER_H
#define TRACES_WRITER_H

#include "traces/trace.h"

typedef struct Writer Writer;

/* Creates PATH with the schema, the run row and the layer rows, committed. LAYERS must have passed
 * layers_check(). Fails with ERR_OUTPUT, ERR_INPUT (run.notes), ERR_IO or ERR_MEMORY and leaves no
 * file. */
Status writer_open(const char *path, const TraceRun *run, const TraceLayer *layers,
                   uint32_t n_layers, Durability durability, uint32_t page_bytes, Writer **writer);

/* One step with what belongs to it: residency and timing of rank 0. */
typedef struct {
    TraceStep step;
    const ResidencyRecord *residency;
    size_t n_residency;
    const TimingRecord *timing;
    size_t n_timing;
} StepRows;

/* Both begin a transaction when none is open. The step's ids must have been checked. */
Status writer_put_step(Writer *writer, const StepRows *rows);
Status writer_put_request(Writer *writer, const TraceRequest *request);

/* Steps put since the last commit. */
uint64_t writer_open_steps(const Writer *writer);
bool writer_in_transaction(const Writer *writer);
/* Commits, with the digest brought up to date. Harmless when no transaction is open. */
Status writer_commit(Writer *writer);
uint64_t writer_committed_steps(const Writer *writer);

/* Commits, folds the log into the file, marks it complete, closes, frees WRITER. While somebody
 * reads the file the log stays beside it. On failure what was committed stays. */
Status writer_finish(Writer *writer);
/* Rolls back, closes, and removes the file when it holds no step. Keeps the error record. */
void writer_abandon(Writer *writer);

#endif
