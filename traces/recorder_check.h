/* What a recording can begin with. */
#ifndef TRACES_RECORDER_CHECK_H
#define TRACES_RECORDER_CHECK_H

#include "traces/recorder.h"

/* Both fail with ERR_INPUT; PATH begins the message. */
Status recorder_check_options(const char *path, const RecorderOptions *options);
Status recorder_check_head(const char *path, const TraceLayer *layers, uint32_t n_layers);

#endif
