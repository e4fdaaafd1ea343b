/* What routing is like, layer by layer and without any policy: how many experts an event needs, how
 * unevenly they share the work, how soon they are needed again, and which are needed together. */
#ifndef ANALYSIS_CHARACTERISE_H
#define ANALYSIS_CHARACTERISE_H

#include "base/number_text.h"
#include "traces/packed.h"

enum {
    CORRELATED_EXPERTS = 1024, /* of a layer at most: its pairs are counted in a square */
    REUSE_WITHINS = 4
};
/* Reuse is told as shares that come within so many events of the layer. */
extern const uint32_t REUSE_WITHIN[REUSE_WITHINS];

/* Of one layer; shares are 0 where nothing is there to be shared. */
typedef struct {
    uint64_t events;      /* that need at least one expert */
    uint64_t lookups;     /* (event, expert needed) */
    uint64_t assignments; /* (token, slot) that were not dropped */
    uint64_t *load;       /* [experts] of these, by expert id; NULL in the total */
    uint32_t used;        /* experts that any event needs */
    double active;        /* share of the experts that an event needs, in the mean */
    double busiest_tenth; /* share of the assignments that the busiest tenth of the experts gets */
    double effective_experts; /* (sum n)^2 / sum n^2 of the assignments n of every expert */
    double again; /* share of the lookups whose expert the event before needed, after the first */
    uint64_t reuses;                    /* lookups of experts that an earlier event needed */
    double reuse_events;                /* how many events before that was, in the mean */
    double reuse_within[REUSE_WITHINS]; /* share of the reuses */
    uint64_t pairs;                     /* of experts, each needed by some events and not by all */
    double correlation;                 /* mean over the pairs of |Pearson's r| of being needed */
    double most_correlation;            /* the largest r, of */
    uint32_t most_pair[2];              /* these experts, ascending; ties go to the lower */
    double waste_factor; /* rows of static gating whose capacity drops nothing over assignments */
} LayerCharacter;

typedef struct {
    uint32_t n_layers;
    LayerCharacter *layers; /* [n_layers] of the trace */
    LayerCharacter total;   /* what adds up over the layers; correlation and used are left 0 */
} Character;

/* Of the steps of PHASE, or of all where ALL_PHASES. Freed with character_free(). */
enum { ALL_PHASES = -1 };
Status characterise(const PackedTrace *trace, int phase, Character *character);
void character_free(Character *character);

/* How many experts an event of LAYER needs, in the mean; 0 without events. */
double character_needed(const LayerCharacter *layer);

/* What tables say of LAYER, in this order: events, experts an event needs, active, busiest_tenth,
 * effective_experts, again, reuse_events. */
enum { CHARACTER_TEXTS = 7 };
void character_texts(const LayerCharacter *layer, char texts[CHARACTER_TEXTS][NUMBER_BYTES]);

#endif
