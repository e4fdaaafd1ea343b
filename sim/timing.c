#include "sim/timing.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "sim/timing_parts.h"

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ---- opening ---- */

static const char *const MODE_NAMES[] = {[STEP_FIRST] = "first",
                                         [STEP_CAPTURED] = "capture",
                                         [STEP_REPEATED] = "graph",
                                         [STEP_QUEUED] = "queued"};

static Status find_tables(Timing *timing)
{
    const OpCosts *costs = &timing->costs;
    char shape[300];
    TRY(op_costs_find(costs, "issue/load", "", &timing->refs.issue_load));
    TRY(op_costs_find(costs, "issue/await", "", &timing->refs.issue_await));
    TRY(op_costs_find(costs, "end/load", "", &timing->refs.end_load));
    TRY(op_costs_find(costs, "sync", "", &timing->refs.sync));
    TRY(op_costs_find(costs, "before/load", "", &timing->refs.before_load));
    TRY(op_costs_find(costs, "after/load", "", &timing->refs.after_load));
    TRY(op_costs_find(costs, "throttle", "", &timing->refs.throttle));
    TRY(op_costs_find(costs, "decide", "", &timing->refs.decide));
    TRY(op_costs_find(costs, "wake", "", &timing->refs.wake));
    TRY(op_costs_find(costs, "copy/h2d", "", &timing->refs.h2d));
    TRY(op_costs_find(costs, "copy/d2h", "", &timing->refs.d2h));
    TRY(op_costs_find(costs, "stamp", "", &timing->refs.stamp));
    for (StepMode mode = STEP_FIRST; mode <= STEP_QUEUED; mode++) {
        snprintf(shape, sizeof shape, "%s %s", costs->model->name, MODE_NAMES[mode]);
        TRY(op_costs_find(costs, "step/rest", shape, &timing->refs.rest[mode]));
    }
    return op_costs_find(costs, "memory/activations", costs->model->name,
                         &timing->refs.activations);
}

static uint64_t constant(Timing *timing, const CostRef *ref)
{
    const CostPoint nowhere = {0};
    return op_costs_ns(&timing->costs, ref, &nowhere, &timing->costs.other);
}

/* ... which not every backend has. */
static uint64_t constant_if_known(Timing *timing, const CostRef *ref)
{
    return ref->table != COSTS_NONE ? constant(timing, ref) : 0;
}

static void price_constants(Timing *timing)
{
    if (!timing->one_thread && timing->options.plan->buffer.on) {
        timing->issue_load_ns = constant(timing, &timing->refs.issue_load);
        timing->issue_await_ns = constant(timing, &timing->refs.issue_await);
        timing->wake_ns = constant(timing, &timing->refs.wake);
    }
    timing->end_load_ns = constant_if_known(timing, &timing->refs.end_load);
    timing->sync_ns = constant_if_known(timing, &timing->refs.sync);
    timing->before_load_ns = constant_if_known(timing, &timing->refs.before_load);
    timing->after_load_ns = constant_if_known(timing, timing->refs.after_load.table != COSTS_NONE
                                                          ? &timing->refs.after_load
                                                          : &timing->refs.sync);
    timing->throttle_ns = constant_if_known(timing, &timing->refs.throttle);
    if (timing->options.stamped)
        timing->stamp_ns = constant(timing, &timing->refs.stamp);
}

/* Device bytes of a slot of LAYER, from the profile; else the expert's own. */
static uint64_t slot_bytes_of(const Timing *timing, const TraceLayer *layer)
{
    const HardwareModel *model = timing->costs.model;
    for (uint32_t i = 0; i < model->n_slots; i++)
        if (model->slots[i].layer == layer->layer)
            return model->slots[i].slot_bytes;
    return layer->expert_bytes;
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
    if (plan->link.h2d_gb_per_s > 0)
        layer->load_ns =
            (uint64_t)((double)of->expert_bytes / plan->link.h2d_gb_per_s) + timing->throttle_ns;
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
        *most_slots = slots > *most_slots ? slots : *most_slots;
        widest = later(widest, timing->layers[i].slot_bytes);
        timing->slot_bytes =
            shared ? slots * widest : timing->slot_bytes + slots * timing->layers[i].slot_bytes;
        timing->n_experts += options->layers[i].experts;
        for (uint32_t e = 0; options->plan->buffer.on && e < options->layers[i].experts; e++) {
            bool is_there = buffer_slot_of(buffer, i, e) != BUFFER_NO_SLOT;
            timing->n_initial += is_there;
            timing->initial_bytes += is_there ? timing->layers[i].slot_bytes : 0;
        }
    }
    if (!options->plan->buffer.on)
        timing->initial_bytes = timing->slot_bytes;
    buffer_free(buffer);
    return OK;
}

static Status make_layers(Timing *timing)
{
    const TimingOptions *options = &timing->options;
    uint32_t most_slots;
    uint32_t most_experts = 1;
    for (uint32_t i = 0; i < options->n_layers; i++) {
        TRY(price_loads(timing, &timing->layers[i], &options->layers[i]));
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

static bool is_played(const Timing *timing, const StepOp *op)
{
    return op->op != OP_EXPERTS && (op->op != OP_HEAD || timing->options.logits);
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
            timing->count[stack][op->price] += is_played(timing, op);
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
    if (options->plan->gating.mode == GATING_STATIC)
        return fail(ERR_UNSUPPORTED,
                    "plan: gating.mode: static: hardware profiles have no costs of it");
    TRY(op_costs_new(options->hardware, options->model, &timing->costs));
    TRY(mem_new(&timing->layers, options->n_layers, sizeof *timing->layers, "simulated layers"));
    TRY(check_layers(timing));
    TRY(find_tables(timing));
    timing->one_thread = strcmp(options->hardware->backend, "cpu") == 0;
    price_constants(timing);
    TRY(make_layers(timing));
    TRY(count_ops(timing));
    timing_reset(timing);
    return OK;
}

Status timing_new(const TimingOptions *options, Timing **out)
{
    Timing *timing;
    TRY(mem_new(&timing, 1, sizeof *timing, "simulated time"));
    timing->options = *options;
    Status status = open_timing(timing);
    if (status != OK) {
        timing_free(timing);
        return status;
    }
    *out = timing;
    return OK;
}

void timing_free(Timing *timing)
{
    if (timing == NULL)
        return;
    for (uint32_t i = 0; timing->layers != NULL && i < timing->options.n_layers; i++)
        mem_free(timing->layers[i].prefetch);
    mem_free(timing->layers);
    mem_free(timing->slot_used);
    mem_free(timing->rows_of);
    mem_free(timing->shapes);
    mem_free(timing->captured);
    mem_free(timing->ops);
    mem_free(timing->residency);
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++) {
        mem_free(timing->count[stack]);
        mem_free(timing->added_ns[stack]);
    }
    mem_free(timing->layer_ns);
    mem_free(timing->layer_sum);
    op_costs_free(&timing->costs);
    mem_free(timing);
}

void timing_reset(Timing *timing)
{
    timing->n_resident = timing->n_initial;
    timing->resident_bytes = timing->initial_bytes;
    timing->peak_in_use = (TimingMemory){0};
    timing->settled = !timing->options.plan->buffer.on;
    timing->flush = 1;
    timing->number = 0;
    timing->host_ns = 0;
    timing->copy_ns = 0;
    timing->rest_ns = 0;
    timing->n_shapes = 0;
    for (uint32_t i = 0; i < timing->options.n_layers && timing->options.plan->buffer.on; i++)
        memset(timing->layers[i].prefetch, 0,
               timing->options.layers[i].experts * sizeof *timing->layers[i].prefetch);
    memset(timing->phases, 0, sizeof timing->phases);
    memset(timing->op_ns, 0, sizeof timing->op_ns);
    memset(timing->layer_ns, 0, timing->n_model_layers * sizeof *timing->layer_ns);
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        memset(timing->added_ns[stack], 0,
               timing->costs.n_prices * sizeof *timing->added_ns[stack]);
}

/* ---- a step ---- */

/* Adds up all operations of the step but its experts. */
static void add_step(Timing *timing)
{
    Stack stack = timing->step.stack;
    for (uint32_t i = 0; i < timing->costs.n_prices; i++) {
        uint64_t ns = timing->costs.prices[i].gpu_ns + timing->stamp_ns;
        timing->added_ns[stack][i] += ns;
        timing->gpu_ns += ns * timing->count[stack][i];
    }
}

Status timing_begin(Timing *timing, const StepFeatures *step, uint64_t earliest_ns)
{
    timing->step = *step;
    timing->number++;
    timing->at = 0;
    timing->start_ns = later(timing->host_ns, earliest_ns);
    timing->host_ns = timing->start_ns;
    timing->gpu_ns = timing->start_ns;
    timing->stamp_at_ns = timing->start_ns;
    timing->prefetched_ns = 0;
    timing->out = (StepTime){.start_ns = timing->start_ns};
    if (!timing->settled && timing->holds_all && timing->n_resident == timing->n_experts)
        timing->settled = true;
    timing->waits = !timing->settled;
    timing->mode = STEP_QUEUED;
    if (!timing->waits)
        TRY(timing_step_mode(timing, step, &timing->mode));
    op_costs_price(&timing->costs, step, timing->waits && !timing->one_thread,
                   timing->options.forced);
    timing->adds = !timing->waits && !timing->options.records;
    if (timing->adds)
        add_step(timing);
    return OK;
}

/* Notes that OP has run since the last stamp. */
static Status stamp(Timing *timing, const StepOp *op)
{
    uint64_t ns = timing->gpu_ns - timing->stamp_at_ns;
    timing->op_ns[op->op] += ns;
    timing->layer_ns[op->layer] += ns;
    if (timing->options.records) {
        TRY(mem_grow(&timing->ops, &timing->op_room, timing->out.n_ops, sizeof *timing->ops,
                     "simulated operations"));
        timing->ops[timing->out.n_ops++] = (TimingRecord){
            .layer = op->layer, .op = op->op, .start_ns = timing->stamp_at_ns, .duration_ns = ns};
    }
    timing->stamp_at_ns = timing->gpu_ns;
    return OK;
}

/* Runs NS on the compute stream, queued by the host where no graph does it. */
static void run_op(Timing *timing, const StepOp *op, uint64_t ns)
{
    ns += timing->stamp_ns;
    if (timing->one_thread) {
        timing->host_ns += ns;
        timing->gpu_ns = timing->host_ns;
        return;
    }
    if (timing->waits) {
        timing->host_ns += timing->costs.prices[op->price].issue_ns;
        timing->gpu_ns = later(timing->gpu_ns, timing->host_ns);
    }
    timing->gpu_ns += ns;
}

static Status play(Timing *timing, const StepOp *op)
{
    if (!is_played(timing, op))
        return OK;
    run_op(timing, op, timing->costs.prices[op->price].gpu_ns);
    return stamp(timing, op);
}

/* Plays all operations before the experts of LAYER, and says which they are; NULL: to the end. */
static Status play_until(Timing *timing, const uint32_t *layer, const StepOp **experts)
{
    const StepOp *ops = timing->costs.ops[timing->step.stack];
    uint32_t n = timing->costs.n_ops[timing->step.stack];
    for (; timing->at < n; timing->at++) {
        const StepOp *op = &ops[timing->at];
        *experts = op;
        if (layer != NULL && op->op == OP_EXPERTS && op->layer == *layer)
            return OK;
        TRY(play(timing, op));
    }
    if (layer != NULL)
        return fail(ERR_INPUT,
                    "hardware profile: model %s: layer %u: its experts are not in the order of the "
                    "trace",
                    timing->costs.model->name, *layer);
    return OK;
}

static ExpertWork work_of(const TimingEvent *event)
{
    ExpertWork work = {.active = event->n, .rows = event->n, .load = event->n};
    if (event->rows == NULL)
        return work;
    work = (ExpertWork){0};
    for (uint32_t i = 0; i < event->n; i++)
        expert_work_add(&work, event->rows[i]);
    return work;
}

/* The experts of an event of a step that is added up. */
static void add_event(Timing *timing, const TimingEvent *event)
{
    const LayerTime *layer = &timing->layers[event->layer_index];
    const ExpertWork work = work_of(event);
    uint64_t ns = op_costs_experts(&timing->costs, layer->price, &work, false) + timing->stamp_ns;
    timing->gpu_ns += ns;
    timing->op_ns[OP_EXPERTS] += ns;
    timing->layer_ns[layer->layer] += ns;
}

Status timing_event(Timing *timing, const TimingEvent *event, const BufferAction *actions,
                    uint32_t n_actions)
{
    const StepOp *experts = NULL;
    if (timing->adds) {
        add_event(timing, event);
        return OK;
    }
    TRY(play_until(timing, &timing->options.layers[event->layer_index].layer, &experts));
    timing->at++;
    if (timing->waits) {
        TRY(timing_experts(timing, event, actions, n_actions, experts->price));
        timing->gpu_ns += timing->stamp_ns;
    } else {
        const ExpertWork work = work_of(event);
        run_op(timing, experts, op_costs_experts(&timing->costs, experts->price, &work, false));
    }
    return stamp(timing, experts);
}

/* What a step takes besides its operations; may be negative. */
static int64_t rest_of(Timing *timing)
{
    CostPoint point = {0};
    const CostRef *ref = &timing->refs.rest[timing->mode];
    const SpanGroup *one = &timing->step.groups[SPANS_ONE];
    const SpanGroup *several = &timing->step.groups[SPANS_SEVERAL];
    double requests = timing->step.requests;
    point.at[AXIS_REQUESTS] = requests;
    point.at[AXIS_TOKENS] = timing->step.tokens / requests;
    point.at[AXIS_CONTEXT] = (double)(one->context + several->context) / requests;
    if (ref->table == COSTS_NONE)
        ref = &timing->refs.rest[STEP_REPEATED];
    return (int64_t)op_costs_at(&timing->costs, ref, &point, &timing->costs.other);
}

static uint64_t activations_of(Timing *timing, uint32_t tokens)
{
    CostUse ignored = {0};
    CostPoint point = {0};
    if (timing->activation_tokens == tokens)
        return timing->activation_bytes;
    point.at[AXIS_TOKENS] = tokens;
    timing->activation_tokens = tokens;
    timing->activation_bytes =
        op_costs_ns(&timing->costs, &timing->refs.activations, &point, &ignored);
    return timing->activation_bytes;
}

static void count_memory(Timing *timing)
{
    const HardwareMemory *memory = &timing->costs.model->memory;
    TimingMemory *in_use = &timing->out.in_use;
    *in_use = (TimingMemory){
        .weights = memory->weights_bytes,
        .slots = timing->resident_bytes,
        .caches = (uint64_t)(memory->position_bytes * (double)timing->step.positions),
        .activations = activations_of(timing, timing->step.tokens)};
    in_use->total = in_use->weights + in_use->slots + in_use->caches + in_use->activations;
    if (in_use->total > timing->peak_in_use.total)
        timing->peak_in_use = *in_use;
}

static void count_step(Timing *timing)
{
    PhaseTime *phase = &timing->phases[timing->step.phase];
    const StepTime *step = &timing->out;
    phase->steps++;
    phase->tokens += timing->step.tokens;
    phase->ns += step->duration_ns;
    phase->exposed_load_ns += step->exposed_load_ns;
    phase->load_ns += step->load_ns;
    phase->loads += step->loads;
    phase->bytes_loaded += step->bytes_loaded;
}

Status timing_end(Timing *timing, StepTime *step)
{
    const StepOp *last;
    if (!timing->adds)
        TRY(play_until(timing, NULL, &last));
    if (timing->one_thread)
        timing->host_ns = timing->gpu_ns;
    uint64_t end_ns = later(timing->gpu_ns, timing->prefetched_ns);
    if (!timing->one_thread)
        end_ns = later(end_ns, timing->host_ns);
    if (timing->waits)
        end_ns += timing->wake_ns + timing->end_load_ns * timing->out.loads;
    int64_t rest_ns = rest_of(timing);
    int64_t duration_ns = (int64_t)(end_ns - timing->start_ns) + rest_ns;
    timing->out.duration_ns = duration_ns > 0 ? (uint64_t)duration_ns : 0;
    timing->host_ns = timing->start_ns + timing->out.duration_ns;
    timing->rest_ns += timing->host_ns > timing->gpu_ns ? timing->host_ns - timing->gpu_ns : 0;
    timing->out.ops = timing->ops;
    timing->out.residency = timing->residency;
    count_memory(timing);
    count_step(timing);
    *step = timing->out;
    return OK;
}

/* ---- results ---- */

uint64_t timing_now(const Timing *timing)
{
    return timing->host_ns;
}

static void add_phase(PhaseTime *sum, const PhaseTime *more)
{
    sum->steps += more->steps;
    sum->tokens += more->tokens;
    sum->ns += more->ns;
    sum->exposed_load_ns += more->exposed_load_ns;
    sum->load_ns += more->load_ns;
    sum->loads += more->loads;
    sum->bytes_loaded += more->bytes_loaded;
}

/* Puts what was added up to the operations and layers that it is of. */
static void spread_added(const Timing *timing, uint64_t op_ns[OPS])
{
    memcpy(timing->layer_sum, timing->layer_ns, timing->n_model_layers * sizeof *timing->layer_ns);
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        for (uint32_t i = 0; i < timing->costs.n_ops[stack]; i++) {
            const StepOp *op = &timing->costs.ops[stack][i];
            if (!is_played(timing, op))
                continue;
            op_ns[op->op] += timing->added_ns[stack][op->price];
            timing->layer_sum[op->layer] += timing->added_ns[stack][op->price];
        }
}

TimingTotals timing_totals(const Timing *timing)
{
    TimingTotals totals = {.peak_in_use = timing->peak_in_use,
                           .rest_ns = timing->rest_ns,
                           .layer_ns = timing->layer_sum,
                           .n_model_layers = timing->n_model_layers,
                           .other_use = timing->costs.other};
    for (Phase phase = PHASE_PREFILL; phase <= PHASE_MIXED; phase++) {
        totals.phases[phase] = timing->phases[phase];
        add_phase(&totals.total, &timing->phases[phase]);
    }
    memcpy(totals.op_ns, timing->op_ns, sizeof totals.op_ns);
    spread_added(timing, totals.op_ns);
    memcpy(totals.op_use, timing->costs.use, sizeof totals.op_use);
    return totals;
}

TimingMemory timing_memory(const Timing *timing, const TraceFeatures *features)
{
    const HardwareMemory *memory = &timing->costs.model->memory;
    CostUse ignored = {0};
    CostPoint point = {0};
    double requests = features->max_requests;
    double length = features->max_length;
    point.at[AXIS_TOKENS] = features->max_tokens;
    TimingMemory out = {
        .weights = memory->weights_bytes,
        .slots = timing->slot_bytes,
        .caches = (uint64_t)(memory->position_bytes * requests * length +
                             memory->request_bytes * requests + memory->length_bytes * length),
        .activations = op_costs_ns(&timing->costs, &timing->refs.activations, &point, &ignored)};
    out.total = out.weights + out.slots + out.caches + out.activations;
    return out;
}
