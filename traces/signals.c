#include "traces/signals.h"

#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/memory.h"

/* An array that grows. */
typedef struct {
    void *data;
    size_t used;
    size_t room;
} Growing;

/* The predictions of one distance. */
typedef struct {
    Growing counts;    /* uint16_t, predicted experts of each event that predicts */
    Growing predicted; /* uint16_t */
    Growing weights;   /* uint64_t, of each predicted */
} Predictions;

struct TraceSignals {
    bool requests_needed;
    bool scores_needed;
    uint32_t *distances; /* [n_distances] */
    Predictions *sets;   /* [n_distances] */
    size_t n_distances;
    ScoreSource source;
    TraceLayer *layers; /* [n_layers] */
    uint32_t n_layers;
    StackSpan spans[2]; /* by Stack */
    uint64_t *sums;     /* [experts of the widest layer] scratch */
    Growing tokens;     /* uint32_t, of each step */
    Growing stacks;     /* uint8_t, of each step */
    Growing requests;   /* uint32_t, of each token */
    Growing routing;    /* uint16_t */
    Growing scores;     /* uint32_t */
};

/* Room for COUNT more elements of SIZE bytes; *AT points to it. */
static Status grow(Growing *array, size_t count, size_t size, void *at)
{
    TRY(mem_reserve(&array->data, &array->room, array->used, count, size, "signals"));
    void *first = (unsigned char *)array->data + array->used * size;
    memcpy(at, &first, sizeof first);
    array->used += count;
    return OK;
}

uint64_t signal_value(uint16_t half)
{
    uint32_t exponent = half >> 10 & 0x1F;
    uint64_t fraction = half & 0x3FF;
    if (half & 0x8000)
        return 0;
    if (exponent == 0x1F)
        return fraction == 0 ? UINT64_C(65504) << 24 : 0; /* infinity as the largest number */
    return exponent == 0 ? fraction : (fraction | 0x400) << (exponent - 1);
}

void signals_mean(const uint16_t *scores, uint32_t tokens, uint32_t experts, uint32_t *means)
{
    for (uint32_t e = 0; e < experts; e++) {
        uint64_t sum = 0; /* of at most 2^24 values below 2^40 */
        for (uint32_t t = 0; t < tokens; t++)
            sum += signal_value(scores[(size_t)t * experts + e]);
        sum /= tokens;
        means[e] = sum < UINT32_MAX ? (uint32_t)sum : UINT32_MAX;
    }
}

uint32_t signals_predicted(const uint16_t *experts, const uint16_t *weights, size_t n,
                           uint32_t n_experts, uint64_t *sums, uint16_t *predicted,
                           uint64_t *predicted_weights)
{
    uint32_t count = 0;
    memset(sums, 0, n_experts * sizeof *sums);
    for (size_t i = 0; i < n; i++)
        if (experts[i] != EXPERT_DROPPED)
            sums[experts[i]] += 1 + signal_value(weights[i]);
    for (uint32_t e = 0; e < n_experts; e++) {
        if (sums[e] == 0)
            continue;
        predicted[count] = (uint16_t)e;
        predicted_weights[count++] = sums[e];
    }
    return count;
}

static bool has_distance(const TraceSignals *signals, uint32_t distance, size_t *i)
{
    for (*i = 0; *i < signals->n_distances; ++*i)
        if (signals->distances[*i] == distance)
            return true;
    return false;
}

static Status add_needs(TraceSignals *signals, const SignalNeeds *needs, size_t n_needs)
{
    TRY(mem_new(&signals->distances, n_needs, sizeof *signals->distances, "signals"));
    TRY(mem_new(&signals->sets, n_needs, sizeof *signals->sets, "signals"));
    for (size_t n = 0; n < n_needs; n++) {
        size_t i;
        signals->requests_needed |= needs[n].requests;
        signals->scores_needed |= needs[n].scores;
        if (needs[n].distance > 0 && !has_distance(signals, needs[n].distance, &i))
            signals->distances[signals->n_distances++] = needs[n].distance;
    }
    return OK;
}

static Status fill_new(TraceSignals *signals, const TraceLayer *layers)
{
    uint32_t widest = layers_max_experts(layers, signals->n_layers);
    TRY(mem_new(&signals->layers, signals->n_layers, sizeof *layers, "signals"));
    memcpy(signals->layers, layers, signals->n_layers * sizeof *layers);
    signals->spans[STACK_DECODER] = layers_span(layers, signals->n_layers, STACK_DECODER);
    signals->spans[STACK_ENCODER] = layers_span(layers, signals->n_layers, STACK_ENCODER);
    return mem_new(&signals->sums, widest, sizeof *signals->sums, "signals");
}

Status trace_signals_new(const TraceLayer *layers, uint32_t n_layers, const SignalNeeds *needs,
                         size_t n_needs, TraceSignals **out)
{
    TraceSignals *signals;
    TRY(mem_new(&signals, 1, sizeof *signals, "signals"));
    signals->n_layers = n_layers;
    Status status = fill_new(signals, layers);
    if (status == OK)
        status = add_needs(signals, needs, n_needs);
    if (status == OK)
        *out = signals;
    else
        trace_signals_free(signals);
    return status;
}

void trace_signals_free(TraceSignals *signals)
{
    if (signals == NULL)
        return;
    mem_free(signals->layers);
    mem_free(signals->sums);
    mem_free(signals->tokens.data);
    mem_free(signals->stacks.data);
    mem_free(signals->requests.data);
    mem_free(signals->routing.data);
    mem_free(signals->scores.data);
    for (size_t i = 0; i < signals->n_distances; i++) {
        mem_free(signals->sets[i].counts.data);
        mem_free(signals->sets[i].predicted.data);
        mem_free(signals->sets[i].weights.data);
    }
    mem_free(signals->sets);
    mem_free(signals->distances);
    mem_free(signals);
}

static Status add_requests(TraceSignals *signals, const TraceStep *step)
{
    uint32_t *request = NULL;
    uint16_t *routing = NULL;
    size_t ids = step->tokens * signals->spans[step->stack].top_k;
    TRY(grow(&signals->requests, step->tokens, sizeof *request, &request));
    memcpy(request, step->request, step->tokens * sizeof *request);
    TRY(grow(&signals->routing, ids, sizeof *routing, &routing));
    memcpy(routing, step->experts, ids * sizeof *routing);
    return OK;
}

/* The mean weights of a layer's experts. */
static void mean_weights(TraceSignals *signals, const TraceLayer *layer, uint32_t tokens,
                         const uint16_t *experts, const float *weights, uint32_t *means)
{
    memset(signals->sums, 0, layer->experts * sizeof *signals->sums);
    for (size_t i = 0; i < (size_t)tokens * layer->top_k; i++)
        if (experts[i] != EXPERT_DROPPED)
            signals->sums[experts[i]] += signal_value(f16_from_f32(weights[i]));
    for (uint32_t e = 0; e < layer->experts; e++) {
        uint64_t mean = signals->sums[e] / tokens;
        means[e] = mean < UINT32_MAX ? (uint32_t)mean : UINT32_MAX;
    }
}

static size_t score_count(const TraceSignals *signals, const TraceStep *step)
{
    StackSpan span = signals->spans[step->stack];
    size_t count = 0;
    for (uint32_t i = span.first; i < span.first + span.count; i++)
        count += (size_t)step->tokens * signals->layers[i].experts;
    return count;
}

/* All steps must have their scores from the same place: a mixture compares nothing. */
static Status choose_source(TraceSignals *signals, const char *file, const TraceStep *step)
{
    bool router = step->scores != NULL && step->score_count == score_count(signals, step);
    if (signals->source == SCORES_UNKNOWN)
        signals->source = router ? SCORES_OF_ROUTER : SCORES_OF_WEIGHTS;
    if (signals->source == SCORES_OF_ROUTER ? router : step->weights != NULL)
        return OK;
    return fail(ERR_INPUT, "%s: step %u: it has no %s", file, step->step,
                signals->source == SCORES_OF_ROUTER
                    ? "router scores of all experts, which steps before have"
                    : "router scores of all experts, and no weights: evict ema-score takes "
                      "either (record --scores all keeps scores)");
}

static Status add_scores(TraceSignals *signals, const char *file, const TraceStep *step)
{
    StackSpan span = signals->spans[step->stack];
    const uint16_t *scores = step->scores;
    const uint16_t *experts = step->experts;
    const float *weights = step->weights;
    TRY(choose_source(signals, file, step));
    for (uint32_t i = span.first; i < span.first + span.count; i++) {
        const TraceLayer *layer = &signals->layers[i];
        uint32_t *means = NULL;
        TRY(grow(&signals->scores, layer->experts, sizeof *means, &means));
        if (signals->source == SCORES_OF_ROUTER) {
            signals_mean(scores, step->tokens, layer->experts, means);
            scores += (size_t)step->tokens * layer->experts;
            continue;
        }
        mean_weights(signals, layer, step->tokens, experts, weights, means);
        experts += (size_t)step->tokens * layer->top_k;
        weights += (size_t)step->tokens * layer->top_k;
    }
    return OK;
}

static Status add_prediction(Predictions *set, uint64_t *scratch, const TraceLayer *layer,
                             uint32_t tokens, const uint16_t *experts, const uint16_t *weights)
{
    uint16_t *count = NULL;
    uint16_t *predicted = NULL;
    uint64_t *sums = NULL;
    size_t ids = (size_t)tokens * layer->top_k;
    size_t most = ids < layer->experts ? ids : layer->experts;
    TRY(grow(&set->counts, 1, sizeof *count, &count));
    TRY(grow(&set->predicted, most, sizeof *predicted, &predicted));
    TRY(grow(&set->weights, most, sizeof *sums, &sums));
    *count = (uint16_t)signals_predicted(experts, weights, ids, layer->experts, scratch, predicted,
                                         sums);
    set->predicted.used -= most - *count;
    set->weights.used -= most - *count;
    return OK;
}

const uint32_t *trace_signals_distances(const TraceSignals *signals, size_t *n)
{
    *n = signals->n_distances;
    return signals->distances;
}

Status trace_signals_add_predictions(TraceSignals *signals, const char *file, const TraceStep *step,
                                     size_t number, const uint16_t *experts,
                                     const uint16_t *weights)
{
    uint32_t distance = signals->distances[number];
    StackSpan ahead = layers_ahead(signals->layers, signals->spans[step->stack], distance);
    if (ahead.count > 0 && experts == NULL)
        return fail(ERR_INPUT,
                    "%s: step %u: it has no predictions %u MoE layers ahead (record "
                    "--predictions %u makes them)",
                    file, step->step, distance, distance);
    for (uint32_t i = ahead.first; i < ahead.first + ahead.count; i++) {
        size_t ids = (size_t)step->tokens * signals->layers[i].top_k;
        TRY(add_prediction(&signals->sets[number], signals->sums, &signals->layers[i], step->tokens,
                           experts, weights));
        experts += ids;
        weights += ids;
    }
    return OK;
}

Status trace_signals_add_step(TraceSignals *signals, const char *file, const TraceStep *step)
{
    uint32_t *tokens = NULL;
    uint8_t *stack = NULL;
    TRY(grow(&signals->tokens, 1, sizeof *tokens, &tokens));
    TRY(grow(&signals->stacks, 1, sizeof *stack, &stack));
    *tokens = step->tokens;
    *stack = (uint8_t)step->stack;
    if (signals->requests_needed)
        TRY(add_requests(signals, step));
    return signals->scores_needed ? add_scores(signals, file, step) : OK;
}

bool trace_signals_have(const TraceSignals *signals, const SignalNeeds *needs)
{
    size_t i;
    if (signals == NULL)
        return !signals_needed(needs);
    return (!needs->requests || signals->requests_needed) &&
           (!needs->scores || signals->scores_needed) &&
           (needs->distance == 0 || has_distance(signals, needs->distance, &i));
}

const char *score_source_name(ScoreSource source)
{
    static const char *const NAMES[] = {
        [SCORES_UNKNOWN] = "none", [SCORES_OF_ROUTER] = "router", [SCORES_OF_WEIGHTS] = "weights"};
    return NAMES[source];
}

ScoreSource trace_signals_source(const TraceSignals *signals)
{
    return signals->source;
}

static uint32_t crc_of(uint32_t crc, const Growing *array, size_t size)
{
    return array->used > 0 ? crc32c(crc, array->data, array->used * size) : crc;
}

bool trace_signals_digest(const TraceSignals *signals, size_t i, char *word, size_t room,
                          uint32_t *crc)
{
    size_t first = (size_t)signals->scores_needed + signals->requests_needed;
    if (i == 0 && signals->scores_needed) {
        snprintf(word, room, "scores");
        *crc = crc_of(0, &signals->scores, sizeof(uint32_t));
        return true;
    }
    if (i < first) {
        snprintf(word, room, "requests");
        *crc = crc_of(crc_of(0, &signals->requests, sizeof(uint32_t)), &signals->routing,
                      sizeof(uint16_t));
        return true;
    }
    if (i - first >= signals->n_distances)
        return false;
    const Predictions *set = &signals->sets[i - first];
    snprintf(word, room, "predictions%u", signals->distances[i - first]);
    *crc =
        crc_of(crc_of(crc_of(0, &set->counts, sizeof(uint16_t)), &set->predicted, sizeof(uint16_t)),
               &set->weights, sizeof(uint64_t));
    return true;
}

SignalsCursor signals_cursor(const TraceSignals *signals, const SignalNeeds *needs)
{
    SignalsCursor cursor = {.signals = signals, .needs = *needs};
    has_distance(signals, needs->distance, &cursor.set);
    return cursor;
}

/* To the first layer of the next step. */
static void begin_step(SignalsCursor *cursor)
{
    const TraceSignals *signals = cursor->signals;
    const uint32_t *tokens = signals->tokens.data;
    const uint8_t *stacks = signals->stacks.data;
    if (cursor->step > 0)
        cursor->request += tokens[cursor->step - 1];
    StackSpan span = signals->spans[stacks[cursor->step++]];
    cursor->layer = span.first;
    cursor->end = span.first + span.count;
}

static void take_predicted(SignalsCursor *cursor, EventSignals *event)
{
    const Predictions *set = &cursor->signals->sets[cursor->set];
    const uint16_t *counts = set->counts.data;
    event->n_predicted = counts[cursor->prediction++];
    event->predicted = (const uint16_t *)set->predicted.data + cursor->predicted;
    event->predicted_weights = (const uint64_t *)set->weights.data + cursor->predicted;
    cursor->predicted += event->n_predicted;
}

void signals_next(SignalsCursor *cursor, EventSignals *event)
{
    const TraceSignals *signals = cursor->signals;
    const SignalNeeds *needs = &cursor->needs;
    if (cursor->layer == cursor->end)
        begin_step(cursor);
    const TraceLayer *layer = &signals->layers[cursor->layer];
    *event = (EventSignals){.tokens = ((const uint32_t *)signals->tokens.data)[cursor->step - 1]};
    if (needs->requests) {
        event->request = (const uint32_t *)signals->requests.data + cursor->request;
        event->routing = (const uint16_t *)signals->routing.data + cursor->routing;
        cursor->routing += (size_t)event->tokens * layer->top_k;
    }
    if (needs->scores) {
        event->scores = (const uint32_t *)signals->scores.data + cursor->score;
        cursor->score += layer->experts;
    }
    if (needs->distance > 0 && needs->distance < cursor->end - cursor->layer)
        take_predicted(cursor, event);
    cursor->layer++;
}
