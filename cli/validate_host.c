/* How fast the host's cores are while plans are measured whose experts they compute. */

#include "base/statistics.h"
#include "cli/validate.h"

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
