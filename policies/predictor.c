#include "policies/predictor.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define POINTER(symbol) &PREDICT_##symbol,
static const PredictorRow *const ROWS[] = {PREDICTOR_TABLE(POINTER)};
enum { N_ROWS = sizeof ROWS / sizeof ROWS[0] };

const char *predictor_forms(void)
{
    return "none, frequency, previous-step, transition, next-gate, activation-match:ENTRIES (2 to "
           "512), pre-gate, oracle:DISTANCE, "
           "synthetic:RECALL,PRECISION";
}

SignalNeeds predictor_needs_signals(const PredictorRow *row, uint32_t distance)
{
    return (SignalNeeds){.requests = row->needs_requests,
                         .distance = row->needs_predictions ? distance : 0};
}

/* A plain decimal fraction from 0 to 1; what strtod() takes besides (spaces, signs, hexadecimal
 * digits, infinities) is none. */
static bool read_share(const char **text, double *share)
{
    char *end;
    if (**text != '0' && **text != '1')
        return false;
    *share = strtod(*text, &end);
    bool plain = strspn(*text, "0123456789.") >= (size_t)(end - *text);
    *text = end;
    return plain && *share <= 1;
}

static bool read_accuracy(const char *text, PredictorChoice *choice)
{
    if (!read_share(&text, &choice->recall) || *text++ != ',')
        return false;
    return read_share(&text, &choice->precision) && *text == '\0' && choice->precision > 0;
}

static bool read_distance(const char *text, PredictorChoice *choice)
{
    size_t length = strspn(text, "0123456789");
    if (length == 0 || length > 4 || text[length] != '\0')
        return false;
    choice->distance = (uint32_t)strtoul(text, NULL, 10);
    return choice->distance >= 1 && choice->distance < TRACE_MAX_LAYERS;
}

/* The comparisons of the collection grow with its square. */
enum { LEAST_ENTRIES = 2, MOST_ENTRIES = 512 };

static bool read_entries(const char *text, PredictorChoice *choice)
{
    size_t length = strspn(text, "0123456789");
    if (length == 0 || length > 3 || text[length] != '\0')
        return false;
    choice->entries = (uint32_t)strtoul(text, NULL, 10);
    return choice->entries >= LEAST_ENTRIES && choice->entries <= MOST_ENTRIES;
}

bool predictor_choose(const char *text, PredictorChoice *choice)
{
    size_t length = strcspn(text, ":");
    *choice = (PredictorChoice){0};
    if (strcmp(text, "none") == 0)
        return true;
    for (size_t i = 0; i < N_ROWS; i++) {
        const PredictorRow *row = ROWS[i];
        if (strlen(row->name) != length || strncmp(row->name, text, length) != 0)
            continue;
        choice->row = row;
        choice->distance = row->distance;
        if (row->has_distance)
            return text[length] == ':' && read_distance(text + length + 1, choice);
        if (row->has_entries)
            return text[length] == ':' && read_entries(text + length + 1, choice);
        if (row->has_accuracy)
            return text[length] == ':' && read_accuracy(text + length + 1, choice);
        return text[length] == '\0';
    }
    return false;
}

uint32_t predictor_target(const Predictor *predictor, uint32_t layer_index)
{
    uint32_t target = layer_index + predictor->distance;
    if (target >= predictor->n_layers ||
        predictor->layers[target].stack != predictor->layers[layer_index].stack)
        return predictor->n_layers;
    return target;
}

static Status copy_layers(Predictor *predictor, const TraceLayer *layers)
{
    uint32_t n = predictor->n_layers;
    uint32_t widest = 0;
    TraceLayer *copy;
    uint32_t *first;
    TRY(mem_new(&copy, n, sizeof *copy, "predictor"));
    predictor->layers = memcpy(copy, layers, n * sizeof *copy);
    TRY(mem_new(&first, (size_t)n + 1, sizeof *first, "predictor"));
    predictor->first_object = first;
    for (uint32_t i = 0; i < n; i++) {
        first[i + 1] = first[i] + layers[i].experts;
        widest = layers[i].experts > widest ? layers[i].experts : widest;
    }
    return mem_new(&predictor->score, widest, sizeof *predictor->score, "predictor");
}

static Status make_pairs(Predictor *predictor)
{
    TRY(mem_new(&predictor->pairs, predictor->n_layers, sizeof *predictor->pairs, "predictor"));
    for (uint32_t i = 0; i < predictor->n_layers; i++) {
        uint32_t target = predictor_target(predictor, i);
        if (target == predictor->n_layers)
            continue;
        size_t pairs = (size_t)predictor->layers[i].experts * predictor->layers[target].experts;
        TRY(mem_new(&predictor->pairs[i], pairs, sizeof **predictor->pairs,
                    "predictor: pairs of experts"));
    }
    return OK;
}

static Status fill(Predictor *predictor, const TraceLayer *layers)
{
    const PredictorRow *row = predictor->choice.row;
    TRY(copy_layers(predictor, layers));
    size_t objects = predictor->first_object[predictor->n_layers];
    if (predictor->table != NULL)
        return row->check_learnt(predictor);
    if (row->needs_events)
        TRY(mem_new(&predictor->events, objects, sizeof *predictor->events, "predictor"));
    if (row->needs_last || row->needs_pairs) {
        TRY(mem_new(&predictor->last, objects, sizeof *predictor->last, "predictor"));
        TRY(mem_new(&predictor->n_last, predictor->n_layers, sizeof *predictor->n_last,
                    "predictor"));
    }
    if (row->needs_pairs)
        TRY(make_pairs(predictor));
    return row->open != NULL ? row->open(predictor) : OK;
}

Status predictor_new(const Plan *plan, const TraceLayer *layers, uint32_t n_layers, Predictor **out)
{
    PredictorChoice choice;
    Predictor *predictor;
    if (!predictor_choose(plan->prefetch.predictor, &choice) || choice.row == NULL)
        return fail(ERR_PLAN, "prefetch.predictor: \"%s\" predicts nothing",
                    plan->prefetch.predictor);
    TRY(mem_new(&predictor, 1, sizeof *predictor, "predictor"));
    predictor->choice = choice;
    predictor->distance = plan->prefetch.distance;
    predictor->n_layers = n_layers;
    predictor->table = choice.row->check_learnt != NULL ? plan->prefetch.table.table : NULL;
    Status status = fill(predictor, layers);
    if (status == OK)
        *out = predictor;
    else
        predictor_free(predictor);
    return status;
}

void predictor_free(Predictor *predictor)
{
    if (predictor == NULL)
        return;
    if (predictor->choice.row->close != NULL)
        predictor->choice.row->close(predictor);
    for (uint32_t i = 0; predictor->pairs != NULL && i < predictor->n_layers; i++)
        mem_free(predictor->pairs[i]);
    mem_free(predictor->pairs);
    mem_free(predictor->n_last);
    mem_free(predictor->last);
    mem_free(predictor->events);
    mem_free(predictor->score);
    mem_free((void *)predictor->first_object);
    mem_free((void *)predictor->layers);
    mem_free(predictor);
}

static void clear_pairs(Predictor *predictor, uint32_t layer)
{
    uint32_t target = predictor_target(predictor, layer);
    if (target == predictor->n_layers)
        return;
    size_t pairs = (size_t)predictor->layers[layer].experts * predictor->layers[target].experts;
    memset(predictor->pairs[layer], 0, pairs * sizeof **predictor->pairs);
}

void predictor_reset(Predictor *predictor, uint64_t seed)
{
    size_t objects = predictor->first_object[predictor->n_layers];
    predictor->random = seed;
    if (predictor->events != NULL)
        memset(predictor->events, 0, objects * sizeof *predictor->events);
    if (predictor->n_last != NULL)
        memset(predictor->n_last, 0, predictor->n_layers * sizeof *predictor->n_last);
    for (uint32_t i = 0; predictor->pairs != NULL && i < predictor->n_layers; i++)
        clear_pairs(predictor, i);
    if (predictor->choice.row->reset != NULL)
        predictor->choice.row->reset(predictor);
}

/* Counts the experts of EVENT with those of the layer that predicts it, of the same step. */
static void learn_pairs(Predictor *predictor, const BufferEvent *event)
{
    uint32_t layer = event->layer_index;
    if (layer < predictor->distance ||
        predictor_target(predictor, layer - predictor->distance) != layer)
        return;
    uint32_t from = layer - predictor->distance;
    const uint16_t *last = predictor->last + predictor->first_object[from];
    for (uint32_t i = 0; i < predictor->n_last[from]; i++) {
        uint32_t *pairs =
            predictor->pairs[from] + (size_t)last[i] * predictor->layers[layer].experts;
        for (uint32_t j = 0; j < event->n; j++)
            pairs[event->experts[j]] += pairs[event->experts[j]] != UINT32_MAX;
    }
}

void predictor_learn(Predictor *predictor, const BufferEvent *event)
{
    uint32_t first = predictor->first_object[event->layer_index];
    if (predictor->pairs != NULL)
        learn_pairs(predictor, event);
    if (predictor->last != NULL) {
        memcpy(predictor->last + first, event->experts, event->n * sizeof *event->experts);
        predictor->n_last[event->layer_index] = event->n;
    }
    for (uint32_t i = 0; predictor->events != NULL && i < event->n; i++)
        predictor->events[first + event->experts[i]]++;
    if (predictor->choice.row->learn != NULL)
        predictor->choice.row->learn(predictor, event);
}

/* What EVENT's step needs of layer TARGET. */
static const uint16_t *coming_of(const BufferEvent *event, uint32_t target)
{
    const uint16_t *experts = event->coming;
    for (uint32_t i = 0; i < target - event->layer_index; i++)
        experts += event->n_coming[i];
    return experts;
}

/* The N best of SCORE[n_experts]; insertion keeps EXPERTS sorted. */
static uint32_t take_best(const uint64_t *score, uint32_t n_experts, uint32_t n, uint16_t *experts)
{
    uint32_t taken = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        if (score[e] == 0 || (taken == n && (n == 0 || score[e] <= score[experts[n - 1]])))
            continue;
        uint32_t at = taken < n ? taken++ : n - 1;
        for (; at > 0 && score[experts[at - 1]] < score[e]; at--)
            experts[at] = experts[at - 1];
        experts[at] = (uint16_t)e;
    }
    return taken;
}

uint32_t predictor_predict(Predictor *predictor, const BufferEvent *event, uint32_t target,
                           uint32_t n, uint16_t *experts, uint64_t *reads)
{
    const PredictorRow *row = predictor->choice.row;
    uint32_t n_experts = predictor->layers[target].experts;
    const uint16_t *coming = row->needs_coming ? coming_of(event, target) : NULL;
    uint32_t n_coming = row->needs_coming ? event->n_coming[target - event->layer_index] : 0;
    memset(predictor->score, 0, n_experts * sizeof *predictor->score);
    if (predictor->table != NULL)
        *reads = row->predict_learnt(predictor, event, target, coming, n_coming);
    else
        *reads = row->predict(predictor, event, target, coming, n_coming);
    return take_best(predictor->score, n_experts, n, experts);
}
