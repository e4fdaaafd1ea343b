#include "cli/bench_command.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/origin.h"
#include "cli/table.h"

static const BenchCommand COMMANDS[] = {
    {"decode", "one token for each of a batch of requests", command_bench_decode},
    {"prefill", "prompts, and the encoder of encoder-decoder models", command_bench_prefill},
    {"gating", "dynamic and static gating, each at its best batch", command_bench_gating},
    {"buffer", "decode with an expert buffer of every size", command_bench_buffer},
    {"host-experts", "experts that the host's cores compute", command_bench_host_experts},
    {"recording", "what recording takes from decode and prefill", command_bench_recording},
};

const BenchCommand *bench_command_find(const char *name)
{
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        if (strcmp(COMMANDS[i].name, name) == 0)
            return &COMMANDS[i];
    return NULL;
}

/* Reads the item at *TEXT and moves on to the next, or to the end. */
static bool read_batch(const char **text, uint32_t tokens, BenchBatch *batch)
{
    int used = 0;
    *batch = (BenchBatch){.tokens = tokens};
    if (sscanf(*text, "%8" SCNu32 "%n", &batch->requests, &used) != 1)
        return false;
    *text += used;
    if (**text == 'x') {
        if (sscanf(*text, "x%8" SCNu32 "%n", &batch->tokens, &used) != 1)
            return false;
        *text += used;
    }
    if (**text == ',' && (*text)[1] != '\0')
        ++*text;
    else if (**text != '\0')
        return false;
    uint64_t all = (uint64_t)batch->requests * batch->tokens;
    return batch->requests <= MAX_BATCH && all > 0 && all <= TRACE_MAX_TOKENS;
}

Status bench_batches_read(const OptionTable *table, const char *option, const char *text,
                          uint32_t tokens, BenchBatch batches[BENCH_MAX_BATCHES], uint32_t *n)
{
    const char *at = text;
    *n = 0;
    do {
        if (*n == BENCH_MAX_BATCHES || !read_batch(&at, tokens, &batches[(*n)++]))
            return options_fail(
                table,
                "--%s: '%s' is no list of up to %d numbers or batches, as 1,8 or 16x1024 are",
                option, text, BENCH_MAX_BATCHES);
    } while (*at != '\0');
    return OK;
}

Status bench_add_command(cJSON *json, int argc, char **argv)
{
    Origin origin;
    origin_of("moebius bench", argc, argv, &origin);
    TRY(json_add_text(json, "bench", argv[0]));
    TRY(json_add_text(json, "command", origin.command));
    TRY(json_add_text(json, "version", MOEBIUS_VERSION));
    TRY(json_add_text(json, "commit", origin.commit));
    return origin.driver[0] != '\0' ? json_add_text(json, "driver", origin.driver)
                                    : json_add_null(json, "driver");
}

Status bench_add_ceilings(cJSON *json, const Ceilings *ceilings)
{
    cJSON *object;
    TRY(json_add_object(json, "ceilings", &object));
    TRY(json_add_f64(object, "copy_bytes_per_s", ceilings->bytes_per_s));
    TRY(json_add_f64(object, "product_flops_per_s", ceilings->flops_per_s));
    return json_add_f64(object, "upload_bytes_per_s", ceilings->upload_bytes_per_s);
}

void bench_print_ceilings(const Ceilings *ceilings)
{
    printf("measured here: copy %.0f GB/s, product %.3g TFLOP/s, upload %.1f GB/s\n",
           ceilings->bytes_per_s / 1e9, ceilings->flops_per_s / 1e12,
           ceilings->upload_bytes_per_s / 1e9);
}

Status bench_add_origin(cJSON *json, int argc, char **argv, const StepBench *bench,
                        const Ceilings *ceilings)
{
    TRY(bench_add_command(json, argc, argv));
    TRY(json_add_text(json, "device", executor_device(bench->executor)));
    TRY(json_add_text(json, "model", bench->setup.model));
    TRY(json_add_u64(json, "layers", bench->config->n_layers));
    TRY(json_add_text(json, "routing",
                      bench->setup.routing != NULL ? bench->setup.routing : "gate"));
    TRY(json_add_u64(json, "open_ns", bench->open_ns));
    return bench_add_ceilings(json, ceilings);
}

void bench_print_origin(const StepBench *bench, const Ceilings *ceilings)
{
    char opened[NUMBER_BYTES];
    printf("%s, %u layers, routing %s, on %s; opened in %s\n", bench->setup.model,
           bench->config->n_layers, bench->setup.routing != NULL ? bench->setup.routing : "gate",
           executor_device(bench->executor), duration_text(bench->open_ns, opened));
    bench_print_ceilings(ceilings);
}

Status bench_add_times(cJSON *json, const StepTimes *times)
{
    TRY(json_add_f64(json, "median_ns", times->median_ns));
    TRY(json_add_f64(json, "min_ns", times->least_ns));
    TRY(json_add_f64(json, "max_ns", times->most_ns));
    return json_add_u64(json, "repeats", times->repeats);
}
