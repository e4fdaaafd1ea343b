/* Reading the signals of traces. */
#include "policies/signals_load.h"

#include <string.h>

#include "base/json.h"

/* True when run.notes say that scores are not those of every expert, by id. */
static Status keeps_largest(const TraceRun *run, const char *path, bool *largest)
{
    cJSON *json;
    JsonAt at;
    JsonAt m;
    *largest = false;
    if (run->notes == NULL || run->notes[0] == '\0')
        return OK;
    TRY(json_parse(run->notes, strlen(run->notes), path, &json));
    JsonAt root = json_root(json, path);
    *largest = json_find(&root, "scores", &at) && json_find(&at, "m", &m);
    cJSON_Delete(json);
    return OK;
}

/* Of STEP, which SHARDS has just given, at every distance that is needed. */
static Status add_predictions(TraceShards *shards, const char *path, const TraceStep *step,
                              TraceSignals *signals)
{
    size_t n;
    const uint32_t *distances = trace_signals_distances(signals, &n);
    for (size_t i = 0; i < n; i++) {
        const uint16_t *predicted;
        const uint16_t *weights;
        TRY(trace_shards_prediction(shards, distances[i], &predicted, &weights));
        TRY(trace_signals_add_predictions(signals, path, step, i, predicted, weights));
    }
    return OK;
}

static Status add_steps(TraceShards *shards, TraceSignals *signals)
{
    const char *path = NULL; /* of the shard being read */
    bool largest = false;
    for (;;) {
        TraceStep step;
        Status status = trace_shards_next_step(shards, &step);
        if (status != OK)
            return status == STATUS_END ? OK : status;
        if (path != trace_shards_path(shards)) {
            path = trace_shards_path(shards);
            TRY(keeps_largest(trace_shards_run(shards), path, &largest));
        }
        if (largest)
            step.scores = NULL;
        TRY(trace_signals_add_step(signals, path, &step));
        TRY(add_predictions(shards, path, &step, signals));
    }
}

static Status add_rebatched(TraceShards *shards, const Batching *batching, TraceSignals *signals)
{
    Rebatch *rebatch;
    TraceStep step;
    TRY(rebatch_open(shards, batching, NULL, &rebatch));
    Status status = OK;
    while (status == OK) {
        status = rebatch_next_step(rebatch, &step);
        if (status == OK)
            status = trace_signals_add_step(signals, "trace", &step);
    }
    rebatch_close(rebatch);
    return status == STATUS_END ? OK : status;
}

Status trace_signals_load(const char *const *paths, size_t count, const Batching *batching,
                          const SignalNeeds *needs, size_t n_needs, TraceSignals **out)
{
    TraceShards *shards;
    TraceSignals *signals = NULL;
    uint32_t n_layers;
    bool as_recorded = batching->mode == BATCHING_AS_RECORDED;
    for (size_t i = 0; i < n_needs && !as_recorded; i++)
        if (needs[i].scores || needs[i].distance > 0)
            return fail(ERR_PLAN, "batching.mode: regrouped tokens have no router scores and no "
                                  "predictions, which the plan asks for");
    TRY(trace_shards_open(paths, count, &shards));
    const TraceLayer *layers = trace_shards_layers(shards, &n_layers);
    Status status = trace_signals_new(layers, n_layers, needs, n_needs, &signals);
    if (status == OK)
        status =
            as_recorded ? add_steps(shards, signals) : add_rebatched(shards, batching, signals);
    trace_shards_close(shards);
    if (status == OK)
        *out = signals;
    else
        trace_signals_free(signals);
    return status;
}
