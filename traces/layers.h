/* What follows from the MoE layers of a trace: their limits, where each stack lies, how wide an id
 * is. */
#ifndef TRACES_LAYERS_H
#define TRACES_LAYERS_H

#include "traces/trace.h"

/* The layers of one stack: COUNT from index FIRST on. */
typedef struct {
    uint32_t first;
    uint32_t count;
    uint64_t top_k; /* sum over them: ids per token */
} StackSpan;

/* Fails with STATUS unless LAYERS are 1 to TRACE_MAX_LAYERS, ascending in number, encoder first,
 * with experts, top_k and bytes within the limits. FILE begins the message. */
Status layers_check(const char *file, const TraceLayer *layers, uint32_t n_layers, Status status);

StackSpan layers_span(const TraceLayer *layers, uint32_t n_layers, Stack stack);

/* The layers of SPAN that lie DISTANCE or more behind another of it: those that can be predicted so
 * far ahead. */
StackSpan layers_ahead(const TraceLayer *layers, StackSpan span, uint32_t distance);

/* 1 when every layer has at most 255 experts, so that 0xFF can mean dropped; else 2. */
size_t layers_id_bytes(const TraceLayer *layers, uint32_t n_layers);

/* COUNT ids of a byte each, as EXPERTS has them. */
void layers_widen_ids(const uint8_t *ids, size_t count, uint16_t *experts);

/* The most experts of a layer. */
uint32_t layers_max_experts(const TraceLayer *layers, uint32_t n_layers);

/* Whether EXPERT is one of EXPERTS[n]. */
static inline bool expert_is_among(const uint16_t *experts, uint32_t n, uint16_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

/* An encode step covers the encoder's layers, every other the decoder's. */
static inline Stack phase_stack(Phase phase)
{
    return phase == PHASE_ENCODE ? STACK_ENCODER : STACK_DECODER;
}

/* Fails with STATUS when one of EXPERTS ([tokens][top_k] of each layer of SPAN, one after the
 * other) is neither below its layer's number of experts nor EXPERT_DROPPED. */
Status layers_check_experts(const char *file, const TraceLayer *layers, StackSpan span,
                            uint32_t step, uint32_t tokens, const uint16_t *experts, Status status);
/* The same of ids of a byte, where UINT8_MAX means dropped. */
Status layers_check_bytes(const char *file, const TraceLayer *layers, StackSpan span, uint32_t step,
                          uint32_t tokens, const uint8_t *experts, Status status);

#endif
