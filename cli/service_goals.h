/* What is asked of the service of each request, on the command line: goodput counts those that keep
 * it. */
#ifndef CLI_SERVICE_GOALS_H
#define CLI_SERVICE_GOALS_H

#include "cli/options.h"
#include "policies/latency.h"

/* The options, for a command's table. */
#define GOAL_OPTIONS(goals)                                                                        \
    F64_OPTION("ttft-at-most", "MS",                                                               \
               "of requests that arrive: goodput counts those whose first token comes within MS",  \
               1e-3, 1e9, &(goals)->ttft_ms),                                                      \
        F64_OPTION("tpot-at-most", "MS",                                                           \
                   "... and whose later tokens take MS each, on average of the request", 1e-3,     \
                   1e9, &(goals)->tpot_ms),                                                        \
        F64_OPTION("latency-at-most", "MS", "... and which are done within MS", 1e-3, 1e9,         \
                   &(goals)->latency_ms)

/* Fails with ERR_USAGE where something is asked and no requests arrive (SERVES). */
Status service_goals_check(const ServiceGoals *goals, bool serves);

#endif
