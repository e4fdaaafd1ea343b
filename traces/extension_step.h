/* One step of a trace at a time, for the tables over routing. */
#ifndef TRACES_EXTENSION_STEP_H
#define TRACES_EXTENSION_STEP_H

#include "traces/extension.h"

/* A step that was checked, and where in it a walk over its layers stands. Blobs are SQLite's and
 * valid until the next step. */
typedef struct {
    TraceView view;
    TableRange range;
    int64_t step;
    uint32_t tokens;
    Stack stack;
    const unsigned char *request;  /* u32 [tokens] */
    const unsigned char *position; /* u32 [tokens] */
    const unsigned char *token;    /* u32 [tokens], or NULL */
    const unsigned char *experts;
    const unsigned char *weights; /* f16, or NULL */
    uint32_t next_layer;          /* index of the layer after LAYER */
    const ViewLayer *layer;
    size_t first_id; /* where LAYER's ids begin */
    size_t next_id;  /* where the next layer's do */
    bool ended;
} StepWalk;

int step_walk_open(StepWalk *walk, TraceTable *table, const TableRange *range);
void step_walk_close(StepWalk *walk);
/* To the next (step, layer) inside the range; sets ENDED behind the last. */
int step_walk_next(StepWalk *walk);

/* The I-th id of the step; EXPERT_DROPPED where dropped. */
static inline uint32_t step_walk_expert(const StepWalk *walk, size_t i)
{
    uint32_t id = view_id(&walk->view, walk->experts, i);
    return walk->view.id_bytes == 1 && id == UINT8_MAX ? EXPERT_DROPPED : id;
}

static inline uint32_t step_walk_u32(const unsigned char *words, size_t i)
{
    const unsigned char *at = words + 4 * i;
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

#endif
