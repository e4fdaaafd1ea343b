#include "sim/timed_serve.h"

#include "base/memory.h"
#include "sim/ranked_replay.h"
#include "traces/layers.h"

typedef struct {
    Timing *timing;
    PackedTrace *trace;   /* that grows by each step */
    Replay *replay;       /* of it, by one rank or without a buffer, */
    RankedReplay *ranked; /* ... or by several with one */
    FeaturesBuilder *features;
    uint32_t *rows; /* [most experts of a layer] */
    StepObserver observer;
    void *argument;
} Server;

static Status play_event(void *argument, const PackedEvent *event, const BufferAction *actions,
                         uint32_t n_actions)
{
    const Server *server = argument;
    return timing_packed_event(server->timing, event, actions, n_actions, server->rows);
}

static Status play_ranks(void *argument, const PackedEvent *event, const RankDecision *decided)
{
    const Server *server = argument;
    return timing_event_split(server->timing, event->layer_index, decided);
}

static Status play_step(void *argument, const TraceStep *step, uint64_t start_ns,
                        uint64_t *duration_ns)
{
    Server *server = argument;
    const StepFeatures *features;
    StepTime time;
    TRY(packed_trace_add_step(server->trace, step));
    TRY(features_builder_add(server->features, step, &features));
    TRY(timing_begin(server->timing, features, start_ns));
    TRY(server->ranked != NULL ? ranked_replay_go_on(server->ranked)
                               : replay_go_on(server->replay));
    TRY(timing_end(server->timing, &time));
    *duration_ns = time.duration_ns + timing_between(server->timing);
    return server->observer != NULL ? server->observer(server->argument, features, &time) : OK;
}

static Status check_plan(const Plan *plan)
{
    const SignalNeeds needs = plan_needs_signals(plan);
    if (plan->buffer.on && eviction_needs_future(plan->buffer.evict))
        return fail(ERR_PLAN,
                    "buffer.evict: \"%s\" knows the future, which with batching.mode "
                    "\"continuous\" depends on time",
                    plan->buffer.evict);
    if (signals_needed(&needs))
        return fail(ERR_PLAN,
                    "batching.mode: \"continuous\": the plan decides by scores, predictions or "
                    "requests of the trace, which other steps do not have");
    return OK;
}

static Status open_server(const Rebatch *rebatch, const Plan *plan, Server *server)
{
    const ReplayFuture none = {0};
    uint32_t n_layers;
    const TraceLayer *layers = rebatch_layers(rebatch, &n_layers);
    TRY(check_plan(plan));
    TRY(packed_trace_new(layers, n_layers, server->trace));
    TRY(mem_new(&server->rows, (size_t)layers_max_experts(layers, n_layers) + 1,
                sizeof *server->rows, "simulated experts"));
    TRY(features_builder_new(1, &server->features));
    if (plan->buffer.on && timing_split(server->timing) != NULL)
        return ranked_replay_open(server->trace, plan, &none, timing_split(server->timing),
                                  play_ranks, server, &server->ranked);
    const Plan one = plan_of_one_rank(plan);
    return replay_open(server->trace, &one, &none, play_event, server, &server->replay);
}

static uint32_t less(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* An executor is opened for the requests that are to come, not for the steps that came of them. */
static void widen_features(const Rebatch *rebatch, const Plan *plan, TraceFeatures *features)
{
    uint32_t n;
    uint64_t longest = 0;
    uint64_t longest_prompt = 1;
    const ScheduledRequest *requests = rebatch_requests(rebatch, &n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t prompt = requests[i].work[WORK_PROMPT];
        uint64_t length = prompt + requests[i].work[WORK_OUTPUT] + 1;
        longest = length > longest ? length : longest;
        longest_prompt = prompt > longest_prompt ? prompt : longest_prompt;
    }
    features->max_requests = less(plan->batching.sequences, n);
    features->max_length = less(longest, UINT32_MAX);
    features->max_tokens = less(plan->batching.max_tokens, longest_prompt * features->max_requests);
}

static PlanTime plan_time(const Timing *timing, const ServedPlan *served)
{
    const ServingReport *serving = &served->serving;
    PlanTime time = timing_plan_time(timing, &served->memory);
    time.served = true;
    time.ttft_median_ns = serving->ttft.median;
    time.ttft_p99_ns = serving->ttft.p99;
    time.tbt_median_ns = serving->tbt.median;
    time.tbt_p99_ns = serving->tbt.p99;
    return time;
}

static Status finish(const Rebatch *rebatch, const Plan *plan, Server *server, ServedPlan *served)
{
    TraceFeatures features;
    FeaturesBuilder *builder = server->features;
    server->features = NULL;
    TRY(features_builder_close(builder, &features));
    widen_features(rebatch, plan, &features);
    served->memory = timing_memory(server->timing, &features);
    trace_features_free(&features);
    if (server->ranked != NULL)
        ranked_replay_close(server->ranked, &served->result);
    else
        replay_close(server->replay, &served->result);
    if (server->replay != NULL && timing_split(server->timing) != NULL)
        served->result.memory_bytes = rank_split_bytes(timing_split(server->timing));
    server->ranked = NULL;
    server->replay = NULL;
    served->result.time = plan_time(server->timing, served);
    return OK;
}

Status timed_serve(Rebatch *rebatch, const Plan *plan, Timing *timing, const ServiceGoals *goals,
                   StepObserver observer, void *argument, ServedPlan *served)
{
    *served = (ServedPlan){0};
    Server server = {
        .timing = timing, .trace = &served->trace, .observer = observer, .argument = argument};
    Status status = open_server(rebatch, plan, &server);
    if (status == OK)
        status = serve_run(rebatch, play_step, &server, goals, &served->serving);
    if (status == OK)
        status = finish(rebatch, plan, &server, served);
    replay_close(server.replay, NULL);
    ranked_replay_close(server.ranked, NULL);
    features_builder_close(server.features, NULL);
    mem_free(server.rows);
    if (status != OK)
        served_plan_free(served);
    return status;
}

void served_plan_free(ServedPlan *served)
{
    replay_result_free(&served->result);
    packed_trace_free(&served->trace);
    *served = (ServedPlan){0};
}
