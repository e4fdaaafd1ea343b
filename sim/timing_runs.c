/* Operations between the experts of two MoE layers of a step that waits: they depend on nothing but
 * how far the compute stream is ahead of the host, and take as long as they did before in the same
 * step from the same distance. */
#include "sim/timing_parts.h"

#include "base/memory.h"

/* The operations of RUN are those of OTHER, layer by layer. */
static bool is_like(const Timing *timing, Stack stack, const OpRun *run, const OpRun *other)
{
    const StepOp *ops = timing->costs.ops[stack];
    if (run->n != other->n || run->n_before != other->n_before || run->stack != other->stack)
        return false;
    for (uint32_t i = 0; i < run->n; i++)
        if (ops[run->first + i].price != ops[other->first + i].price)
            return false;
    return true;
}

/* Its operations are of the layer before, first, and of the one with the experts. */
static bool is_of_two_layers(const Timing *timing, OpRun *run)
{
    const StepOp *ops = timing->costs.ops[run->stack] + run->first;
    if (run->n == 0 || run->n > RUN_OPS)
        return false;
    for (uint32_t i = 0; i < run->n; i++)
        if (ops[i].layer != ops[0].layer && ops[i].layer != ops[run->n - 1].layer)
            return false;
    while (run->n_before < run->n && ops[run->n_before].layer == ops[0].layer)
        run->n_before++;
    return true;
}

/* Finds the run that ends at the experts of LAYER, after those before FIRST. */
static OpRun run_to(const Timing *timing, const TraceLayer *layer, uint32_t first)
{
    const StepOp *ops = timing->costs.ops[layer->stack];
    OpRun run = {.stack = layer->stack, .first = first};
    while (ops[first + run.n].op != OP_EXPERTS || ops[first + run.n].layer != layer->layer)
        run.n++;
    return run;
}

Status runs_open(Timing *timing)
{
    uint32_t first[2] = {0}; /* by Stack */
    TRY(mem_new(&timing->runs, timing->options.n_layers, sizeof *timing->runs,
                "simulated operations"));
    for (uint32_t i = 0; i < timing->options.n_layers; i++) {
        const TraceLayer *layer = &timing->options.layers[i];
        OpRun run = run_to(timing, layer, first[layer->stack]);
        first[layer->stack] = run.first + run.n + 1;
        timing->layers[i].first_op = run.first;
        timing->layers[i].run = RUN_NONE;
        if (!is_of_two_layers(timing, &run))
            continue;
        uint32_t like = 0;
        while (like < timing->n_runs && !is_like(timing, run.stack, &run, &timing->runs[like]))
            like++;
        if (like == timing->n_runs)
            timing->runs[timing->n_runs++] = run;
        timing->layers[i].run = like;
    }
    return OK;
}

/* Adds to OP_NS what was repeated. */
static void count_repeats(const Timing *timing, const OpRun *run, const RunTime *time,
                          uint64_t *op_ns)
{
    const StepOp *ops = timing->costs.ops[run->stack] + run->first;
    for (uint32_t i = 0; i < run->n && time->times > 0; i++)
        op_ns[ops[i].op] += time->times * time->op_ns[i];
}

void runs_spread(const Timing *timing, uint64_t op_ns[OPS])
{
    for (uint32_t i = 0; i < timing->n_runs; i++)
        for (uint32_t j = 0; j < RUN_TIMES; j++)
            count_repeats(timing, &timing->runs[i], &timing->runs[i].times[j], op_ns);
}

/* Plays it, and notes what it took. */
static Status play_run(Timing *timing, const OpRun *run, uint32_t first, RunTime *time)
{
    uint64_t gpu_ns = timing->gpu_ns;
    uint64_t host_ns = timing->host_ns;
    uint64_t cold_ns = timing->cold_ns;
    count_repeats(timing, run, time, timing->op_ns);
    *time = (RunTime){.step = timing->number, .ahead_ns = (int64_t)(gpu_ns - host_ns)};
    for (uint32_t i = 0; i < run->n; i++) {
        uint64_t from_ns = timing->stamp_at_ns;
        TRY(timing_play(timing, &timing->costs.ops[run->stack][first + i]));
        time->op_ns[i] = timing->stamp_at_ns - from_ns;
        *(i < run->n_before ? &time->before_ns : &time->after_ns) += time->op_ns[i];
    }
    time->gpu_ns = timing->gpu_ns - gpu_ns;
    time->host_ns = timing->host_ns - host_ns;
    /* What is queued for the first time in a step comes but once. */
    if (timing->cold_ns != cold_ns)
        time->step = 0;
    return OK;
}

static void repeat_run(Timing *timing, const OpRun *run, uint32_t first, RunTime *time)
{
    const StepOp *ops = timing->costs.ops[run->stack] + first;
    timing->gpu_ns += time->gpu_ns;
    timing->host_ns += time->host_ns;
    timing->stamp_at_ns = timing->gpu_ns;
    timing->layer_ns[ops[0].layer] += time->before_ns;
    timing->layer_ns[ops[run->n - 1].layer] += time->after_ns;
    time->times++;
}

Status runs_play(Timing *timing, const LayerTime *layer, bool *played)
{
    *played = layer->run != RUN_NONE && timing->at == layer->first_op &&
              timing->stamp_at_ns == timing->gpu_ns && !timing->options.records &&
              !timing->options.stamped && !timing->one_thread && timing->distance == 0 &&
              timing->link == NULL;
    if (!*played)
        return OK;
    OpRun *run = &timing->runs[layer->run];
    uint64_t ahead_ns = timing->gpu_ns - timing->host_ns;
    RunTime *time = &run->times[ahead_ns / 64 % RUN_TIMES];
    timing->at += run->n;
    if (time->step != timing->number || time->ahead_ns != (int64_t)ahead_ns)
        return play_run(timing, run, layer->first_op, time);
    repeat_run(timing, run, layer->first_op, time);
    return OK;
}
