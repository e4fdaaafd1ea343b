/* What a simulation of time looks up once: what the profile says of the model's operations, the
 * slots of the plan, and the memory for it. */
#include <string.h>

#include "base/memory.h"
#include "sim/timing_parts.h"

/* Device bytes of a slot of LAYER, from the profile; else the expert's own. */
static uint64_t slot_bytes_of(const Timing *timing, const TraceLayer *layer)
{
    const HardwareModel *model = timing->costs.model;
    for (uint32_t i = 0; i < model->n_slots; i++)
        if (model->slots[i].layer == layer->layer)
            return model->slots[i].slot_bytes;
    return layer->expert_bytes;
}

/* The parts of a prefetch that is held back: one after the other on an idle link. */
static void price_parts(Timing *timing, LayerTime *layer)
{
    CostPoint point = {0};
    layer->holds_back = link_holds_back(layer->slot_bytes, timing->options.plan->link.h2d_gb_per_s);
    layer->parts = link_parts(layer->slot_bytes);
    point.at[AXIS_BYTES] = (double)layer->slot_bytes / layer->parts;
    layer->part_ns = op_costs_ns(&timing->costs, &timing->refs.h2d, &point, &timing->costs.other);
    if (layer->asked_ns > 0)
        layer->part_ns = throttled(timing, layer->asked_ns / layer->parts, layer->part_ns);
}

static Status price_loads(Timing *timing, LayerTime *layer, const TraceLayer *of)
{
    const Plan *plan = timing->options.plan;
    CostPoint point = {0};
    CostRef busy;
    layer->layer = of->layer;
    layer->slot_bytes = slot_bytes_of(timing, of);
    if (!plan->buffer.on)
        return OK;
    point.at[AXIS_BYTES] = (double)layer->slot_bytes;
    TRY(op_costs_find(&timing->costs, "copy/h2d-busy", "", &busy));
    layer->copy_ns = op_costs_ns(&timing->costs, &timing->refs.h2d, &point, &timing->costs.other);
    layer->copy_busy_ns = layer->copy_ns;
    if (busy.table != COSTS_NONE)
        layer->copy_busy_ns = op_costs_ns(&timing->costs, &busy, &point, &timing->costs.other);
    if (plan->link.h2d_gb_per_s > 0) {
        layer->asked_ns = (uint64_t)((double)of->expert_bytes / plan->link.h2d_gb_per_s);
        layer->load_ns = throttled(timing, layer->asked_ns, layer->copy_ns);
    }
    if (plan->compute.mode != COMPUTE_ON_GPU)
        TRY(mem_new(&layer->host_read, of->experts, sizeof *layer->host_read, "simulated experts"));
    if (plan->compute.mode != COMPUTE_ON_GPU)
        TRY(mem_new(&layer->host_read_ns, of->experts, sizeof *layer->host_read_ns,
                    "simulated experts"));
    layer->together = !timing->one_thread && layer->slot_bytes <= LOADED_TOGETHER_BYTES;
    layer->puts_off = !link_holds_back(layer->slot_bytes, plan->link.h2d_gb_per_s);
    if (plan_prefetches(plan))
        price_parts(timing, layer);
    return mem_new(&layer->prefetch, of->experts, sizeof *layer->prefetch, "simulated loads");
}

/* The slots that the plan gives, their memory, and who is in them from the start. */
static Status count_slots(Timing *timing, uint32_t *most_slots)
{
    const TimingOptions *options = &timing->options;
    bool shared = options->plan->buffer.on && options->plan->buffer.scope == SCOPE_DEVICE;
    ExpertBuffer *buffer;
    uint64_t widest = 0;
    TRY(buffer_new(options->plan, options->layers, options->n_layers, &buffer));
    uint32_t staging = buffer_uses_staging(buffer) ? 1 : 0;
    *most_slots = 1;
    for (uint32_t i = 0; i < options->n_layers; i++) {
        uint32_t slots = options->plan->buffer.on ? buffer_slots(buffer, i) + staging
                                                  : options->layers[i].experts;
        if (options->layers[i].experts == 0)
            continue;
        timing->layers[i].slots = slots;
        *most_slots = slots > *most_slots ? slots : *most_slots;
        widest = later(widest, timing->layers[i].slot_bytes);
        timing->slot_bytes =
            shared ? slots * widest : timing->slot_bytes + slots * timing->layers[i].slot_bytes;
        timing->n_experts += options->layers[i].experts;
        for (uint32_t e = 0; options->plan->buffer.on && e < options->layers[i].experts; e++) {
            bool is_there = buffer_slot_of(buffer, i, e) != BUFFER_NO_SLOT;
            timing->n_initial += is_there;
            timing->layers[i].residents += is_there;
            timing->initial_bytes += is_there ? timing->layers[i].slot_bytes : 0;
        }
    }
    if (!options->plan->buffer.on)
        timing->initial_bytes = timing->slot_bytes;
    timing->plain_to = buffer_plain_to(buffer);
    timing->bypasses = buffer_uses_staging(buffer);
    buffer_free(buffer);
    return OK;
}

/* Loads of LAYER cost what those of OTHER do, and so do experts. */
static bool is_like(const LayerTime *layer, const LayerTime *other)
{
    return layer->price == other->price && layer->slot_bytes == other->slot_bytes &&
           layer->asked_ns == other->asked_ns;
}

static void find_kind(Timing *timing, uint32_t index)
{
    LayerTime *layer = &timing->layers[index];
    for (layer->kind = 0; !is_like(layer, &timing->layers[layer->kind]);)
        layer->kind++;
}

/* Whether the stack of MoE layer I has another one so many further on. */
static bool reaches(const TimingOptions *options, uint32_t i, uint32_t distance)
{
    return distance > 0 && distance < options->n_layers - i &&
           options->layers[i + distance].stack == options->layers[i].stack;
}

/* The price of the router of MoE layer I, which is asked ahead. */
static Status find_asked(const Timing *timing, uint32_t i, uint32_t *price)
{
    const OpCosts *costs = &timing->costs;
    const TraceLayer *layer = &timing->options.layers[i];
    for (uint32_t n = 0; n < costs->n_ops[layer->stack]; n++) {
        const StepOp *op = &costs->ops[layer->stack][n];
        if (op->op != OP_ROUTE || op->layer != layer->layer)
            continue;
        *price = op->price;
        return costs->prices[op->price].predict.table != COSTS_NONE
                   ? OK
                   : timing_lacks(timing, "gpu/predict", costs->model->ops[layer->stack][n].shape);
    }
    return fail(ERR_INPUT, "hardware profile: model %s: layer %u has no router", costs->model->name,
                layer->layer);
}

static Status make_layers(Timing *timing)
{
    const TimingOptions *options = &timing->options;
    bool ahead = plan_prefetches(options->plan);
    uint32_t most_slots;
    uint32_t most_experts = 1;
    for (uint32_t i = 0; i < options->n_layers; i++) {
        timing->layers[i].predicts = reaches(options, i, timing->distance);
        if (timing->layers[i].predicts)
            TRY(find_asked(timing, i + timing->distance, &timing->layers[i].asked));
        timing->layers[i].loads_ahead =
            ahead && reaches(options, i, options->plan->prefetch.distance);
        TRY(price_loads(timing, &timing->layers[i], &options->layers[i]));
        find_kind(timing, i);
        if (options->layers[i].experts > most_experts)
            most_experts = options->layers[i].experts;
    }
    TRY(count_slots(timing, &most_slots));
    TRY(mem_new(&timing->slot_used, (size_t)most_slots + 1, sizeof *timing->slot_used,
                "simulated slots"));
    TRY(mem_new(&timing->rows_of, most_experts, sizeof *timing->rows_of, "simulated experts"));
    timing->holds_all = options->plan->buffer.on &&
                        plan_holds_all(options->plan, options->layers, options->n_layers);
    return OK;
}

/* Finds the experts of LAYER in the list of operations from *FIRST on, which then is past them. */
static bool find_experts(const OpCosts *costs, const TraceLayer *layer, uint32_t *first,
                         uint32_t *price)
{
    for (uint32_t i = *first; i < costs->n_ops[layer->stack]; i++) {
        const StepOp *op = &costs->ops[layer->stack][i];
        *price = op->price;
        *first = i + 1;
        if (op->op == OP_EXPERTS && op->layer == layer->layer)
            return true;
    }
    return false;
}

/* The trace routes to no experts that LAYER of the profile's model lacks. */
static Status check_experts(const HardwareModel *model, const TraceLayer *layer)
{
    for (uint32_t i = 0; i < model->n_slots; i++)
        if (model->slots[i].layer == layer->layer && model->slots[i].experts < layer->experts)
            return fail(ERR_INPUT,
                        "hardware profile: model %s: layer %u has %u experts, the trace has %u",
                        model->name, layer->layer, model->slots[i].experts, layer->experts);
    return OK;
}

/* The profile's model and the trace have the same MoE layers in the same order. */
static Status check_layers(Timing *timing)
{
    const OpCosts *costs = &timing->costs;
    uint32_t first[2] = {0}; /* by Stack */
    uint32_t n = 0;
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        for (uint32_t i = 0; i < costs->n_ops[stack]; i++)
            n += costs->ops[stack][i].op == OP_EXPERTS;
    for (uint32_t i = 0; i < timing->options.n_layers; i++) {
        const TraceLayer *layer = &timing->options.layers[i];
        if (!find_experts(costs, layer, &first[layer->stack], &timing->layers[i].price))
            return fail(ERR_INPUT,
                        "hardware profile: model %s: layer %u has no experts there, or not in the "
                        "order of the trace",
                        costs->model->name, layer->layer);
    }
    if (n != timing->options.n_layers)
        return fail(ERR_INPUT, "hardware profile: model %s: %u MoE layers, the trace has %u",
                    costs->model->name, n, timing->options.n_layers);
    for (uint32_t i = 0; i < timing->options.n_layers; i++)
        TRY(check_experts(costs->model, &timing->options.layers[i]));
    return OK;
}

/* How many layers the model has, and how many operations of each price a step. */
static Status count_ops(Timing *timing)
{
    const OpCosts *costs = &timing->costs;
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++) {
        TRY(mem_new(&timing->count[stack], costs->n_prices, sizeof *timing->count[stack],
                    "simulated operations"));
        TRY(mem_new(&timing->added_ns[stack], costs->n_prices, sizeof *timing->added_ns[stack],
                    "simulated operations"));
        for (uint32_t i = 0; i < costs->n_ops[stack]; i++) {
            const StepOp *op = &costs->ops[stack][i];
            timing->count[stack][op->price] += timing_is_played(timing, op);
            if (op->layer >= timing->n_model_layers)
                timing->n_model_layers = op->layer + 1;
        }
    }
    TRY(mem_new(&timing->layer_sum, timing->n_model_layers, sizeof *timing->layer_sum,
                "simulated layers"));
    return mem_new(&timing->layer_ns, timing->n_model_layers, sizeof *timing->layer_ns,
                   "simulated layers");
}

static Status open_timing(Timing *timing)
{
    const TimingOptions *options = &timing->options;
    TRY(op_costs_new(options->hardware, options->model, options->plan, &timing->costs));
    TRY(mem_new(&timing->layers, options->n_layers, sizeof *timing->layers, "simulated layers"));
    TRY(check_layers(timing));
    timing->one_thread = strcmp(options->hardware->backend, "cpu") == 0;
    timing->distance = plan_needs_signals(options->plan).distance;
    timing->costs.predicts = timing->distance > 0;
    timing->costs.holds = options->stamped || options->plan->buffer.on;
    timing->prefetches = !timing->one_thread && plan_prefetches(options->plan);
    TRY(timing_find_tables(timing));
    TRY(make_layers(timing));
    TRY(count_ops(timing));
    TRY(runs_open(timing));
    for (uint32_t i = 0; i < options->n_layers && timing->link == NULL; i++)
        if (timing->layers[i].holds_back)
            TRY(link_open(timing));
    timing->n_resident = timing->n_initial;
    timing->resident_bytes = timing->initial_bytes;
    timing->settled = !options->plan->buffer.on;
    timing->flush = 1;
    return OK;
}

Status timing_new(const TimingOptions *options, Timing **out)
{
    Timing *timing;
    TRY(mem_new(&timing, 1, sizeof *timing, "simulated time"));
    timing->options = *options;
    Status status =
        options->plan->placement.ranks > 1 ? timing_ranks_open(timing) : open_timing(timing);
    if (status != OK) {
        timing_free(timing);
        return status;
    }
    *out = timing;
    return OK;
}

static void free_layer(const LayerTime *layer)
{
    mem_free(layer->prefetch);
    mem_free(layer->host_read_ns);
    mem_free(layer->host_read);
}

void timing_free(Timing *timing)
{
    if (timing == NULL)
        return;
    for (uint32_t i = 0; timing->layers != NULL && i < timing->options.n_layers; i++)
        free_layer(&timing->layers[i]);
    mem_free(timing->layers);
    mem_free(timing->slot_used);
    mem_free(timing->rows_of);
    mem_free(timing->shapes);
    mem_free(timing->next_mode);
    mem_free(timing->ops);
    mem_free(timing->residency);
    engine_free(timing->link);
    mem_free(timing->ahead);
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++) {
        mem_free(timing->count[stack]);
        mem_free(timing->added_ns[stack]);
    }
    mem_free(timing->runs);
    mem_free(timing->layer_ns);
    mem_free(timing->layer_sum);
    timing_ranks_close(timing);
    op_costs_free(&timing->costs);
    mem_free(timing);
}
