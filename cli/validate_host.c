/* The host beside plans that are measured: whether others disturb the thread that queues steps, and
 * how fast the cores are that compute experts. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/statistics.h"
#include "cli/validate.h"

/* ---- the thread ---- */

/* By so much it is always faster or slower. */
static const double TOLERANCE = 0.1;

/* ... or on a machine that a test plays. */
static bool is_beside_device(const Validation *validation)
{
    return strcmp(validation->arguments->device.name, "cpu") != 0 ||
           validation->quiet.machine != NULL;
}

void validation_seek_quiet(Validation *validation)
{
    if (is_beside_device(validation))
        quiet_processor_seek(&validation->quiet);
}

void validation_watch_quiet(Validation *validation)
{
    if (is_beside_device(validation))
        quiet_processor_watch(&validation->quiet);
}

bool validation_run_counts(Validation *validation, QuietRuns *runs)
{
    const QuietProcessor before = validation->quiet;
    const QuietProcessor *now = &validation->quiet;
    if (!is_beside_device(validation))
        return true;
    bool counts = quiet_processor_counts(&validation->quiet);
    runs->runs += now->rounds - before.rounds;
    runs->disturbed += now->disturbed - before.disturbed;
    runs->again += now->again - before.again;
    runs->loop_ns += now->loop_ns - before.loop_ns;
    return counts;
}

/* The loop's time as a multiple of what it was when the model was calibrated; 0: not known. */
static double how_slow(const Validation *validation, const QuietRuns *runs)
{
    const HardwareModel *model = hardware_model(&validation->hardware, validation->model);
    if (model == NULL || model->host.mean_ns == 0 || runs->runs == 0)
        return 0;
    return runs->loop_ns / (double)runs->runs / model->host.mean_ns;
}

void validation_print_quiet(const Validation *validation, const QuietRuns *runs)
{
    double slow = how_slow(validation, runs);
    if (runs->again > 0 || runs->disturbed > 0)
        printf("Others disturbed the host's processor: %" PRIu64
               " runs were measured again, %" PRIu64 " of %" PRIu64
               " that count were disturbed all the same.\n",
               runs->again, runs->disturbed, runs->runs);
    if (slow > 1 + TOLERANCE || (slow > 0 && slow < 1 / (1 + TOLERANCE)))
        printf("The host's thread took %.2f times as long as when the model was calibrated, which "
               "predictions are made from alone.\n",
               slow);
}

Status validation_add_quiet(cJSON *json, const Validation *validation, const QuietRuns *runs)
{
    cJSON *object;
    double slow = how_slow(validation, runs);
    if (runs->runs == 0)
        return OK;
    TRY(json_add_object(json, "processor", &object));
    TRY(json_add_u64(object, "runs", runs->runs));
    TRY(json_add_u64(object, "disturbed", runs->disturbed));
    TRY(json_add_u64(object, "again", runs->again));
    TRY(json_add_f64(object, "loop_ns", runs->loop_ns / (double)runs->runs));
    TRY(json_add_u64(object, "best_ns", validation->quiet.best_ns));
    return slow > 0 ? json_add_f64(object, "slow", slow) : json_add_null(object, "slow");
}

/* ---- the cores ---- */

/* What the profile has of the model's first layer with experts. */
static double known_ns(const Validation *validation)
{
    const HardwareModel *model = hardware_model(&validation->hardware, validation->model);
    for (uint32_t stack = 0; model != NULL && stack < 2; stack++)
        for (uint32_t i = 0; i < model->n_ops[stack]; i++) {
            if (model->ops[stack][i].op != OP_EXPERTS)
                continue;
            const CostTable *table =
                hardware_table(&validation->hardware, "host/probe", model->ops[stack][i].shape);
            if (table != NULL && table->n_points > 0)
                return table->value[0];
        }
    return 0;
}

Status validation_open_speed(Validation *validation, size_t i, uint32_t runs)
{
    HostSpeed *speed = &validation->results[i].time.host;
    if (validation->plans[i].compute.mode == COMPUTE_ON_GPU)
        return OK;
    speed->known_ns = (uint64_t)known_ns(validation);
    return mem_new(&speed->ns, runs, sizeof *speed->ns, "the host's speed");
}

Status validation_note_speed(Validation *validation, size_t i)
{
    HostSpeed *speed = &validation->results[i].time.host;
    uint64_t ns;
    if (speed->known_ns == 0)
        return OK;
    TRY(executor_time_host(validation->executor, &ns));
    if (ns > 0)
        speed->ns[speed->n++] = ns;
    return OK;
}

void validation_settle_speed(HostSpeed *speed)
{
    if (speed->n == 0)
        return;
    speed->slow = median_u64(speed->ns, speed->n) / (double)speed->known_ns;
}
