/* Latencies and throughput of requests, as a table for people. */
#ifndef CLI_SERVING_PRINT_H
#define CLI_SERVING_PRINT_H

#include "policies/latency.h"

Status serving_print(const ServingReport *report);

#endif
