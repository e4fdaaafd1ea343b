/* Device memory of an executor, as coefficients of its options. */

#include "base/memory.h"
#include "exec/calibrate_parts.h"

enum { REQUESTS = 32, LENGTH = 256 };

static Status memory_for(const Calibration *c, uint32_t requests, uint32_t length, uint32_t tokens,
                         ExecutorMemory *memory)
{
    const ExecutorOptions options = {.plan = &c->plan,
                                     .device = c->options->device,
                                     .threads = c->options->threads,
                                     .max_requests = requests,
                                     .max_length = length,
                                     .max_tokens = tokens,
                                     .logits = LOGITS_LAST,
                                     .compute = c->options->compute};
    return executor_memory(c->checkpoint, &options, memory);
}

static double working(const ExecutorMemory *memory)
{
    return (double)memory->activations + (double)memory->own;
}

/* Of requests and of their length. */
static Status note_coefficients(Calibration *c, HardwareMemory *out)
{
    ExecutorMemory one;
    ExecutorMemory longer;
    ExecutorMemory more;
    uint32_t length = LENGTH < c->max_length ? LENGTH : c->max_length / 2;
    uint32_t tokens = REQUESTS;
    TRY(memory_for(c, 1, length, tokens, &one));
    TRY(memory_for(c, 1, 2 * length, tokens, &longer));
    TRY(memory_for(c, REQUESTS, length, tokens, &more));
    double of_length =
        ((double)longer.weights - (double)one.weights + working(&longer) - working(&one)) / length;
    double of_request = (working(&more) - working(&one)) / (REQUESTS - 1);
    out->length_bytes = of_length > 0 ? of_length : 0;
    out->request_bytes = of_request > 0 ? of_request : 0;
    out->position_bytes = ((double)longer.cache - (double)one.cache) / length;
    out->weights_bytes = one.weights - (uint64_t)(out->length_bytes * length);
    return OK;
}

Status calibration_memory_for(const Calibration *c, uint32_t tokens, ExecutorMemory *memory)
{
    uint32_t length = LENGTH < c->max_length ? LENGTH : c->max_length / 2;
    return memory_for(c, 1, length, tokens, memory);
}

static Status note_activations(Calibration *c)
{
    static const char *const AXIS[] = {"tokens"};
    for (uint32_t tokens = 1; tokens <= 1 << 15; tokens *= 2) {
        ExecutorMemory memory;
        double at = tokens;
        TRY(calibration_memory_for(c, tokens, &memory));
        TRY(calibration_note(c, "memory/activations", c->model, UNIT_BYTES, AXIS, 1, &at,
                             working(&memory), 0));
    }
    return OK;
}

static Status note_slots(Calibration *c, HardwareModel *model)
{
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(c->executor, &n_layers);
    TRY(mem_new(&model->slots, n_layers + 1, sizeof *model->slots, "calibration"));
    model->n_slots = n_layers;
    for (uint32_t i = 0; i < n_layers; i++)
        model->slots[i] = (HardwareSlots){.layer = layers[i].layer,
                                          .experts = layers[i].experts,
                                          .slot_bytes = executor_expert_slot_bytes(c->executor, i)};
    return OK;
}

Status calibrate_memory(Calibration *c, HardwareModel *model)
{
    TRY(note_slots(c, model));
    TRY(note_coefficients(c, &model->memory));
    TRY(note_activations(c));
    return c->config->n_moe_layers > 0 ? calibrate_static_memory(c) : OK;
}
