/* Opening and closing the CPU device, its memory, and the table of the backend. */
#include "exec/cpu/cpu.h"

#include <cblas.h>
#include <stdio.h>
#include <string.h>

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
             processor, threads, threads == 1 ? "" : "s", openblas_get_config());
}

static void lay_out(Device *device, const DeviceOptions *options, Arena *arena)
{
    size_t threads = thread_pool_size(device->pool);
    device->scratch = arena_take(arena, threads * device->scratch_floats, sizeof(float));
    device->span_block = arena_take(arena, options->max_tokens + 1, sizeof(uint32_t));
    device->tiles = arena_take(arena, device->max_tiles, sizeof(ExpertTile));
}

static Status take_scratch(Device *device, const DeviceOptions *options)
{
    size_t threads = thread_pool_size(device->pool);
    size_t attention = cpu_attention_scratch(options);
    size_t experts = cpu_experts_scratch(options);
    device->scratch_floats = attention > experts ? attention : experts;
    device->max_tiles = cpu_experts_tiles(options);
    arena_reserve(&device->arena, device->scratch_floats, threads * sizeof(float));
    arena_reserve(&device->arena, (size_t)options->max_tokens + 1, sizeof(uint32_t));
    arena_reserve(&device->arena, device->max_tiles, sizeof(ExpertTile));
    TRY(arena_commit(&device->arena, "executor: scratch of the threads"));
    lay_out(device, options, &device->arena);
    return OK;
}

static void cpu_close(Device *device)
{
    if (device == NULL)
        return;
    thread_pool_free(device->pool);
    arena_free(&device->memory);
    arena_free(&device->arena);
    mem_free(device);
}

/* A serial build of OpenBLAS without locks hands the same buffer to every thread that calls it, and
 * the products are then wrong. Such a library gets one thread. */
static Status usable_threads(size_t wanted, size_t *threads)
{
    *threads = wanted;
    if (openblas_get_parallel() != OPENBLAS_SEQUENTIAL ||
        strstr(openblas_get_config(), "USE_LOCKING") != NULL)
        return OK;
    if (wanted > 1)
        return fail(ERR_UNSUPPORTED,
                    "cpu: %zu threads: this OpenBLAS is a serial build, which only one may call "
                    "(Debian: libopenblas0-pthread)",
                    wanted);
    *threads = 1;
    return OK;
}

static Status cpu_open(const DeviceOptions *options, Device **out)
{
    Device *device;
    size_t threads;
    TRY(usable_threads(options->threads, &threads));
    TRY(mem_new(&device, 1, sizeof *device, "executor: device"));
    device->d_model = options->config->d_model;
    device->max_length = options->max_length;
    openblas_set_num_threads(1);
    Status status = thread_pool_new(threads, &device->pool);
    if (status == OK)
        status = take_scratch(device, options);
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

static Status cpu_allocate(Device *device, size_t bytes, void **memory)
{
    arena_reserve(&device->memory, bytes, 1);
    TRY(arena_commit(&device->memory, "executor: device memory"));
    *memory = arena_take(&device->memory, bytes, 1);
    return OK;
}

static Status cpu_copy(Device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    if (bytes > 0)
        memcpy(to, from, bytes);
    return OK;
}

static Status cpu_store_floats(Device *device, const Tensor *tensor, float *to)
{
    (void)device;
    tensor_to_f32(tensor, 0, tensor->bytes / dtype_bytes(tensor->dtype), to);
    return OK;
}

static Status cpu_store(Device *device, const Tensor *tensor, void *to)
{
    return cpu_store_floats(device, tensor, to);
}

static Status cpu_load_expert(Device *device, const ExpertTensors *expert, void *slot)
{
    const Tensor *const parts[] = {&expert->gate, &expert->up, &expert->down};
    float *to = slot;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        TRY(cpu_store_floats(device, parts[i], to));
        to += parts[i]->shape[0] * parts[i]->shape[1];
    }
    return OK;
}

static Status cpu_embed(Device *device, const Matrix *table, const uint32_t *ids, uint32_t tokens,
                        float *out)
{
    (void)device;
    size_t columns = table->columns;
    const float *rows = table->data;
    for (uint32_t i = 0; i < tokens; i++)
        memcpy(out + i * columns, rows + ids[i] * columns, columns * sizeof *out);
    return OK;
}

const Backend BACKEND_CPU = {
    .name = "cpu",
    .weight_bytes = sizeof(float),
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .allocate = cpu_allocate,
    .upload = cpu_copy,
    .download = cpu_copy,
    .store = cpu_store,
    .store_floats = cpu_store_floats,
    .load_expert = cpu_load_expert,
    .embed = cpu_embed,
    .rms_norm = cpu_rms_norm,
    .linear = cpu_linear,
    .append = cpu_append,
    .attend = cpu_attend,
    .route = cpu_route,
    .run_experts = cpu_run_experts,
    .combine = cpu_combine,
};
