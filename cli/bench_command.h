/* Benchmarks with options of their own: `moebius bench NAME ...`. */
#ifndef CLI_BENCH_COMMAND_H
#define CLI_BENCH_COMMAND_H

#include "base/json.h"
#include "cli/bench_steps.h"

typedef struct {
    const char *name;
    const char *summary;                  /* one line */
    Status (*run)(int argc, char **argv); /* ARGV[0] is the benchmark's name */
} BenchCommand;

#define ROUTING_HELP                                                                               \
    "gate (default); uniform or zipf:S: drawn at random; trace:FILE: a trace's, tiled"

/* The benchmark NAME, or NULL. */
const BenchCommand *bench_command_find(const char *name);

Status command_bench_decode(int argc, char **argv);
Status command_bench_prefill(int argc, char **argv);
Status command_bench_gating(int argc, char **argv);
Status command_bench_buffer(int argc, char **argv);
Status command_bench_host_experts(int argc, char **argv);
Status command_bench_recording(int argc, char **argv);

/* One item of a list of batches: "8", or "16x1024". */
typedef struct {
    uint32_t requests;
    uint32_t tokens; /* of each */
} BenchBatch;

enum { BENCH_MAX_BATCHES = 32 };

/* Reads TEXT of OPTION, items with commas between them; one without "xTOKENS" has TOKENS. Fails
 * with ERR_USAGE. */
Status bench_batches_read(const OptionTable *table, const char *option, const char *text,
                          uint32_t tokens, BenchBatch batches[BENCH_MAX_BATCHES], uint32_t *n);

/* Parts of what follows: the benchmark, its command line, the program's version and commit and the
 * GPU's driver (null where there is none); and the ceilings. */
Status bench_add_command(cJSON *json, int argc, char **argv);
Status bench_add_ceilings(cJSON *json, const Ceilings *ceilings);
void bench_print_ceilings(const Ceilings *ceilings);
/* Where figures come from: adds the command line, the program's version and commit, the device, the
 * model and the ceilings. */
Status bench_add_origin(cJSON *json, int argc, char **argv, const StepBench *bench,
                        const Ceilings *ceilings);
/* The same for people, on stdout. */
void bench_print_origin(const StepBench *bench, const Ceilings *ceilings);
Status bench_add_times(cJSON *json, const StepTimes *times);

#endif
