/* Events under a placement: what each rank computes of them.
 *
 * A rank numbers the experts of a layer that it holds from 0 on, in the order of their ids: to its
 * buffer they are all there is. The tokens of an expert that several ranks hold go to them in turn,
 * from event to event, so that a copy may have none of one; the first token of a layer's first such
 * expert to its first copy, that of the next to its second, and so on, so that few tokens of many
 * experts do not all go to one rank. */
#ifndef SIM_RANK_SPLIT_H
#define SIM_RANK_SPLIT_H

#include "policies/buffer.h"
#include "policies/placement.h"

/* What a rank has of the present event. */
typedef struct {
    uint32_t n;
    uint16_t *experts; /* [n] ascending, by the rank's numbers */
    uint32_t *rows;    /* [n] */
    uint16_t *at;      /* [n] where each stands in the event */
    uint32_t sum;      /* of the rows */
} RankPart;

/* Where an expert is that one rank holds. */
typedef struct {
    uint16_t rank; /* RANK_SPLIT_SEVERAL: others do, too */
    uint16_t number;
} RankPlace;

enum { RANK_SPLIT_SEVERAL = UINT16_MAX };

/* What a rank decided of its part of an event. */
typedef struct {
    const BufferAction *actions; /* [n_actions], with the rank's numbers of experts */
    uint32_t n_actions;
} RankDecision;

typedef struct {
    uint32_t ranks;
    uint32_t n_layers;
    const TraceLayer *of; /* [n_layers] the trace's; not owned */
    const PlanTable *map;
    const PlanTable *made; /* it, where it is not the plan's; or NULL */
    uint32_t *map_at;      /* [n_layers] where each stands in it */
    TraceLayer *layers;    /* [ranks][n_layers] with a rank's experts, which may be none */
    uint32_t *held;        /* [ranks][n_layers] experts that it has */
    uint32_t *first;       /* [n_layers + 1] of a layer's experts among those of all */
    uint16_t *number;      /* [ranks][experts of all layers] that a rank gives them */
    RankPlace *places;     /* [experts of all layers] */
    uint16_t *turn;        /* the same: which copy has the next token */
    RankPart *parts;       /* [ranks] of the present event */
    uint64_t sum;          /* its assignments, */
    uint32_t fullest;      /* ... and those of the rank with most */
} RankSplit;

/* Fails as placement_map() does. PLAN's tables and LAYERS must outlive SPLIT, which
 * rank_split_close() frees, also after a failure. */
Status rank_split_open(const Plan *plan, const TraceLayer *layers, uint32_t n_layers,
                       RankSplit *split);
void rank_split_close(RankSplit *split);

static inline const TraceLayer *rank_split_layers(const RankSplit *split, uint32_t rank)
{
    return split->layers + (size_t)rank * split->n_layers;
}

/* What the experts take that the ranks hold, copies as well, by expert_bytes. */
uint64_t rank_split_bytes(const RankSplit *split);

/* Gives the ranks N experts of layer LAYER_INDEX, with ROWS tokens each (NULL: one each). */
void rank_split_event(RankSplit *split, uint32_t layer_index, uint32_t n, const uint16_t *experts,
                      const uint32_t *rows);
/* The id of the expert of layer LAYER_INDEX that is number NUMBER on RANK. */
uint16_t rank_split_expert(const RankSplit *split, uint32_t rank, uint32_t layer_index,
                           uint32_t number);

#endif
