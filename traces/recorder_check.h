/* What a recording can begin with, and which steps it takes. */
#ifndef TRACES_RECORDER_CHECK_H
#define TRACES_RECORDER_CHECK_H

#include "traces/layers.h"
#include "traces/recorder.h"

/* All fail with ERR_INPUT; PATH begins the message. */
Status recorder_check_options(const char *path, const RecorderOptions *options);
Status recorder_check_head(const char *path, const TraceLayer *layers, uint32_t n_layers);
/* Whether a trace of LAYERS, whose stacks lie in SPANS[2] by Stack, can hold STEP with so many
 * records beside it. Experts that are LENT are left for whoever reads them. */
Status recorder_check_step(const char *path, const TraceLayer *layers, const StackSpan *spans,
                           const TraceStep *step, bool lent, size_t n_residency, size_t n_timing);

#endif
