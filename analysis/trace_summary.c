#include "analysis/trace_summary.h"

#include <sys/stat.h>

Status trace_summary_begin(TraceReader *reader, const char *path, TraceSummary *summary)
{
    struct stat info;
    *summary = (TraceSummary){.requests = trace_reader_requests(reader),
                              .distances = trace_reader_distances(reader),
                              .complete = trace_reader_complete(reader)};
    if (stat(path, &info) == 0)
        summary->file_bytes = (uint64_t)info.st_size;
    return trace_reader_count_records(reader, &summary->residency_events, &summary->timing_ops);
}

void trace_summary_add(TraceSummary *summary, const TraceStep *step)
{
    summary->total_steps++;
    summary->tokens += step->tokens;
    summary->steps[step->phase]++;
    summary->phase_tokens[step->phase] += step->tokens;
    summary->has_token_ids = summary->has_token_ids || step->token != NULL;
    summary->has_weights = summary->has_weights || step->weights != NULL;
    summary->has_scores = summary->has_scores || step->scores != NULL;
}

double trace_summary_bytes_per_token(const TraceSummary *summary)
{
    return summary->tokens > 0 ? (double)summary->file_bytes / (double)summary->tokens : 0.0;
}
