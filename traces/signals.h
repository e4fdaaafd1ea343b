/* What a trace says beyond which experts were needed, for the policies that ask for it: whose
 * tokens they were, the router's scores, and predictions.
 *
 * Numbers are whole multiples of 2^-24, made from the f16 that a trace stores: exact, so that a
 * simulator that reads the trace and an executor that rounds as the recorder does see the same.
 * What is not asked for is neither read nor kept. */
#ifndef TRACES_SIGNALS_H
#define TRACES_SIGNALS_H

#include "traces/layers.h"

typedef struct {
    bool requests; /* of the tokens, and the tokens' routing */
    bool scores;
    uint32_t distance; /* of predictions; 0: none */
} SignalNeeds;

static inline bool signals_needed(const SignalNeeds *needs)
{
    return needs->requests || needs->scores || needs->distance > 0;
}

/* Of one event; what was not asked for is NULL. */
typedef struct {
    uint32_t tokens;         /* of the step */
    const uint32_t *request; /* [tokens] */
    const uint16_t *routing; /* [tokens][top_k], EXPERT_DROPPED where dropped */
    const uint32_t *scores;  /* [experts] the mean over the tokens of each expert's score */
    /* Of the layer so many MoE layers ahead, where the stack has one: the experts that were
     * predicted for any token, ascending, and the sum of their weights (and 1 for each token). */
    uint32_t n_predicted;
    const uint16_t *predicted;
    const uint64_t *predicted_weights;
} EventSignals;

/* HALF in multiples of 2^-24; what is below 0, or no number, is 0. */
uint64_t signal_value(uint16_t half);
/* SCORES [tokens][experts], f16 -> MEANS[experts], rounded down; at most UINT32_MAX. */
void signals_mean(const uint16_t *scores, uint32_t tokens, uint32_t experts, uint32_t *means);
/* EXPERTS[n] and WEIGHTS[n] (f16) of all tokens -> the N predicted of a layer of N_EXPERTS, as in
 * EventSignals. SUMS [n_experts] is scratch. */
uint32_t signals_predicted(const uint16_t *experts, const uint16_t *weights, size_t n,
                           uint32_t n_experts, uint64_t *sums, uint16_t *predicted,
                           uint64_t *predicted_weights);

/* Where scores are from: the trace's router scores, or, where it has none, the weights of the
 * chosen experts (0 for the others). */
typedef enum { SCORES_UNKNOWN, SCORES_OF_ROUTER, SCORES_OF_WEIGHTS } ScoreSource;

/* "router", "weights", or "none". */
const char *score_source_name(ScoreSource source);

/* The signals of all events of a trace. Read-only once filled, so threads may share it. */
typedef struct TraceSignals TraceSignals;

/* For all of NEEDS[n_needs], whose distances may differ. */
Status trace_signals_new(const TraceLayer *layers, uint32_t n_layers, const SignalNeeds *needs,
                         size_t n_needs, TraceSignals **signals);
void trace_signals_free(TraceSignals *signals);
/* Adds a step whose experts were checked. STEP->scores count when they are of every expert
 * ([tokens][experts] of each layer, by id). Fails with ERR_INPUT when the step lacks what is
 * needed; FILE begins the message. */
Status trace_signals_add_step(TraceSignals *signals, const char *file, const TraceStep *step);
/* The distances of predictions that are needed; [*n]. After each step its predictions are added for
 * each of them: number I of them, as trace_reader_prediction() gives them. */
const uint32_t *trace_signals_distances(const TraceSignals *signals, size_t *n);
Status trace_signals_add_predictions(TraceSignals *signals, const char *file, const TraceStep *step,
                                     size_t i, const uint16_t *predicted,
                                     const uint16_t *predicted_weights);
/* True when SIGNALS (NULL: none) are all that NEEDS asks for. */
bool trace_signals_have(const TraceSignals *signals, const SignalNeeds *needs);
ScoreSource trace_signals_source(const TraceSignals *signals);
/* Number I of the kinds of signals held: its name in WORD[room] ("scores", "predictions2") and a
 * CRC-32C over all of it. False when there are no more. */
bool trace_signals_digest(const TraceSignals *signals, size_t i, char *word, size_t room,
                          uint32_t *crc);

/* Walks the events in their order; from signals_cursor(). */
typedef struct {
    const TraceSignals *signals;
    SignalNeeds needs; /* what events bring */
    size_t set;        /* number of the distance */
    uint64_t step;     /* steps begun */
    uint32_t layer;    /* index of the next event's layer */
    uint32_t end;      /* behind the step's last layer */
    size_t request;    /* where the step's ... */
    size_t routing;    /* ... and the next event's begin */
    size_t score;
    size_t prediction;
    size_t predicted;
} SignalsCursor;

/* At the first event, bringing what NEEDS asks for, which SIGNALS have. */
SignalsCursor signals_cursor(const TraceSignals *signals, const SignalNeeds *needs);
/* The next event's; there is one. */
void signals_next(SignalsCursor *cursor, EventSignals *event);

#endif
