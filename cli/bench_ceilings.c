#include "cli/bench_ceilings.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/threads.h"
#include "exec/cpu/blas.h"

enum { ROUNDS = 5, COPY_BYTES = 128 << 20, PIECES = 64, SIZE = 1024 };

typedef struct {
    unsigned char *to;
    const unsigned char *from;
} Copy;

static void copy_piece(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const Copy *copy = argument;
    size_t bytes = COPY_BYTES / PIECES;
    memcpy(copy->to + item * bytes, copy->from + item * bytes, bytes);
}

static void copy_once(void *context, ThreadPool *pool)
{
    thread_pool_run(pool, PIECES, copy_piece, context);
}

static void multiply_once(void *context, ThreadPool *pool)
{
    (void)pool;
    float *a = context;
    const size_t n = (size_t)SIZE * SIZE;
    blas()->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, SIZE, SIZE, SIZE, 1, a, SIZE, a + n,
                  SIZE, 0, a + 2 * n, SIZE);
}

/* The shortest of some runs, in seconds: other work on the machine only ever makes one longer. */
static double shortest(void (*work)(void *context, ThreadPool *pool), void *context,
                       ThreadPool *pool)
{
    uint64_t best_ns = UINT64_MAX;
    for (int i = 0; i <= ROUNDS; i++) {
        uint64_t start_ns = clock_ns();
        work(context, pool);
        uint64_t ns = clock_ns() - start_ns;
        best_ns = i > 0 && ns < best_ns ? ns : best_ns;
    }
    return (double)best_ns * 1e-9;
}

static Status measure_host(Ceilings *ceilings)
{
    ThreadPool *pool;
    unsigned char *memory;
    TRY(blas_load());
    TRY(thread_pool_new(0, &pool));
    Status status = mem_new(&memory, 2, COPY_BYTES, "benchmark");
    if (status == OK) {
        Copy copy = {memory, memory + COPY_BYTES};
        ceilings->bytes_per_s = 2.0 * COPY_BYTES / shortest(copy_once, &copy, pool);
        ceilings->upload_bytes_per_s = ceilings->bytes_per_s / 2;
        blas()->set_num_threads((int)thread_pool_size(pool));
        ceilings->flops_per_s =
            2.0 * SIZE * SIZE * SIZE / shortest(multiply_once, (float *)(void *)memory, pool);
        blas()->set_num_threads(1);
        mem_free(memory);
    }
    thread_pool_free(pool);
    return status;
}

Status ceilings_measure_on(const char *device, Ceilings *ceilings)
{
    *ceilings = (Ceilings){0};
    return strcmp(device, "cuda") == 0 ? ceilings_measure(ceilings) : measure_host(ceilings);
}
