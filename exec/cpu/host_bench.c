#include "exec/cpu/host_bench.h"

#include <math.h>

#include "base/clock.h"
#include "base/lcg.h"
#include "base/memory.h"
#include "base/statistics.h"
#include "exec/cpu/cpu.h"
#include "exec/cpu/host_experts.h"

enum { READ_BYTES = 1 << 18, READ_REPEATS = 5 };

static const uint64_t AWAKE_NS = 20000000;

struct HostBench {
    FfnShape shape;
    LayerConfig layer;
    ModelConfig config; /* of that one layer */
    ThreadPool *pool;
    HostExperts *host;
    HostForm form;
    size_t expert_bytes;
    uint32_t n_experts;
    unsigned char *weights; /* [n_experts] */
    uint32_t next;          /* expert whose turn it is */
    float *in;              /* [max_active * max_rows][d_model] */
    float *out;
    uint32_t *first; /* [max_active + 1] */
    uint32_t *rows;  /* [max_active * max_rows] 0, 1, 2 ... */
    uint32_t *done;
    HostJob *jobs;  /* [max_active] */
    uint64_t *sums; /* [threads] of what was read */
};

/* Small numbers of both signs: no product is a denormal or infinite. */
static void fill_piece(void *argument, size_t item, size_t worker)
{
    (void)worker;
    const HostBench *bench = argument;
    size_t count = READ_BYTES / sizeof(uint16_t);
    size_t all = bench->n_experts * bench->expert_bytes / sizeof(uint16_t);
    uint16_t *weights = (uint16_t *)(void *)bench->weights;
    uint64_t state = item + 1;
    for (size_t i = item * count; i < (item + 1) * count && i < all; i++)
        weights[i] = (uint16_t)(0x3C00 | (lcg_next(&state) >> 40 & 0x80FF));
}

static size_t pieces_of(const HostBench *bench)
{
    return (bench->n_experts * bench->expert_bytes + READ_BYTES - 1) / READ_BYTES;
}

static Status take_arrays(HostBench *bench, uint32_t max_active, uint32_t max_rows,
                          size_t weight_bytes)
{
    static const char WHAT[] = "benchmark of host experts";
    size_t rows = (size_t)max_active * max_rows;
    size_t wanted = weight_bytes / bench->expert_bytes + 1;
    bench->n_experts = wanted > 2 * (size_t)max_active ? (uint32_t)wanted : 2 * max_active;
    TRY(mem_new(&bench->weights, bench->n_experts, bench->expert_bytes, WHAT));
    TRY(mem_new(&bench->in, rows * bench->shape.d_model, sizeof *bench->in, WHAT));
    TRY(mem_new(&bench->out, rows * bench->shape.d_model, sizeof *bench->out, WHAT));
    TRY(mem_new(&bench->first, (size_t)max_active + 1, sizeof *bench->first, WHAT));
    TRY(mem_new(&bench->rows, rows, sizeof *bench->rows, WHAT));
    TRY(mem_new(&bench->done, rows, sizeof *bench->done, WHAT));
    TRY(mem_new(&bench->sums, thread_pool_size(bench->pool), sizeof *bench->sums, WHAT));
    return mem_new(&bench->jobs, max_active, sizeof *bench->jobs, WHAT);
}

static Status open_bench(HostBench *bench, uint32_t max_active, uint32_t max_rows, size_t threads,
                         size_t weight_bytes)
{
    const FfnShape *shape = &bench->shape;
    bool packs = shape->d_model % 64 == 0 && shape->d_ff % 64 == 0;
    bench->layer = (LayerConfig){.moe = true, .experts = max_active, .top_k = 1, .ffn = *shape};
    bench->config = (ModelConfig){.d_model = shape->d_model,
                                  .n_layers = 1,
                                  .max_experts = max_active,
                                  .max_top_k = 1,
                                  .layers = &bench->layer};
    bench->form = packs ? HOST_PACKED : HOST_BF16;
    bench->expert_bytes = ffn_layout(shape, sizeof(uint16_t)).bytes;
    TRY(thread_pool_new(threads, &bench->pool));
    thread_pool_keep_awake(bench->pool, AWAKE_NS);
    TRY(host_experts_new(&bench->config, max_active * max_rows, bench->pool, &bench->host));
    TRY(take_arrays(bench, max_active, max_rows, weight_bytes));
    thread_pool_run(bench->pool, pieces_of(bench), fill_piece, bench);
    for (uint32_t i = 0; i < max_active * max_rows; i++)
        bench->rows[i] = i;
    for (size_t i = 0; i < (size_t)max_active * max_rows * shape->d_model; i++)
        bench->in[i] = (float)(i % 61) / 64 - 0.5f;
    return OK;
}

Status host_bench_new(const FfnShape *shape, uint32_t max_active, uint32_t max_rows, size_t threads,
                      size_t weight_bytes, HostBench **out)
{
    HostBench *bench;
    TRY(mem_new(&bench, 1, sizeof *bench, "benchmark of host experts"));
    bench->shape = *shape;
    Status status = open_bench(bench, max_active, max_rows, threads, weight_bytes);
    if (status == OK)
        *out = bench;
    else
        host_bench_free(bench);
    return status;
}

void host_bench_free(HostBench *bench)
{
    if (bench == NULL)
        return;
    mem_free(bench->jobs);
    mem_free(bench->sums);
    mem_free(bench->done);
    mem_free(bench->rows);
    mem_free(bench->first);
    mem_free(bench->out);
    mem_free(bench->in);
    mem_free(bench->weights);
    host_experts_free(bench->host);
    thread_pool_free(bench->pool);
    mem_free(bench);
}

static double run_once(HostBench *bench, uint32_t active, uint32_t rows)
{
    for (uint32_t i = 0; i < active; i++, bench->next = (bench->next + 1) % bench->n_experts) {
        bench->jobs[i] = (HostJob){i, bench->weights + bench->next * bench->expert_bytes};
        bench->first[i + 1] = (i + 1) * rows;
    }
    HostWork work = {.shape = &bench->shape,
                     .form = bench->form,
                     .top_k = 1,
                     .groups = {bench->first, bench->rows},
                     .jobs = bench->jobs,
                     .n_jobs = active,
                     .in = bench->in};
    uint64_t start_ns = clock_ns();
    while (host_experts_next(bench->host, &work, false, bench->out, bench->done) > 0)
        ;
    return (double)(clock_ns() - start_ns);
}

Status host_bench_run(HostBench *bench, uint32_t active, uint32_t rows, uint32_t repeats,
                      double *median_ns, double *spread)
{
    double *ns;
    TRY(mem_new(&ns, repeats, sizeof *ns, "benchmark of host experts"));
    run_once(bench, active, rows);
    for (uint32_t i = 0; i < repeats; i++)
        ns[i] = run_once(bench, active, rows);
    *median_ns = median_f64(ns, repeats);
    *spread = variation_f64(ns, repeats);
    mem_free(ns);
    return OK;
}

size_t host_bench_expert_bytes(const HostBench *bench)
{
    return bench->expert_bytes;
}

size_t host_bench_threads(const HostBench *bench)
{
    return thread_pool_size(bench->pool);
}

const char *host_bench_kernel(void)
{
    return host_experts_kernel();
}

static void read_piece(void *argument, size_t item, size_t worker)
{
    HostBench *bench = argument;
    size_t words = bench->n_experts * bench->expert_bytes / sizeof(uint64_t);
    size_t count = READ_BYTES / sizeof(uint64_t);
    const uint64_t *weights = (const uint64_t *)(const void *)bench->weights;
    uint64_t sum[8] = {0};
    for (size_t i = item * count; i + 8 <= (item + 1) * count && i + 8 <= words; i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] += weights[i + j];
    for (size_t j = 0; j < 8; j++)
        bench->sums[worker] += sum[j];
}

double host_bench_read_rate(HostBench *bench)
{
    double best = 0;
    for (int i = 0; i < READ_REPEATS; i++) {
        uint64_t start_ns = clock_ns();
        thread_pool_run(bench->pool, pieces_of(bench), read_piece, bench);
        double rate = (double)(bench->n_experts * bench->expert_bytes) * 1e9 /
                      (double)(clock_ns() - start_ns);
        best = rate > best ? rate : best;
    }
    return best;
}
