/* Reports for people: one HTML page of a study or of a trace (analysis/html.h). What could not be
 * written shows in ferror() of the stream; on failure STREAM holds a part of a page. */
#ifndef ANALYSIS_REPORT_H
#define ANALYSIS_REPORT_H

#include <stdio.h>

#include "base/status.h"
#include "sim/study_query.h"

/* The study PATH: time and memory first, then misses by policy and size, then what was scored.
 * *RESULTS is how many plans have a result. Fails as study_reader_open(). */
Status report_study(const char *path, FILE *stream, uint64_t *results);
/* Its part on misses: a plot, a table and the cliff of LRU for each scope and order of replay. */
Status report_misses(const StudyReader *reader, FILE *stream);

/* The trace PATH: what it holds, and what its routing is like. *STEPS is how many it has. Fails as
 * the trace's reader. */
Status report_trace(const char *path, FILE *stream, uint64_t *steps);

#endif
