/* moebius calibrate: measures the executor's operations and writes a hardware profile. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/memory.h"
#include "base/threads.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/online.h"
#include "cli/origin.h"
#include "cli/print.h"
#include "cli/table.h"
#include "exec/calibrate.h"

typedef struct {
    OptionList models;
    DeviceInput device;
    const char *add; /* a profile to go on from; NULL: none */
    const char *out;
    bool quick;
    bool json;
} Arguments;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        {.name = "model",
         .argument = "DIR|shape:NAME",
         .help = "whose operations are measured; may be repeated",
         .kind = OPTION_LIST,
         .required = true,
         .value = &arguments->models},
        DEVICE_OPTIONS(&arguments->device),
        {.name = "add",
         .argument = "FILE",
         .help = "a profile of the same device: what is measured joins it",
         .kind = OPTION_TEXT,
         .value = &arguments->add},
        {.name = "out",
         .argument = "FILE",
         .help = "the hardware profile",
         .kind = OPTION_TEXT,
         .required = true,
         .value = &arguments->out},
        {.name = "quick",
         .help = "fewer places and repeats, for a first look",
         .kind = OPTION_FLAG,
         .value = &arguments->quick},
        {.name = "json",
         .help = "print one JSON document",
         .kind = OPTION_FLAG,
         .value = &arguments->json},
    };
    const OptionTable table = {
        .command = "calibrate",
        .summary = "Measures what the executor's operations cost on this machine, for simulations "
                   "of time: steps of\nmany batches, lengths and contexts, experts by how many "
                   "there are of how many rows, and copies.",
        .example = "moebius calibrate --device cuda --model shape:qwen3-30b-a3b --out hw.json",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    return options_parse(&table, argc, argv);
}

/* One line per model: how far it is. */
typedef struct {
    Progress progress;
    char what[128];
} Watch;

static Status measure_model(const Arguments *arguments, const char *model, Hardware *hardware)
{
    Watch watch;
    ExecutorOptions executor = {0};
    TRY(device_input_apply(&arguments->device, &executor));
    const CalibrateOptions options = {.device = executor.device,
                                      .compute = executor.compute,
                                      .threads = executor.threads,
                                      .quick = arguments->quick,
                                      .progress = progress_show,
                                      .progress_argument = &watch.progress,
                                      .stop = interrupt_watch()};
    snprintf(watch.what, sizeof watch.what, "calibrating %s", model);
    progress_start(&watch.progress, watch.what, "kinds of steps", 0);
    Status status = calibrate_model(&options, model, hardware);
    progress_end(&watch.progress);
    interrupt_unwatch();
    return status;
}

static void note_origin(const Arguments *arguments, int argc, char **argv, Hardware *hardware)
{
    Origin origin;
    origin_of("moebius", argc, argv, &origin);
    snprintf(hardware->command, sizeof hardware->command, "%s", origin.command);
    snprintf(hardware->commit, sizeof hardware->commit, "%s", origin.commit);
    snprintf(hardware->driver, sizeof hardware->driver, "%s", origin.driver);
    snprintf(hardware->version, sizeof hardware->version, "%s", MOEBIUS_VERSION);
    clock_wall_text(hardware->created);
    hardware->host_threads = arguments->device.threads > 0 ? arguments->device.threads
                                                           : (uint32_t)thread_count_default();
}

static Status measure(const Arguments *arguments, int argc, char **argv, Hardware *hardware)
{
    note_origin(arguments, argc, argv, hardware);
    for (size_t i = 0; i < arguments->models.count; i++)
        TRY(measure_model(arguments, arguments->models.items[i], hardware));
    return OK;
}

/* Puts what was measured into the profile that it shall join. */
static Status join(const char *path, Hardware *hardware)
{
    Hardware all;
    TRY(hardware_load(path, &all));
    Status status = fail_in(hardware_merge(&all, hardware), "%s", path);
    if (status != OK) {
        hardware_free(&all);
        return status;
    }
    hardware_free(hardware);
    *hardware = all;
    return OK;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What there is of it, and how much the measurements of one place differed. */
typedef struct {
    uint32_t points;
    double median_spread;
    double high_spread; /* 95 of 100 are below */
    uint64_t duration_ns;
} Summary;

static Status sum_up(const Hardware *hardware, Summary *summary)
{
    double *spreads;
    uint32_t n = 0;
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        summary->points += hardware->tables[i].n_points;
    TRY(mem_new(&spreads, summary->points + 1, sizeof *spreads, "summary"));
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        for (uint32_t p = 0; p < hardware->tables[i].n_points; p++)
            if (hardware->tables[i].spread[p] > 0)
                spreads[n++] = hardware->tables[i].spread[p];
    qsort(spreads, n, sizeof *spreads, compare_doubles);
    if (n > 0) {
        summary->median_spread = spreads[n / 2];
        summary->high_spread = spreads[(uint32_t)(0.95 * (n - 1))];
    }
    mem_free(spreads);
    return OK;
}

static Status fill_json(cJSON *json, const Arguments *arguments, const Hardware *hardware,
                        const Summary *summary)
{
    TRY(json_add_text(json, "out", arguments->out));
    TRY(json_add_text(json, "device", hardware->device));
    TRY(json_add_u64(json, "models", hardware->n_models));
    TRY(json_add_u64(json, "tables", hardware->n_tables));
    TRY(json_add_u64(json, "points", summary->points));
    TRY(json_add_f64(json, "spread_median", summary->median_spread));
    TRY(json_add_f64(json, "spread_p95", summary->high_spread));
    return json_add_u64(json, "duration_ns", summary->duration_ns);
}

static Status print(const Arguments *arguments, const Hardware *hardware, const Summary *summary)
{
    char duration[NUMBER_BYTES];
    if (arguments->json) {
        cJSON *json;
        TRY(print_json_begin(&json));
        return print_json_end(json, fill_json(json, arguments, hardware, summary));
    }
    printf("%s: %s; %u models, %u tables, %u points, in %s\n"
           "repeated measurements of a point differed by %.1f %% (median), %.1f %% (95 of 100 by "
           "less)\n",
           arguments->out, hardware->device, hardware->n_models, hardware->n_tables,
           summary->points, duration_text(summary->duration_ns, duration),
           100 * summary->median_spread, 100 * summary->high_spread);
    return OK;
}

static Status run(const Arguments *arguments, int argc, char **argv, Hardware *hardware)
{
    Summary summary = {0};
    uint64_t start_ns = clock_ns();
    TRY(measure(arguments, argc, argv, hardware));
    if (arguments->add != NULL)
        TRY(join(arguments->add, hardware));
    TRY(hardware_save(hardware, arguments->out));
    summary.duration_ns = clock_ns() - start_ns;
    TRY(sum_up(hardware, &summary));
    return print(arguments, hardware, &summary);
}

Status command_calibrate(int argc, char **argv)
{
    Arguments arguments = {.device = {.name = "cpu"}};
    Hardware hardware = {0};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = run(&arguments, argc, argv, &hardware);
    hardware_free(&hardware);
    option_list_free(&arguments.models);
    return status;
}
