/* What the rows of a trace add up to. */
#ifndef ANALYSIS_TRACE_SUMMARY_H
#define ANALYSIS_TRACE_SUMMARY_H

#include "traces/reader.h"

enum { TRACE_PHASES = PHASE_MIXED + 1 };

typedef struct {
    uint64_t steps[TRACE_PHASES];
    uint64_t phase_tokens[TRACE_PHASES];
    uint64_t total_steps;
    uint64_t tokens;
    uint64_t requests;
    uint64_t residency_events;
    uint64_t timing_ops;
    uint32_t distances; /* MoE layers ahead that were predicted */
    uint64_t file_bytes;
    bool has_token_ids;
    bool has_weights;
    bool has_scores;
    bool complete;
} TraceSummary;

/* What READER, which is at the start of PATH, can say without the steps. Fails as
 * trace_reader_count_records(). */
Status trace_summary_begin(TraceReader *reader, const char *path, TraceSummary *summary);
/* Adds the step that was read next. */
void trace_summary_add(TraceSummary *summary, const TraceStep *step);
double trace_summary_bytes_per_token(const TraceSummary *summary);

#endif
