#include "exec/calibrate.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "exec/calibrate_parts.h"

enum {
    MOST_REQUESTS = 64,
    MOST_LENGTH = 4096 + 256,
    MOST_TOKENS = 1 << 14,
    BUFFERED_LENGTH = 2048,
    BUFFERED_TOKENS = 4096,
    QUICK_REQUESTS = 8,
    QUICK_LENGTH = 256,
    QUICK_TOKENS = 512,
    STATIC_LENGTH = 256,
    STATIC_TOKENS = 1024,
    FEW_LAYERS = 6 /* whose experts are measured, at the least */
};

/* Appends the operations of a step of STACK, as the executor stamps them. */
static Status describe_stack(Calibration *c, Stack stack, HardwareModel *model)
{
    const StepKind kind = {.stack = stack, .requests = 1, .tokens = 1};
    StepOutput output;
    double ns;
    TRY(calibration_step(c, &kind, true, &output, &ns));
    TRY(mem_new(&model->ops[stack], output.n_timing, sizeof *model->ops[stack], "calibration"));
    model->n_ops[stack] = (uint32_t)output.n_timing;
    for (uint32_t i = 0; i < output.n_timing; i++) {
        HardwareOp *op = &model->ops[stack][i];
        op->layer = output.timing[i].layer;
        op->op = output.timing[i].op;
        calibrate_shape(c->config, op->layer, op->op, c->compute, op->shape);
    }
    return OK;
}

static Status describe_model(Calibration *c)
{
    HardwareModel *model;
    TRY(hardware_add_model(c->hardware, c->model, &model));
    snprintf(model->compute, sizeof model->compute, "%s", c->compute);
    model->measured_layers = c->config->n_layers;
    TRY(describe_stack(c, STACK_DECODER, model));
    if (model_is_encoder_decoder(c->config))
        TRY(describe_stack(c, STACK_ENCODER, model));
    TRY(calibrate_memory(c, model));
    snprintf(c->hardware->device, sizeof c->hardware->device, "%s", executor_device(c->executor));
    snprintf(c->hardware->backend, sizeof c->hardware->backend, "%s", c->options->device);
    if (c->options->known != NULL)
        return fail_in(hardware_check_merge(c->options->known, c->hardware), "%s",
                       c->options->known_path);
    return OK;
}

/* What the largest steps of a grid need. */
typedef struct {
    uint32_t requests;
    uint32_t length;
    uint32_t tokens;
} Room;

static Room room_of(const Calibration *c, bool buffered)
{
    if (c->options->quick)
        return (Room){QUICK_REQUESTS, QUICK_LENGTH, QUICK_TOKENS};
    return buffered ? (Room){MOST_REQUESTS, BUFFERED_LENGTH, BUFFERED_TOKENS}
                    : (Room){MOST_REQUESTS, MOST_LENGTH, MOST_TOKENS};
}

/* Masks are large. */
static Room static_room(const Calibration *c)
{
    Room room = room_of(c, false);
    room.length = room.length < STATIC_LENGTH ? room.length : STATIC_LENGTH;
    room.tokens = room.tokens < STATIC_TOKENS ? room.tokens : STATIC_TOKENS;
    return room;
}

/* Opens MODEL under PLAN with the room that its grid needs. */
static Status open_model(Calibration *c, const char *model, const Plan *plan)
{
    const Room room = room_of(c, plan->buffer.on);
    return calibration_open(c, model, plan, room.requests, room.length, room.tokens);
}

/* Every expert in place. */
static Status open_resident(Calibration *c, const char *model)
{
    const Plan plan = plan_default();
    return open_model(c, model, &plan);
}

const CostTable *calibration_table(const Calibration *c, const char *name, const char *shape)
{
    const Hardware *profile[] = {c->hardware, c->options->known};
    for (size_t i = 0; i < COUNT(profile); i++) {
        const CostTable *table =
            profile[i] != NULL ? hardware_table(profile[i], name, shape) : NULL;
        if (table != NULL && table->n_points > 0)
            return table;
    }
    return NULL;
}

bool calibration_knows(const Calibration *c, const char *name, const char *shape)
{
    return calibration_table(c, name, shape) != NULL;
}

/* What models of the same shapes have left in the profile is not measured again. */
static void look_for_known(Calibration *c)
{
    const HardwareModel *model = hardware_model(c->hardware, c->model);
    c->knows_ops = calibration_knows(c, "host/copy", "");
    c->knows_static = c->knows_queue = true;
    for (int stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        for (uint32_t i = 0; i < model->n_ops[stack]; i++) {
            const HardwareOp *op = &model->ops[stack][i];
            char name[48];
            snprintf(name, sizeof name, "gpu/%s", op_name(op->op));
            c->knows_ops = c->knows_ops && calibration_knows(c, name, op->shape);
            if (op->op != OP_EXPERTS)
                continue;
            c->knows_static = c->knows_static && calibration_knows(c, "mask/experts", op->shape);
            c->knows_queue = c->knows_queue && calibration_knows(c, "issue/experts", op->shape);
        }
}

static Status measure_whole(Calibration *c)
{
    TRY(open_resident(c, c->model));
    Status status = describe_model(c);
    if (status == OK)
        look_for_known(c);
    if (status == OK)
        status = calibrate_stamp(c);
    if (status == OK)
        status = calibrate_whole(c);
    if (status == OK)
        status = calibrate_between(c);
    calibration_close(c);
    return status;
}

/* True when the first LAYERS layers of CONFIG have a MoE layer of the decoder. */
static bool have_experts(const ModelConfig *config, uint32_t layers)
{
    for (uint32_t i = config->n_encoder_layers;
         i < config->n_layers && i < config->n_encoder_layers + layers; i++)
        if (config->layers[i].moe)
            return true;
    return false;
}

/* The model with as few layers that it is quickly run and small, LEAST or more, of which some have
 * experts; as it is, where it cannot be cut. */
static Status find_few(const Calibration *c, uint32_t least, char name[512])
{
    Checkpoint *checkpoint;
    snprintf(name, 512, "%s", c->model);
    if (!checkpoint_is_shape(c->model))
        return OK;
    TRY(checkpoint_open_model(c->model, &checkpoint));
    const ModelConfig *config = checkpoint_config(checkpoint);
    uint32_t all = config->n_layers - config->n_encoder_layers;
    uint32_t few = least;
    while (few < all && !have_experts(config, few))
        few++;
    if (few < all) {
        size_t length = strcspn(c->model + strlen("shape:"), ":") + strlen("shape:");
        snprintf(name, 512, "%.*s:%s%u", (int)length, c->model,
                 model_is_encoder_decoder(config) ? "1+" : "", few);
    }
    checkpoint_close(checkpoint);
    return OK;
}

/* The executor makes room for the copies. */
static Status measure_copies(Calibration *c)
{
    executor_close(c->executor);
    c->executor = NULL;
    return calibrate_copies(c);
}

static Status measure_few(Calibration *c, const char *few)
{
    if (c->knows_ops) {
        c->done += c->few_total;
        return OK;
    }
    TRY(open_resident(c, few));
    Status status = calibrate_ops(c);
    if (status == OK)
        status = calibrate_experts(c);
    if (status == OK)
        status = measure_copies(c);
    calibration_close(c);
    return status == OK ? calibration_settle(c) : status;
}

/* The whole model with a buffer, whose experts lie in host memory too; where that is short, FEW. */
static Status open_buffered(Calibration *c, const char *few)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = c->max_experts - 1;
    Status status = open_model(c, c->model, &plan);
    if (status != ERR_MEMORY)
        return status;
    error_clear();
    return open_model(c, few, &plan);
}

/* Of few layers, since the host is slow; a model that cannot be cut is taken whole. What the
 * profile has of such experts is measured again: others use the host's memory as well, and how fast
 * it is differs from minute to minute. */
static Status measure_host(Calibration *c, const char *few)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.slots = 1;
    plan.compute.mode = COMPUTE_ON_HOST;
    TRY(calibration_settle(c));
    TRY(open_model(c, few, &plan));
    Status status = calibrate_host(c);
    calibration_close(c);
    return status;
}

/* Of few MoE layers. */
static Status measure_static(Calibration *c, const char *one)
{
    const Plan plan = calibration_static_plan();
    if (c->knows_static) {
        c->done += c->static_total;
        return OK;
    }
    const Room room = static_room(c);
    TRY(calibration_open(c, one, &plan, room.requests, room.length, room.tokens));
    Status status = calibrate_static(c);
    calibration_close(c);
    return status;
}

static Status measure_buffered(Calibration *c, const char *few)
{
    uint64_t end = c->done + c->queue_total;
    if (c->max_experts < 2)
        return OK;
    TRY(open_buffered(c, few));
    Status status = calibrate_queue(c);
    calibration_close(c);
    c->done = end; /* what the profile knows was left out */
    return status;
}

/* How many kinds of steps there will be, if the device has room for all. */
static Status count(Calibration *c)
{
    const Room room = room_of(c, false);
    TRY(checkpoint_open_model(c->model, &c->checkpoint));
    c->config = checkpoint_config(c->checkpoint);
    c->max_requests = room.requests;
    c->max_length = room.length;
    c->max_tokens = room.tokens;
    if (c->max_length > c->config->max_positions)
        c->max_length = c->config->max_positions;
    c->counting = true;
    Status status = calibrate_stamp(c);
    if (status == OK)
        status = calibrate_whole(c);
    if (status == OK)
        status = calibrate_between(c);
    c->few_total = c->total;
    if (status == OK)
        status = calibrate_ops(c);
    if (status == OK)
        status = calibrate_experts(c);
    if (status == OK)
        status = calibrate_copies(c);
    c->few_total = c->total - c->few_total;
    c->max_tokens = room_of(c, true).tokens;
    c->queue_total = c->total;
    if (status == OK)
        status = calibrate_queue(c);
    c->queue_total = c->total - c->queue_total;
    if (status == OK)
        status = calibrate_host(c);
    c->static_total = c->total;
    const Room fixed = static_room(c);
    c->max_tokens = fixed.tokens;
    c->max_length = c->max_length < fixed.length ? c->max_length : fixed.length;
    if (status == OK && c->config->n_moe_layers > 0)
        status = calibrate_static(c);
    c->static_total = c->total - c->static_total;
    c->max_experts = c->config->max_experts;
    c->counting = false;
    calibration_close(c);
    return status;
}

Status calibrate_model(const CalibrateOptions *options, const char *model, Hardware *hardware,
                       WholeSteps *whole)
{
    Calibration c = {.options = options,
                     .hardware = hardware,
                     .whole = whole,
                     .model = model,
                     .compute = executor_compute_name(options->device, options->compute)};
    char few[512];
    char one[512];
    if (strlen(model) > CALIBRATE_NAME_BYTES)
        return fail(ERR_INPUT, "%s: the name is longer than %d bytes", model, CALIBRATE_NAME_BYTES);
    calibration_open_quiet(&c);
    Status status = count(&c);
    if (status == OK)
        status = find_few(&c, FEW_LAYERS, few);
    if (status == OK)
        status = find_few(&c, 1, one);
    if (status == OK)
        status = measure_whole(&c);
    if (status == OK)
        status = measure_few(&c, few);
    if (status == OK)
        status = measure_buffered(&c, few);
    if (status == OK && c.max_experts > 0)
        status = measure_host(&c, few);
    if (status == OK && c.max_experts > 0)
        status = measure_static(&c, one);
    if (status == OK)
        status = calibration_settle(&c);
    if (status == OK)
        calibration_note_host(&c);
    calibration_free(&c);
    return status;
}
