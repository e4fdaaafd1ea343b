/* What the requests of a recorded run experienced: their arrivals and the times of the steps are in
 * the trace, so that it can be judged afterwards. */
#ifndef ANALYSIS_SERVED_TRACE_H
#define ANALYSIS_SERVED_TRACE_H

#include "policies/latency.h"

/* Reads PATH twice; GOALS may be NULL. *SERVED is false, and REPORT empty, where no request says
 * when it arrived. A token counts as there when its step has ended; the run itself gives it a
 * little later, when it was chosen. Fails as the trace's reader. */
Status served_trace_report(const char *path, const ServiceGoals *goals, bool *served,
                           ServingReport *report);

#endif
