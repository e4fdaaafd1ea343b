/* Routing that no router chose: where each token of a run goes, drawn from a named skew or taken
 * from a recorded trace.
 *
 * "uniform": every expert of a layer is as likely as any other.
 * "zipf:S": the expert in place r (from 1) of the layer's own random order has weight 1 / r^S; the
 * top_k experts of a token are drawn one after the other, without those it has already.
 * "trace:FILE": each token goes where a token of the trace went (exec/routing_tile.h).
 *
 * What a token gets depends on the seed, the layer, its request and its position alone, not on how
 * the run is batched. */
#ifndef EXEC_ROUTING_SOURCE_H
#define EXEC_ROUTING_SOURCE_H

#include "traces/trace.h"

typedef struct RoutingSource RoutingSource;

/* True for a TEXT that routing_source_open() takes, false for "gate". */
bool routing_source_is_known(const char *text);
/* LAYERS [n_layers] are the executor's MoE layers and must outlive the source. *SOURCE is NULL for
 * "gate" and for NULL. Fails with ERR_USAGE for a TEXT that names no routing, and with ERR_INPUT
 * for a trace that does not fit the layers. */
Status routing_source_open(const char *text, const TraceLayer *layers, uint32_t n_layers,
                           uint64_t seed, RoutingSource **source);
void routing_source_close(RoutingSource *source);
/* Draws ahead what the first LENGTH[i] tokens of requests 0 to N - 1 will get, in their order, as
 * far as there is room: routing_source_fill() then has only to copy it. What was drawn ahead before
 * is forgotten. Fails with ERR_MEMORY; nothing is drawn ahead then. */
Status routing_source_draw_ahead(RoutingSource *source, const uint32_t *length, uint32_t n);
/* Fills EXPERTS, per MoE layer of STACK [tokens][top_k], one after the other, for the tokens at
 * POSITION[i] of REQUEST[i]. Those of a token are the layer's and differ, or are EXPERT_DROPPED. */
void routing_source_fill(const RoutingSource *source, Stack stack, uint32_t tokens,
                         const uint32_t *request, const uint32_t *position, uint16_t *experts);

#endif
