/* What the files of the forward pass share; nobody else's. */
#ifndef EXEC_FORWARD_PARTS_H
#define EXEC_FORWARD_PARTS_H

#include "exec/forward.h"

/* Rows of logits that the device computes at a time. */
enum { LOGIT_ROWS = 256 };

/* What the blocks of one step share. */
typedef struct {
    Forward *forward;
    const StepInput *input;
    bool waits;        /* for the counts of each event: there may be experts to load */
    bool repeated;     /* by the backend, as a whole */
    uint32_t n_layers; /* of the stack, that are run */
    uint32_t n_logits; /* rows that are wanted */
    OpList *ops;
    Spans spans;        /* of the step's tokens in their own caches */
    Spans source_spans; /* ... in the encoder's output */
    const RotaryTable *rotary;
    uint32_t moe_layer;       /* MoE layers done, of both stacks */
    uint32_t first_moe_layer; /* of the step's stack ... */
    uint32_t end_moe_layer;   /* ... and behind its last */
    size_t routed;            /* entries of host.experts used by them */
    size_t scored;            /* entries of host.scores */
    const uint32_t *next_use; /* of the next event */
    const uint16_t *n_coming; /* from the next event on */
    const uint16_t *coming;
} Step;

/* RowGroups.first of a MoE layer, in the array of all. */
uint32_t *forward_groups_of(uint32_t *row_groups, const Forward *forward, uint32_t moe_layer);
/* The event of MoE layer step->moe_layer for the decisions on it, but what it computes. The future
 * moves on to the next event. */
ExpertEvent forward_event(const Step *step, const EventSignals *signals);
void forward_next_event(Step *step, uint32_t n_active);

/* From START_NS until now, in clock_ns(). */
HostSpan forward_span(uint64_t start_ns);
/* The input of the step is queued: notes begin, and what is held is held back from here on. */
Status forward_begin_notes(const Step *step);
/* What was queued since the last call was OP of LAYER: stamped when the step's times are wanted.
 * Hands over prefetches that are held back. */
Status forward_stamp(const Step *step, uint32_t layer, Op op);
/* Where that is wanted: what is queued from here on is held back until forward_release(). */
Status forward_hold(const Step *step);
/* All that comes before an event, or the end of the step, is queued. */
void forward_release(const Step *step);

/* hidden += attention(norm(hidden)) */
Status forward_attention(const Step *step, uint32_t layer);
/* hidden += attention over the source (norm(hidden)) */
Status forward_cross_attention(const Step *step, uint32_t layer);
/* at.normed, the encoder's output -> every decoder layer's cross cache. */
Status forward_fill_cross_caches(const Step *step);
/* hidden += FFN(norm(hidden)), dense or of experts */
Status forward_ffn(Step *step, uint32_t layer);

/* The routers of MoE layers ahead of step->moe_layer, which is the model's LAYER, on at.hidden, as
 * far as predictions are wanted and the stack reaches. */
Status forward_predict(const Step *step, uint32_t layer);
/* At the end of a step: queues the copies to the host of what forward_predict() found, but for what
 * the host was told before. */
Status forward_fetch_ahead(const Step *step);
/* True when the stack has a layer DISTANCE MoE layers ahead of step->moe_layer. */
bool forward_ahead_reaches(const Step *step, uint32_t distance);
/* Where its entries begin in the arrays of forward->ahead. */
size_t forward_ahead_at(const Step *step, uint32_t distance);
/* What the plan's decisions ask for of the event of step->moe_layer, whose routing the host has.
 * Valid until the next call. */
void forward_signals(const Step *step, EventSignals *event);
/* After a step: the times of its operations by their stamps, and of the host. WALL_OFFSET_NS is
 * what clock_wall_ns() is ahead of clock_ns(), which they were taken in; OUTPUT points into the
 * step's FORWARD. */
Status forward_read_stamps(const Step *step, uint64_t wall_offset_ns, StepOutput *output);
void forward_read_notes(const Step *step, uint64_t wall_offset_ns, StepOutput *output);
/* Lay out what predictions need, for steps of at most ROUTED entries. */
void forward_lay_out_ahead(Forward *forward, size_t routed, Arena *arena);
void forward_lay_out_ahead_pinned(Forward *forward, size_t routed, Arena *arena);

#endif
