/* Streams a trace in (step, layer) order without loading it.
 *
 * Every column's type and length, and every row's crc, are checked before use; every expert id is
 * checked against its layer. The file is opened read-only with untrusted schema and query_only. One
 * reader per thread. */
#ifndef TRACES_READER_H
#define TRACES_READER_H

#include "traces/trace.h"

typedef struct TraceReader TraceReader;

/* One (step, MoE layer): the set of experts with at least one token. Arrays point into the reader
 * and are valid until the next call on it. */
typedef struct {
    uint32_t step;
    Phase phase;
    uint32_t layer_index; /* into trace_reader_layers() */
    uint32_t tokens;
    const uint16_t *routing; /* [tokens][top_k], EXPERT_DROPPED where dropped */
    const float *weights;    /* [tokens][top_k] or NULL */
    uint32_t n_active;
    const uint16_t *active;        /* [n_active] ascending expert ids */
    const uint32_t *active_tokens; /* [n_active] assignments of each: (token, slot) pairs */
} TraceEvent;

/* Opens PATH. Fails with ERR_INPUT (cannot open), ERR_NOT_A_TRACE, ERR_SCHEMA or ERR_CORRUPT. */
Status trace_reader_open(const char *path, TraceReader **reader);
void trace_reader_close(TraceReader *reader);

const TraceRun *trace_reader_run(const TraceReader *reader);
/* The MoE layers, ascending; *COUNT of them. */
const TraceLayer *trace_reader_layers(const TraceReader *reader, uint32_t *count);
uint64_t trace_reader_steps(const TraceReader *reader);
uint64_t trace_reader_requests(const TraceReader *reader);
/* False when the recorder was killed or gave up before the end. Traces by others count as complete.
 */
bool trace_reader_complete(const TraceReader *reader);

/* The most events that the steps can have, and the most (event, expert) pairs if each had one
 * token: to size memory by. Looks at no step; never more than the file is large. */
Status trace_reader_bounds(const TraceReader *reader, uint64_t *events, uint64_t *lookups);

/* Next request in id order (label is valid until the next call), then STATUS_END. Independent of
 * steps and events. */
Status trace_reader_next_request(TraceReader *reader, TraceRequest *request);
/* From now on, before the first step, steps come without weights and scores, and with ids of a byte
 * each as they are stored, where they are (TraceStep.expert_bytes). Weights and scores are checked
 * all the same, but where most steps have a checksum of their ids alone (experts_crc): they are not
 * read then, and only their types and lengths are checked. Not for events. */
Status trace_reader_routing_bytes(TraceReader *reader);
/* Next whole step, then STATUS_END. Continues after the step that trace_reader_next_event() is in.
 */
Status trace_reader_next_step(TraceReader *reader, TraceStep *step);
/* Next event, then STATUS_END. Layers outside the step's stack have no events. */
Status trace_reader_next_event(TraceReader *reader, TraceEvent *event);
/* Starts over. */
Status trace_reader_rewind(TraceReader *reader);

/* Residency rows of STEP at RANK: *RECORDS (valid until the next call) and *COUNT; count 0 when
 * there is no row. */
Status trace_reader_residency(TraceReader *reader, uint32_t step, uint32_t rank,
                              const ResidencyRecord **records, size_t *count);
Status trace_reader_timing(TraceReader *reader, uint32_t step, uint32_t rank,
                           const TimingRecord **records, size_t *count);

/* The most MoE layers ahead that the trace has predictions of; 0: it has none. */
uint32_t trace_reader_distances(const TraceReader *reader);
/* What was predicted DISTANCE MoE layers ahead, for the step read last: EXPERTS (of its stack's
 * layers but the first DISTANCE, laid out as a step's) and the weights predicted with them, as f16,
 * same shape; both NULL when there is no row. Valid until the next call. */
Status trace_reader_prediction(TraceReader *reader, uint32_t distance, const uint16_t **experts,
                               const uint16_t **scores);

/* Reads and checks every row of residency, timing and prediction, of all ranks: *RESIDENCY and
 * *TIMING records. In a damaged table a row may not be found by its key; here it is. The steps must
 * have been read before. */
Status trace_reader_count_records(TraceReader *reader, uint64_t *residency, uint64_t *timing);

/* What a full check found. */
typedef struct {
    uint64_t steps;
    uint64_t tokens;
    uint64_t requests;
    uint64_t residency_rows;
    uint64_t timing_rows;
    uint64_t prediction_rows;
} TraceCheck;

/* Reads everything in PATH: SQLite's integrity_check, the digest of the run, layer and request
 * rows, every checksum, length, id, and the agreement between tables (each step has its routing,
 * each residency row its step). ERR_CORRUPT names the first bad place. PROGRESS, when not NULL, is
 * called now and then with steps done. */
Status trace_check(const char *path, TraceCheck *found,
                   void (*progress)(void *argument, uint64_t done, uint64_t total), void *argument);

#endif
