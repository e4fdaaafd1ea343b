/* What the time of a trace's steps depends on besides their routing: how many tokens of how many
 * requests, and how long these are. */
#ifndef SIM_FEATURES_H
#define SIM_FEATURES_H

#include "policies/packed_view.h"
#include "policies/plan.h"

/* Requests of a step, summed up. */
typedef struct {
    uint32_t requests;
    uint32_t tokens;
    uint64_t context; /* sum over them of the tokens that they had before the step */
    uint64_t source;  /* ... of the tokens of their sources; 0: they have none */
} SpanGroup;

/* Requests with one token in the step, which are generating, and those with several: their
 * attention costs differ. */
enum { SPANS_ONE, SPANS_SEVERAL, SPAN_GROUPS };

typedef struct {
    uint32_t step; /* the trace's number */
    Phase phase;
    Stack stack;
    uint32_t tokens;
    uint32_t requests;    /* with tokens in the step */
    uint32_t most_keys;   /* of a request, its tokens in the step included */
    uint32_t most_source; /* tokens of a source that one looks at */
    uint64_t positions;   /* that all requests under way have in the caches, with those of the step;
                             known when all steps are (features_builder_close()), before that 0 */
    SpanGroup groups[SPAN_GROUPS];
} StepFeatures;

typedef struct {
    StepFeatures *steps; /* [n_steps] */
    uint64_t n_steps;
    /* What an executor must be opened for to run them. */
    uint32_t max_tokens;   /* of a step */
    uint32_t max_requests; /* at a time, each from its first step to its last */
    uint32_t max_length;   /* of a request, or of a source */
} TraceFeatures;

/* Reads PATHS[count] once, as packed_trace_load_view() does, and gives both: step I is the same.
 * With ONLY, TRACE has but what a replay of that plan looks at; NULL: all. Fails as it does. On
 * failure nothing is held. */
Status trace_features_load(const char *const *paths, size_t count, const Batching *batching,
                           const Plan *only, PackedTrace *trace, TraceFeatures *features);
void trace_features_free(TraceFeatures *features);

/* The same of steps that are given one by one. BEAMS requests share a source. */
typedef struct FeaturesBuilder FeaturesBuilder;
Status features_builder_new(uint32_t beams, FeaturesBuilder **builder);
/* *FEATURES, if not NULL, points to the step's until the next call. */
Status features_builder_add(FeaturesBuilder *builder, const TraceStep *step,
                            const StepFeatures **features);
/* Frees BUILDER (NULL: nothing); *FEATURES, unless NULL, receives the steps and what they want.
 * ERR_MEMORY: nothing is held. */
Status features_builder_close(FeaturesBuilder *builder, TraceFeatures *features);

#endif
