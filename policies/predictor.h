/* The table of prefetch predictors: one file and one row each. Inside policies/ only.
 *
 * When the routing of layer L of a step is known, a predictor gives every expert of layer
 * L + distance of the same step a score: 0 means it is not expected, more means sooner. It sees the
 * active sets of the events so far and its own state (the oracles also what comes), never
 * residency, a clock or a device; so a prediction depends on routing and on the plan's seed alone.
 * Numbers are whole, so that every build ranks alike. */
#ifndef POLICIES_PREDICTOR_H
#define POLICIES_PREDICTOR_H

#include "policies/buffer.h"

/* A plan's prefetch.predictor, taken apart. */
typedef struct {
    const struct PredictorRow *row; /* NULL: none */
    uint32_t distance;              /* that the name fixes; 0: the plan's */
    double recall;                  /* synthetic */
    double precision;
    uint32_t entries; /* activation-match: requests that it remembers */
} PredictorChoice;

/* What the events so far have left behind, as far as the row asks for it. Objects are experts,
 * numbered over all layers. */
typedef struct {
    PredictorChoice choice;
    uint32_t distance;
    uint32_t n_layers;
    const TraceLayer *layers;     /* [n_layers], the predictor's own copy */
    const uint32_t *first_object; /* [n_layers + 1] */
    uint64_t *score;              /* [experts of the widest layer] the prediction */

    uint64_t *events; /* [objects] events that needed each */
    uint16_t *last;   /* [objects] by layer: the active set of its last event ... */
    uint32_t *n_last; /* [n_layers] ... and its size */
    uint32_t **pairs; /* [n_layers] of layers that can be predicted from: [experts of it][experts of
                         the predicted layer] steps that needed both */
    const PlanTable *table; /* what the plan learnt, in the place of the three above; or NULL */
    uint64_t random;        /* state of its random numbers */
    void *own;              /* the row's own state, by its functions */
} Predictor;

typedef struct PredictorRow {
    const char *name;
    bool needs_coming;      /* events bring what comes */
    bool needs_requests;    /* events bring signals with requests */
    bool needs_predictions; /* ... with predictions at the distance */
    bool is_whole;          /* predicts a set: all of it, unless the plan says how many */
    bool needs_events;      /* state that it reads ... */
    bool needs_last;
    bool needs_pairs;  /* ... pairs need last too */
    bool has_distance; /* the name is followed by ":DISTANCE" */
    bool has_accuracy; /* the name is followed by ":RECALL,PRECISION" */
    bool has_entries;  /* the name is followed by ":ENTRIES" */
    uint32_t distance; /* the only one it has; 0: any */
    /* Of predictor->own, where the row has such a state: makes it, gives it back (also after a
     * failed open), forgets what it learnt, and takes note of an event. */
    Status (*open)(Predictor *predictor);
    void (*close)(Predictor *predictor);
    void (*reset)(Predictor *predictor);
    void (*learn)(Predictor *predictor, const BufferEvent *event);
    /* Scores every expert of layer TARGET from EVENT; COMING[n_coming] is what its event will need,
     * where the row asks for it. PREDICTOR->score is zeroed. Returns how many numbers it read: the
     * prediction's cost. */
    uint64_t (*predict)(Predictor *predictor, const BufferEvent *event, uint32_t target,
                        const uint16_t *coming, uint32_t n_coming);
    /* The same from PREDICTOR->table, and whether that fits the layers; NULL: learns online only.
     */
    uint64_t (*predict_learnt)(Predictor *predictor, const BufferEvent *event, uint32_t target,
                               const uint16_t *coming, uint32_t n_coming);
    Status (*check_learnt)(const Predictor *predictor);
} PredictorRow;

/* policies/predict_learnt.c */
uint64_t predict_learnt_frequency(Predictor *predictor, const BufferEvent *event, uint32_t target,
                                  const uint16_t *coming, uint32_t n_coming);
uint64_t predict_learnt_transition(Predictor *predictor, const BufferEvent *event, uint32_t target,
                                   const uint16_t *coming, uint32_t n_coming);
Status predict_learnt_check_frequency(const Predictor *predictor);
Status predict_learnt_check_transition(const Predictor *predictor);

/* The table: a new predictor is one file with its PREDICT_ row, and one line here. */
#define PREDICTOR_TABLE(ROW)                                                                       \
    ROW(FREQUENCY)                                                                                 \
    ROW(PREVIOUS_STEP)                                                                             \
    ROW(TRANSITION)                                                                                \
    ROW(NEXT_GATE)                                                                                 \
    ROW(ACTIVATION_MATCH)                                                                          \
    ROW(PRE_GATE)                                                                                  \
    ROW(ORACLE)                                                                                    \
    ROW(SYNTHETIC)

#define PREDICTOR_DECLARE(symbol) extern const PredictorRow PREDICT_##symbol;
PREDICTOR_TABLE(PREDICTOR_DECLARE)
#undef PREDICTOR_DECLARE

/* Takes TEXT apart. False when it names no predictor, or its parameters are out of range. */
bool predictor_choose(const char *text, PredictorChoice *choice);
/* The signals that ROW reads at DISTANCE. */
SignalNeeds predictor_needs_signals(const PredictorRow *row, uint32_t distance);
/* What is allowed, for messages. */
const char *predictor_forms(void);

/* The state of PLAN's predictor, which is not none. */
Status predictor_new(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                     Predictor **predictor);
void predictor_free(Predictor *predictor);
void predictor_reset(Predictor *predictor, uint64_t seed);
/* Takes note of EVENT. */
void predictor_learn(Predictor *predictor, const BufferEvent *event);
/* The layer that EVENT of LAYER_INDEX predicts, or n_layers when the step has no such layer. */
uint32_t predictor_target(const Predictor *predictor, uint32_t layer_index);
/* Predicts layer TARGET: writes its N (at most) best experts, best first, ties to the lower id, to
 * EXPERTS[n] and returns their number; *READS is the cost. */
uint32_t predictor_predict(Predictor *predictor, const BufferEvent *event, uint32_t target,
                           uint32_t n, uint16_t *experts, uint64_t *reads);

#endif
