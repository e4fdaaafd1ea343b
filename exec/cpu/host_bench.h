/* Times experts on the host's cores without a model: random weights of a shape, more of them than
 * the caches hold, computed in turns.
 *
 * `moebius bench host-experts` prints it, and calibration measures with host_bench_run() what the
 * table host/experts says. */
#ifndef EXEC_CPU_HOST_BENCH_H
#define EXEC_CPU_HOST_BENCH_H

#include "exec/model.h"

typedef struct HostBench HostBench;

/* Twice the last-level cache of large processors. */
#define HOST_BENCH_BYTES ((size_t)768 << 20)

/* For calls of up to MAX_ACTIVE experts with up to MAX_ROWS rows each. THREADS 0: all. Takes
 * WEIGHT_BYTES of weights at least, which should be more than the caches hold: HOST_BENCH_BYTES.
 * The form is the packed one (exec/cpu/host_packed.h) where SHAPE can lie so, else plain bf16. */
Status host_bench_new(const FfnShape *shape, uint32_t max_active, uint32_t max_rows, size_t threads,
                      size_t weight_bytes, HostBench **bench);
void host_bench_free(HostBench *bench);
/* REPEATS calls of ACTIVE experts with ROWS rows each, after one that is not counted: the median,
 * and the coefficient of variation. */
Status host_bench_run(HostBench *bench, uint32_t active, uint32_t rows, uint32_t repeats,
                      double *median_ns, double *spread);
/* Of one expert's weights. */
size_t host_bench_expert_bytes(const HostBench *bench);
size_t host_bench_threads(const HostBench *bench);
/* What computes them: "AVX-512 bf16", "plain C" */
const char *host_bench_kernel(void);
/* Bytes a second that all threads together read out of the same weights: the bound of few rows. */
double host_bench_read_rate(HostBench *bench);

#endif
