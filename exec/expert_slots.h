/* The run-time half of the expert buffer: the slots in device memory, and the loads into them.
 *
 * Which expert is where, and what goes where next, is decided by policies/buffer.h alone; this
 * carries it out and writes down what happened. The host store is the mapped checkpoint. With the
 * plan's buffer off every expert has a slot and is loaded at the start. */
#ifndef EXEC_EXPERT_SLOTS_H
#define EXEC_EXPERT_SLOTS_H

#include "base/memory.h"
#include "exec/backend.h"
#include "exec/gating.h"
#include "policies/buffer.h"

/* One MoE layer's way to its slots. */
typedef struct {
    uint32_t layer;       /* the model's layer number */
    size_t slot_stride;   /* device bytes from slot to slot */
    unsigned char *slots; /* device: the layer's own, or those shared by all */
} LayerSlots;

typedef struct {
    const Backend *backend;
    Device *device;
    const ModelTensors *tensors;
    const TraceLayer *trace_layers;
    uint32_t n_layers; /* MoE layers */
    const Plan *plan;
    ExpertBuffer *decisions;
    LayerSlots *layers;         /* [n_layers] */
    BufferAction *actions;      /* of one event */
    ExpertJob *jobs;            /* of one event, those not yet computed */
    uint32_t *job_slots;        /* the slot that each job reads */
    ResidencyRecord *residency; /* of one step */
    size_t n_residency;
    uint64_t slot_bytes; /* device memory of all slots */
} ExpertSlots;

/* What an event computes. */
typedef struct {
    uint32_t layer_index; /* of the MoE layers */
    const ExpertRows *rows;
    const uint32_t *next_use; /* of rows->active; NULL unless the policy needs the future */
    const ExpertBatch *batch;
    const float *in; /* device [tokens][d_model] */
    float *out;      /* device [tokens * top_k][d_model] */
} ExpertEvent;

/* Makes the decisions' state; the other fields above DECISIONS must be set. */
Status expert_slots_open(ExpertSlots *slots);
void expert_slots_close(ExpertSlots *slots);
/* Lay the slots out in device memory, and the arrays in host memory (exec/layout.h). MAX_TOKENS
 * bounds a step. */
void expert_slots_lay_out_device(ExpertSlots *slots, Arena *arena);
void expert_slots_lay_out_host(ExpertSlots *slots, uint32_t max_tokens, Arena *arena);
/* Loads everything when the buffer is off. */
Status expert_slots_fill(ExpertSlots *slots);

/* Forgets the records of the step before. */
void expert_slots_start_step(ExpertSlots *slots);
/* Decides one event, loads what it needs, computes it, and appends its records. Experts that wait
 * for no load are computed together; an expert is computed before its slot is overwritten. */
Status expert_slots_run(ExpertSlots *slots, const ExpertEvent *event);

#endif
