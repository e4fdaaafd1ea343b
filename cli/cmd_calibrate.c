/* moebius calibrate: measures the executor's operations and writes a hardware profile. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/leave_one_out.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/memory.h"
#include "base/processes.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/online.h"
#include "cli/origin.h"
#include "cli/print.h"
#include "cli/table.h"
#include "exec/calibrate.h"
#include "sim/rests.h"

typedef struct {
    OptionList models;
    DeviceInput device;
    const char *add; /* a profile to go on from; NULL: none */
    const char *out;
    bool quick;
    bool progress;
    bool json;
} Arguments;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        LIST_OPTION(
            "model", "DIR|shape:NAME",
            "whose operations are measured; may be repeated (default models/tiny-32x4; none "
            "under mpirun)",
            &arguments->models),
        DEVICE_OPTIONS(&arguments->device),
        TEXT_OPTION(
            "add", "FILE",
            "a profile of the same device, which grows; operations of shapes that it has are "
            "not measured again",
            &arguments->add),
        TEXT_OPTION("out", "FILE", "the hardware profile", &arguments->out, .required = true,
                    .writes = true, .grows = "add"),
        FLAG_OPTION("quick", "fewer places and repeats, for a first look", &arguments->quick),
        PROGRESS_OPTION(&arguments->progress),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "calibrate",
        .summary = "Measures what the executor's operations cost on this machine, for simulations "
                   "of time: steps of many batches, lengths and contexts, experts by how many "
                   "there are of how many rows, and copies. Beside a device, what others disturb "
                   "on the host's processor is measured again, within bounds. Under mpirun, with a "
                   "GPU for each process, also what GPUs send one another.",
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

/* Fills OPTIONS and starts WATCH, for what is called WHAT. */
static Status begin_watch(const Arguments *arguments, const char *what, const char *units,
                          const Hardware *known, Watch *watch, CalibrateOptions *options)
{
    ExecutorOptions executor = {0};
    TRY(device_input_apply(&arguments->device, &executor));
    *options = (CalibrateOptions){.device = executor.device,
                                  .compute = executor.compute,
                                  .threads = executor.threads,
                                  .quick = arguments->quick,
                                  .known = known,
                                  .known_path = arguments->add,
                                  .progress = progress_show,
                                  .progress_argument = &watch->progress,
                                  .stop = interrupt_watch()};
    snprintf(watch->what, sizeof watch->what, "calibrating %s", what);
    progress_start(&watch->progress, watch->what, units, 0);
    if (arguments->progress)
        progress_in_lines(&watch->progress);
    return OK;
}

static void end_watch(Watch *watch)
{
    progress_end(&watch->progress);
    interrupt_unwatch();
}

static Status measure_model(const Arguments *arguments, const char *model, const Hardware *known,
                            Hardware *hardware, WholeSteps *whole)
{
    Watch watch;
    CalibrateOptions options;
    TRY(begin_watch(arguments, model, "kinds of steps", known, &watch, &options));
    Status status = calibrate_model(&options, model, hardware, whole);
    end_watch(&watch);
    return status;
}

/* By every process; only rank 0 says how far it is. */
static Status measure_ranks(const Arguments *arguments, Processes *processes, const Hardware *known,
                            Hardware *hardware)
{
    Watch watch;
    CalibrateOptions options;
    TRY(begin_watch(arguments, "all-to-all", "kinds of exchanges", known, &watch, &options));
    if (processes->rank > 0)
        options.progress = NULL;
    Status status = calibrate_ranks(&options, processes, hardware);
    end_watch(&watch);
    return status;
}

static void note_origin(const Arguments *arguments, int argc, char **argv,
                        const Processes *processes, Hardware *hardware)
{
    Origin origin;
    char program[64] = "moebius";
    if (processes != NULL)
        snprintf(program, sizeof program, "mpirun -n %u moebius", processes->count);
    origin_of(program, argc, argv, &origin);
    snprintf(hardware->command, sizeof hardware->command, "%s", origin.command);
    snprintf(hardware->commit, sizeof hardware->commit, "%s", origin.commit);
    snprintf(hardware->driver, sizeof hardware->driver, "%s", origin.driver);
    snprintf(hardware->version, sizeof hardware->version, "%s", MOEBIUS_VERSION);
    clock_wall_text(hardware->created);
    hardware->host_threads = device_input_threads(&arguments->device);
}

static Status measure(const Arguments *arguments, const Hardware *known, Hardware *hardware,
                      WholeSteps *whole)
{
    for (size_t i = 0; i < arguments->models.count; i++)
        TRY(measure_model(arguments, arguments->models.items[i], known, hardware, &whole[i]));
    return OK;
}

/* What was measured first and last is told; the commit is that of the last. */
static void join_origins(Hardware *all, const Hardware *more)
{
    size_t used = strlen(all->command);
    snprintf(all->command + used, sizeof all->command - used, "; %s", more->command);
    memcpy(all->commit, more->commit, sizeof all->commit);
    memcpy(all->version, more->version, sizeof all->version);
    memcpy(all->created, more->created, sizeof all->created);
}

/* Puts what was measured, HARDWARE, into the profile that it shall join; HARDWARE becomes both. */
static Status join(const char *path, Hardware *all, Hardware *hardware)
{
    TRY(fail_in(hardware_merge(all, hardware), "%s", path));
    join_origins(all, hardware);
    hardware_free(hardware);
    *hardware = *all;
    *all = (Hardware){0};
    return OK;
}

/* True for a table of device times, whose points predict each other. */
static bool is_judged(const CostTable *table)
{
    return strncmp(table->name, "gpu/", 4) == 0 || strncmp(table->name, "queued/", 7) == 0 ||
           strncmp(table->name, "copy/", 5) == 0 || strncmp(table->name, "host/", 5) == 0 ||
           strcmp(table->name, "all-to-all") == 0;
}

static Status add_table_json(cJSON *list, const CostTable *table)
{
    LeaveOneOut judged;
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(leave_one_out(table, &judged));
    TRY(json_add_text(item, "name", table->name));
    TRY(json_add_text(item, "shape", table->shape));
    TRY(json_add_u64(item, "points", table->n_points));
    TRY(json_add_u64(item, "predicted", judged.points));
    TRY(json_add_f64(item, "mean_error", judged.mean));
    TRY(json_add_f64(item, "p95_error", judged.p95));
    return json_add_f64(item, "noise", judged.noise);
}

/* How far the host was disturbed while models were measured, of those that tell. */
static Status add_hosts(cJSON *json, const Hardware *hardware)
{
    cJSON *list;
    TRY(json_add_array(json, "host", &list));
    for (uint32_t i = 0; i < hardware->n_models; i++) {
        const HardwareModel *model = &hardware->models[i];
        cJSON *item;
        if (model->host.rounds == 0)
            continue;
        TRY(json_push(list, item = cJSON_CreateObject()));
        TRY(json_add_text(item, "model", model->name));
        TRY(hardware_add_host(item, &model->host));
    }
    return OK;
}

static Status fill_json(cJSON *json, const Arguments *arguments, const Hardware *hardware,
                        uint64_t duration_ns)
{
    cJSON *list;
    TRY(json_add_text(json, "out", arguments->out));
    TRY(json_add_text(json, "device", hardware->device));
    TRY(json_add_u64(json, "models", hardware->n_models));
    TRY(json_add_u64(json, "tables", hardware->n_tables));
    TRY(json_add_u64(json, "duration_ns", duration_ns));
    TRY(add_hosts(json, hardware));
    TRY(json_add_array(json, "leave_one_out", &list));
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        if (is_judged(&hardware->tables[i]))
            TRY(add_table_json(list, &hardware->tables[i]));
    return OK;
}

static Status add_row(Table *table, const CostTable *cost)
{
    LeaveOneOut judged;
    TRY(leave_one_out(cost, &judged));
    table_cell(table, "%s", cost->name);
    table_cell(table, "%s", cost->shape);
    table_cell(table, "%u", cost->n_points);
    table_cell(table, "%.2f %%", 100 * judged.noise);
    if (judged.points == 0) {
        table_cell(table, "-");
        table_cell(table, "-");
        return OK;
    }
    table_cell(table, "%.2f %%", 100 * judged.mean);
    table_cell(table, "%.2f %%", 100 * judged.p95);
    return OK;
}

static Status print_tables(const Hardware *hardware)
{
    static const char *const TITLES[] = {"cost",  "of",         "points",
                                         "noise", "mean error", "95 of 100 below"};
    Table *table;
    TRY(table_new(TITLES, "llrrrr", &table));
    Status status = OK;
    for (uint32_t i = 0; i < hardware->n_tables && status == OK; i++)
        if (is_judged(&hardware->tables[i]))
            status = add_row(table, &hardware->tables[i]);
    if (status == OK)
        status = table_print(table, stdout);
    table_free(table);
    return status;
}

static void print_hosts(const Hardware *hardware)
{
    char waited[NUMBER_BYTES];
    for (uint32_t i = 0; i < hardware->n_models; i++) {
        const HardwareModel *model = &hardware->models[i];
        const HardwareHost *host = &model->host;
        if (host->rounds == 0)
            continue;
        printf("\n%s: of %" PRIu64 " rounds of measuring %" PRIu64
               " were measured again since others disturbed the\nhost's processor, and %" PRIu64
               " count that were disturbed all the same; %s passed waiting. On average the\n"
               "processor took %.2f times as long as at its best.\n",
               model->name, host->rounds, host->again, host->disturbed,
               duration_text(host->waited_ns, waited), host->mean_ns / (double)host->best_ns);
    }
}

static Status print(const Arguments *arguments, const Hardware *hardware, uint64_t duration_ns)
{
    char duration[NUMBER_BYTES];
    if (arguments->json) {
        cJSON *json;
        TRY(print_json_begin(&json));
        return print_json_end(json, fill_json(json, arguments, hardware, duration_ns));
    }
    TRY(print_tables(hardware));
    print_hosts(hardware);
    printf(
        "\nNoise is the coefficient of variation of repeated measurements of a point; errors are "
        "of points\nthat are left out and predicted from the others, which lie twice as far "
        "apart then; points at\nboth sides of a jump stay.\n\n%s: %u tables of %u models, measured "
        "in %s on %s\n",
        arguments->out, hardware->n_tables, hardware->n_models,
        duration_text(duration_ns, duration), hardware->device);
    return OK;
}

/* What there is to do, and with whom. */
typedef struct {
    Arguments arguments;
    Processes *processes; /* NULL: alone */
    Hardware known;       /* arguments.add */
    Hardware hardware;
    WholeSteps *whole; /* [models] zeroed */
} Work;

/* Before minutes of measuring. */
static Status prepare(int argc, char **argv, Work *work)
{
    OutputFile output;
    ExecutorOptions ignored = {0};
    Arguments *arguments = &work->arguments;
    TRY(parse(argc, argv, arguments));
    TRY(device_input_apply(&arguments->device, &ignored));
    if (arguments->models.count == 0 && work->processes == NULL)
        TRY(option_list_append(&arguments->models, "models/tiny-32x4"));
    TRY(output_open(arguments->out, &output));
    output_discard(&output);
    note_origin(arguments, argc, argv, work->processes, &work->hardware);
    if (arguments->add != NULL)
        TRY(hardware_load(arguments->add, &work->known));
    if (arguments->models.count == 0)
        return OK;
    return mem_new(&work->whole, arguments->models.count, sizeof *work->whole,
                   "calibration: whole steps");
}

static Status fill_profile(Work *work)
{
    const Arguments *arguments = &work->arguments;
    const Hardware *known = arguments->add != NULL ? &work->known : NULL;
    if (work->processes != NULL)
        TRY(measure_ranks(arguments, work->processes, known, &work->hardware));
    TRY(measure(arguments, known, &work->hardware, work->whole));
    if (known != NULL)
        TRY(join(arguments->add, &work->known, &work->hardware));
    for (size_t i = 0; i < arguments->models.count; i++)
        TRY(rests_note(&work->whole[i], &work->hardware));
    return OK;
}

/* The only process, or rank 0 of several. */
static Status lead(int argc, char **argv, Work *work)
{
    uint64_t start_ns = clock_ns();
    Status status = prepare(argc, argv, work);
    if (work->processes != NULL)
        status = processes_agree(work->processes, status);
    TRY(status);
    TRY(fill_profile(work));
    TRY(hardware_save(&work->hardware, work->arguments.out));
    return print(&work->arguments, &work->hardware, clock_ns() - start_ns);
}

/* Rank 0 has checked the command line. */
static Status follow(int argc, char **argv, Work *work)
{
    TRY(processes_agree(work->processes, OK));
    TRY(parse(argc, argv, &work->arguments));
    return measure_ranks(&work->arguments, work->processes, NULL, &work->hardware);
}

Status command_calibrate(int argc, char **argv)
{
    Work work = {.arguments = {.device = {.name = "cpu"}}};
    TRY(processes_join(&work.processes));
    Status status = work.processes != NULL && work.processes->rank > 0 ? follow(argc, argv, &work)
                                                                       : lead(argc, argv, &work);
    for (size_t i = 0; work.whole != NULL && i < work.arguments.models.count; i++)
        whole_steps_free(&work.whole[i]);
    mem_free(work.whole);
    hardware_free(&work.known);
    hardware_free(&work.hardware);
    option_list_free(&work.arguments.models);
    return processes_leave(work.processes, status);
}
