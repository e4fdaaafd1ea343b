#include "policies/packed_view.h"

static Status add_step(const TraceStep *step, const PackedLoading *loading, PackedTrace *trace)
{
    TRY(packed_trace_add_step(trace, step));
    return loading->step != NULL ? loading->step(loading->argument, step) : OK;
}

static Status add_shards(TraceShards *shards, const PackedLoading *loading, PackedTrace *trace)
{
    for (;;) {
        TraceStep step;
        Status status = trace_shards_next_step(shards, &step);
        if (status != OK)
            return status == STATUS_END ? OK : status;
        TRY(add_step(&step, loading, trace));
    }
}

static Status add_rebatched(TraceShards *shards, const Batching *batching,
                            const PackedLoading *loading, PackedTrace *trace)
{
    Rebatch *rebatch;
    TRY(rebatch_open(shards, batching, NULL, &rebatch));
    Status status = OK;
    while (status == OK) {
        TraceStep step;
        status = rebatch_next_step(rebatch, &step);
        if (status == OK)
            status = add_step(&step, loading, trace);
    }
    rebatch_close(rebatch);
    return status == STATUS_END ? OK : status;
}

Status packed_trace_load_view(const char *const *paths, size_t count, const Batching *batching,
                              const PackedLoading *loading, PackedTrace *trace)
{
    const PackedLoading as_it_is = {0};
    TraceShards *shards;
    uint32_t n_layers;
    *trace = (PackedTrace){0};
    loading = loading != NULL ? loading : &as_it_is;
    if (batching->mode == BATCHING_CONTINUOUS)
        return fail(ERR_PLAN, "batching.mode: \"continuous\" plays arrivals in time: it needs "
                              "--hardware (\"mixed\" regroups without time)");
    if (count == 1 && batching->mode == BATCHING_AS_RECORDED)
        return packed_trace_load_as(paths[0], loading, trace);
    TRY(trace_shards_open(paths, count, &shards));
    const TraceLayer *layers = trace_shards_layers(shards, &n_layers);
    Status status = packed_trace_new_as(layers, n_layers, loading, trace);
    if (status == OK)
        status = batching->mode == BATCHING_AS_RECORDED
                     ? add_shards(shards, loading, trace)
                     : add_rebatched(shards, batching, loading, trace);
    trace_shards_close(shards);
    if (status != OK)
        packed_trace_free(trace);
    return status;
}
