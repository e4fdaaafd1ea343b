/* Opening and closing the CPU device, its memory, and the table of the backend. */
#include "exec/cpu/cpu.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "exec/cpu/blas.h"
#include "exec/cpu/host_experts.h"
#include "base/layout.h"

/* Fills NAME with the processor's name, or "unknown processor". */
static void processor_name(char *name, size_t bytes)
{
    snprintf(name, bytes, "unknown processor");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (file == NULL)
        return;
    char line[256];
    while (fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL)
            continue;
        snprintf(name, bytes, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    fclose(file);
}

static void describe(Device *device)
{
    char processor[128];
    processor_name(processor, sizeof processor);
    size_t threads = thread_pool_size(device->pool);
    snprintf(device->description, sizeof device->description, "cpu: %s, %zu thread%s, %s",
             processor, threads, threads == 1 ? "" : "s", blas()->get_config());
}

static void lay_out_arena(Device *device, const DeviceOptions *options)
{
    Arena *arena = &device->arena;
    device->scratch = lay_out(arena, times(device->threads, device->scratch_floats), sizeof(float));
    device->span_block =
        lay_out(arena, (size_t)options->max_tokens + 1, sizeof *device->span_block);
    device->counts =
        lay_out(arena, (size_t)options->config->max_experts + 1, sizeof *device->counts);
    device->tiles = lay_out(arena, device->max_tiles, sizeof *device->tiles);
    device->stamps = lay_out(arena, options->max_stamps, sizeof *device->stamps);
}

/* Adds up the sizes. */
static void reserve_arena(Device *device, const DeviceOptions *options)
{
    size_t attention = cpu_attention_scratch(options);
    size_t experts = cpu_experts_scratch(options);
    device->scratch_floats = attention > experts ? attention : experts;
    device->max_tiles = cpu_experts_tiles(options);
    lay_out_arena(device, options);
}

static Status take_arena(Device *device, const DeviceOptions *options)
{
    reserve_arena(device, options);
    TRY(arena_commit(&device->arena, "executor: scratch of the threads"));
    lay_out_arena(device, options);
    return OK;
}

static void cpu_close(Device *device)
{
    if (device == NULL)
        return;
    host_experts_free(device->host);
    mem_free(device->host_rows);
    thread_pool_free(device->pool);
    arena_free(&device->memory);
    arena_free(&device->host_memory);
    arena_free(&device->arena);
    mem_free(device->loads);
    mem_free(device);
}

/* A serial build of OpenBLAS without locks hands the same buffer to every thread that calls it, and
 * the products are then wrong. Such a library gets one thread. */
static Status usable_threads(size_t wanted, size_t *threads)
{
    *threads = wanted;
    TRY(blas_load());
    if (blas()->get_parallel() != OPENBLAS_SEQUENTIAL ||
        strstr(blas()->get_config(), "USE_LOCKING") != NULL)
        return OK;
    if (wanted > 1)
        return fail(ERR_UNSUPPORTED,
                    "cpu: %zu threads: this OpenBLAS is a serial build, which only one may call "
                    "(Debian: libopenblas0-pthread)",
                    wanted);
    *threads = 1;
    return OK;
}

static Status check_compute(const DeviceOptions *options)
{
    if (options->compute == COMPUTE_BF16)
        return fail(ERR_UNSUPPORTED, "device cpu: computes in f32 only, bf16 was asked for");
    return OK;
}

static Status cpu_sizes(const DeviceOptions *options, BackendSizes *sizes)
{
    Device device = {0};
    TRY(check_compute(options));
    TRY(usable_threads(options->threads, &device.threads));
    if (device.threads == 0)
        device.threads = thread_count_default();
    reserve_arena(&device, options);
    *sizes =
        (BackendSizes){.weight = sizeof(float),
                       .cache = sizeof(float),
                       .expert_out = times(times(options->max_tokens, options->config->max_top_k),
                                           options->config->d_model * sizeof(float)),
                       .own = device.arena.overflow ? SIZE_MAX : device.arena.capacity};
    return OK;
}

/* Done with what was queued, as ever. */
static Status cpu_begin_anew(Device *device, uint32_t max_loads)
{
    if (max_loads <= device->n_loads)
        return OK;
    TRY(mem_resize_array(&device->loads, max_loads, sizeof *device->loads,
                         "executor: times of loads"));
    device->n_loads = max_loads;
    return OK;
}

static Status open_host(Device *device, const DeviceOptions *options)
{
    TRY(mem_new(&device->host_rows, host_experts_rows(options->config, options->max_tokens),
                sizeof *device->host_rows, "experts on the host"));
    return host_experts_new(options->config, options->max_tokens, device->pool, &device->host);
}

static Status cpu_open(const DeviceOptions *options, Device **out)
{
    Device *device;
    size_t threads;
    TRY(check_compute(options));
    TRY(usable_threads(options->threads, &threads));
    TRY(mem_new(&device, 1, sizeof *device, "executor: device"));
    device->d_model = options->config->d_model;
    Status status = thread_pool_new(threads, &device->pool);
    if (status == OK) {
        device->threads = thread_pool_size(device->pool);
        status = take_arena(device, options);
    }
    if (status == OK)
        status = cpu_begin_anew(device, options->max_loads);
    if (status == OK && options->host && options->config->max_experts > 0)
        status = open_host(device, options);
    if (status != OK) {
        cpu_close(device);
        return status;
    }
    describe(device);
    *out = device;
    return OK;
}

static const char *cpu_describe(const Device *device)
{
    return device->description;
}

static size_t cpu_memory_bytes(const Device *device)
{
    return device->memory.capacity + device->arena.capacity;
}

static Status take_block(Arena *arena, size_t bytes, const char *what, void **memory)
{
    arena_reserve(arena, bytes, 1);
    TRY(arena_commit(arena, what));
    *memory = arena_take(arena, bytes, 1);
    return OK;
}

static Status cpu_allocate(Device *device, size_t bytes, void **memory)
{
    return take_block(&device->memory, bytes, "executor: device memory", memory);
}

static Status cpu_allocate_host(Device *device, size_t bytes, void **memory)
{
    return take_block(&device->host_memory, bytes, "executor: host arrays of a step", memory);
}

static Status cpu_copy(Device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    if (bytes > 0)
        memcpy(to, from, bytes);
    return OK;
}

/* Every operation is done on return. */
static Status cpu_wait(Device *device)
{
    (void)device;
    return OK;
}

static Status cpu_poll(Device *device, bool *done)
{
    (void)device;
    *done = true;
    return OK;
}

/* Nothing is noted: operations are done as they come. */
static Status cpu_begin_step(Device *device, const StepShape *shape, bool *repeated)
{
    (void)device;
    (void)shape;
    *repeated = false;
    return OK;
}

static Status cpu_end_step(Device *device, bool whole, bool *again)
{
    (void)device;
    (void)whole;
    *again = false;
    return OK;
}

static Status cpu_stamp(Device *device, uint32_t index)
{
    device->stamps[index] = clock_ns();
    return OK;
}

static Status cpu_stamp_times(Device *device, uint32_t n, uint64_t *ns)
{
    memcpy(ns, device->stamps, n * sizeof *ns);
    return OK;
}

/* Operations are done as they come. */
static Status cpu_hold(Device *device)
{
    (void)device;
    return OK;
}

static void cpu_release(Device *device)
{
    (void)device;
}

static Status cpu_enter_moe(Device *device, const MoeEntry *entry)
{
    return backend_enter_moe(&BACKEND_CPU, device, entry);
}

const Backend BACKEND_CPU = {
    .name = "cpu",
    .sizes = cpu_sizes,
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .memory_bytes = cpu_memory_bytes,
    .allocate = cpu_allocate,
    .allocate_host = cpu_allocate_host,
    .upload = cpu_copy,
    .download = cpu_copy,
    .send = cpu_copy,
    .fetch = cpu_copy,
    .tell = cpu_copy,
    .move = cpu_copy,
    .wait = cpu_wait,
    .poll = cpu_poll,
    .begin_step = cpu_begin_step,
    .end_step = cpu_end_step,
    .begin_anew = cpu_begin_anew,
    .store = cpu_store,
    .store_floats = cpu_store_floats,
    .store_ffn = cpu_store_ffn,
    .store_expert = cpu_store_ffn,
    .keep_expert = cpu_keep_expert,
    .load = cpu_load,
    .await_loads = cpu_await_loads,
    .link_idle = cpu_link_idle,
    .load_time = cpu_load_time,
    .stamp = cpu_stamp,
    .stamp_times = cpu_stamp_times,
    .hold = cpu_hold,
    .release = cpu_release,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .linear = cpu_linear,
    .linear_mixed = cpu_linear_mixed,
    .norm_linear = cpu_norm_linear,
    .find_nan = cpu_find_nan,
    .find_best = cpu_find_best,
    .linear_heads = cpu_linear_heads,
    .ffn = cpu_ffn,
    .append = cpu_append,
    .append_latent = cpu_append_latent,
    .attend = cpu_attend,
    .attend_mixed = cpu_attend_mixed,
    .route = cpu_route,
    .limit = cpu_limit,
    .group = cpu_group,
    .enter_moe = cpu_enter_moe,
    .run_experts = cpu_run_experts,
    .offer_host = cpu_offer_host,
    .run_host = cpu_run_host,
    .time_host = cpu_time_host,
    .run_static = cpu_run_static,
    .combine = cpu_combine,
};
