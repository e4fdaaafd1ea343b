/* What tells one profile from another. */
#include <string.h>

#include "base/crc32c.h"
#include "policies/hardware.h"

static uint32_t crc_text(uint32_t crc, const char *text)
{
    return crc32c(crc, text, strlen(text) + 1);
}

static uint32_t crc_u64(uint32_t crc, uint64_t value)
{
    return crc32c(crc, &value, sizeof value);
}

static uint32_t crc_table(uint32_t crc, const CostTable *table)
{
    size_t bytes = table->n_points * sizeof(double);
    crc = crc_text(crc_text(crc, table->name), table->shape);
    crc = crc_u64(crc_u64(crc_u64(crc, table->unit), table->n_axes), table->n_points);
    for (uint32_t i = 0; i < table->n_axes; i++)
        crc = crc_text(crc, table->axis[i]);
    crc = crc32c(crc, table->at, bytes * table->n_axes);
    return crc32c(crc32c(crc, table->value, bytes), table->spread, bytes);
}

/* A profile that has nothing of it has the checksum that it had. */
static uint32_t crc_host(uint32_t crc, const HardwareHost *host)
{
    if (host->rounds == 0)
        return crc;
    crc = crc_u64(crc_u64(crc, host->best_ns), host->rounds);
    crc = crc_u64(crc_u64(crc_u64(crc, host->disturbed), host->again), host->waited_ns);
    return crc32c(crc, &host->mean_ns, sizeof host->mean_ns);
}

static uint32_t crc_model(uint32_t crc, const HardwareModel *model)
{
    const HardwareMemory *memory = &model->memory;
    crc = crc_text(crc_text(crc, model->name), model->compute);
    crc = crc_u64(crc, model->measured_layers);
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++) {
        crc = crc_u64(crc, model->n_ops[stack]);
        for (uint32_t i = 0; i < model->n_ops[stack]; i++) {
            const HardwareOp *op = &model->ops[stack][i];
            crc = crc_text(crc_u64(crc_u64(crc, op->layer), op->op), op->shape);
        }
    }
    crc = crc_u64(crc, model->n_slots);
    for (uint32_t i = 0; i < model->n_slots; i++) {
        const HardwareSlots *slots = &model->slots[i];
        crc = crc_u64(crc_u64(crc_u64(crc, slots->layer), slots->experts), slots->slot_bytes);
    }
    crc = crc_u64(crc, memory->weights_bytes);
    crc = crc32c(crc, &memory->position_bytes, sizeof memory->position_bytes);
    crc = crc32c(crc, &memory->request_bytes, sizeof memory->request_bytes);
    crc = crc32c(crc, &memory->length_bytes, sizeof memory->length_bytes);
    return crc_host(crc, &model->host);
}

uint32_t hardware_crc(const Hardware *hardware)
{
    const char *const texts[] = {hardware->device,  hardware->backend, hardware->driver,
                                 hardware->created, hardware->version, hardware->commit,
                                 hardware->command};
    uint32_t crc = crc_u64(0, hardware->host_threads);
    crc = crc_u64(crc_u64(crc, hardware->least_clock_mhz), hardware->most_clock_mhz);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        crc = crc_text(crc, texts[i]);
    crc = crc_u64(crc_u64(crc, hardware->n_tables), hardware->n_models);
    for (uint32_t i = 0; i < hardware->n_tables; i++)
        crc = crc_table(crc, &hardware->tables[i]);
    for (uint32_t i = 0; i < hardware->n_models; i++)
        crc = crc_model(crc, &hardware->models[i]);
    return crc;
}
