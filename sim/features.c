#include "sim/features.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "policies/buffer.h"
#include "traces/request_table.h"

struct FeaturesBuilder {
    TraceFeatures out;
    size_t room; /* in out.steps */
    RequestTable requests;
    uint32_t beams; /* requests that share a source, which belongs to the first */
};

typedef FeaturesBuilder Builder;

static const char NOTES[] = "run.notes";

/* The notes of a recorder say how many beams each request had. */
static Status read_beams(const TraceRun *run, uint32_t *beams)
{
    cJSON *json;
    JsonAt at;
    *beams = 1;
    if (run->notes == NULL || run->notes[0] == '\0')
        return OK;
    TRY(json_parse(run->notes, strlen(run->notes), NOTES, &json));
    JsonAt root = json_root(json, NOTES);
    Status status = json_find(&root, "beams", &at) ? json_u32(&at, 1, UINT32_MAX, beams) : OK;
    cJSON_Delete(json);
    return status;
}

static void widen(uint32_t *most, uint32_t by)
{
    *most = by > *most ? by : *most;
}

/* TOKENS tokens of REQUEST from POSITION on. */
static Status add_span(Builder *builder, uint32_t request, uint32_t position, uint32_t tokens,
                       StepFeatures *step)
{
    RequestEntry *entry;
    RequestEntry *source;
    uint64_t index = builder->out.n_steps;
    uint32_t first = builder->beams > 1 ? request - request % builder->beams : request;
    TRY(request_table_get(&builder->requests, first, &source));
    uint32_t source_length = source->source_length;
    entry = source;
    if (builder->beams > 1)
        TRY(request_table_get(&builder->requests, request, &entry));
    if (entry->length + entry->source_length == 0)
        entry->first_step = index;
    entry->last_step = index;
    uint32_t *length = step->stack == STACK_ENCODER ? &entry->source_length : &entry->length;
    entry->unseen += (int64_t)position - *length;
    *length = position + tokens;
    widen(&builder->out.max_length, *length);
    widen(&step->most_keys, *length);
    widen(&step->most_source, step->stack == STACK_DECODER ? source_length : 0);
    SpanGroup *group = &step->groups[tokens == 1 ? SPANS_ONE : SPANS_SEVERAL];
    step->requests++;
    group->requests++;
    group->tokens += tokens;
    group->context += position;
    group->source += step->stack == STACK_DECODER ? source_length : 0;
    return OK;
}

Status features_builder_add(Builder *builder, const TraceStep *step, const StepFeatures **given)
{
    TRY(mem_grow(&builder->out.steps, &builder->room, builder->out.n_steps,
                 sizeof *builder->out.steps, "features of steps"));
    StepFeatures *features = &builder->out.steps[builder->out.n_steps];
    *features = (StepFeatures){
        .step = step->step, .phase = step->phase, .stack = step->stack, .tokens = step->tokens};
    for (uint32_t i = 0, n; i < step->tokens; i += n) {
        for (n = 1; i + n < step->tokens && step->request[i + n] == step->request[i];)
            n++;
        TRY(add_span(builder, step->request[i], step->position[i], n, features));
    }
    widen(&builder->out.max_tokens, step->tokens);
    builder->out.n_steps++;
    if (given != NULL)
        *given = features;
    return OK;
}

/* What comes and goes with a step. */
typedef struct {
    int64_t requests;
    int64_t positions;
} Change;

static void note_requests(const Builder *builder, Change *changes)
{
    for (size_t i = 0; i < builder->requests.room; i++) {
        const RequestEntry *entry = &builder->requests.entries[i];
        int64_t positions = (int64_t)entry->length + entry->source_length;
        if (!entry->used || positions == 0)
            continue;
        changes[entry->first_step].requests++;
        changes[entry->first_step].positions += entry->unseen;
        changes[entry->last_step + 1].requests--;
        changes[entry->last_step + 1].positions -= positions;
    }
}

/* The most requests at a time, each from its first step to its last, and what they hold. */
static Status count_requests(Builder *builder)
{
    Change *changes; /* [steps + 1] */
    Change now = {0};
    TraceFeatures *out = &builder->out;
    TRY(mem_new(&changes, out->n_steps + 1, sizeof *changes, "requests by step"));
    note_requests(builder, changes);
    for (uint64_t i = 0; i < out->n_steps; i++) {
        now.requests += changes[i].requests;
        now.positions += changes[i].positions + out->steps[i].tokens;
        out->steps[i].positions = (uint64_t)now.positions;
        widen(&out->max_requests, (uint32_t)now.requests);
    }
    mem_free(changes);
    return OK;
}

Status features_builder_new(uint32_t beams, Builder **out)
{
    Builder *builder;
    TRY(mem_new(&builder, 1, sizeof *builder, "features of steps"));
    builder->beams = beams;
    *out = builder;
    return OK;
}

Status features_builder_close(Builder *builder, TraceFeatures *features)
{
    Status status = OK;
    if (builder == NULL)
        return OK;
    if (features != NULL)
        status = count_requests(builder);
    if (features != NULL && status == OK) {
        *features = builder->out;
        builder->out = (TraceFeatures){0};
    }
    trace_features_free(&builder->out);
    request_table_free(&builder->requests);
    mem_free(builder);
    return status;
}

/* Room for STEPS from the first on: what grows is moved, and new memory is what takes long. */
static Status reserve(Builder *builder, uint64_t steps)
{
    TraceFeatures *out = &builder->out;
    StepFeatures *room = mem_resize(NULL, (size_t)steps + 1, sizeof *room);
    if (room == NULL)
        return fail_memory("features of steps", (size_t)steps * sizeof *room);
    mem_free(out->steps);
    out->steps = room;
    builder->room = (size_t)steps + 1;
    return OK;
}

static Status take_run(void *argument, const TraceRun *run, uint64_t steps)
{
    Builder *builder = argument;
    TRY(read_beams(run, &builder->beams));
    return reserve(builder, steps);
}

static Status take_step(void *builder, const TraceStep *step)
{
    return features_builder_add(builder, step, NULL);
}

Status trace_features_load(const char *const *paths, size_t count, const Batching *batching,
                           const Plan *only, PackedTrace *trace, TraceFeatures *features)
{
    Builder *builder;
    *features = (TraceFeatures){0};
    TRY(features_builder_new(1, &builder));
    const PackedLoading loading = {.no_touches = only != NULL && !plan_needs_touches(only),
                                   .no_experts = only != NULL && !plan_needs_experts(only),
                                   .run = take_run,
                                   .step = take_step,
                                   .argument = builder};
    Status status = packed_trace_load_view(paths, count, batching, &loading, trace);
    Status closed = features_builder_close(builder, status == OK ? features : NULL);
    if (status == OK && closed != OK)
        packed_trace_free(trace);
    return status != OK ? status : closed;
}

void trace_features_free(TraceFeatures *features)
{
    mem_free(features->steps);
    *features = (TraceFeatures){0};
}
