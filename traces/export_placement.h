/* Placements of experts on ranks, as serving engines read them.
 *
 *   sglang  JSON for --init-expert-location: {"physical_to_logical_map": [[expert, ...], ...]}, a
 *           row for every layer of the model, dense ones too, whose rows no one reads; in a row the
 *           expert in each slot, rank by rank, as many slots on each rank
 *   trtllm  YAML for moe_config.load_balancer: num_slots, initial_global_assignments (the expert in
 *           each slot, rank by rank, of each MoE layer by its number), layer_updates_per_iter
 *
 * Formats as read in SGLang's srt/eplb/expert_location.py and TensorRT-LLM's MoeLoadBalancerConfig.
 * Files appear under their name only when complete. */
#ifndef TRACES_EXPORT_PLACEMENT_H
#define TRACES_EXPORT_PLACEMENT_H

#include "base/status.h"

#include <stdint.h>

/* The same number of slots on each rank, and in each layer. */
typedef struct {
    uint32_t n_layers;     /* MoE layers */
    uint32_t n_slots;      /* of one layer, over all ranks */
    const uint32_t *layer; /* [n_layers] the model's numbers, ascending */
    const uint32_t *slots; /* [n_layers][n_slots] the expert in each */
} PlacementSlots;

/* MODEL_LAYERS: all layers of the model. Dense ones get slot mod EXPERTS. Fails with ERR_INPUT when
 * an MoE layer lies behind them, with ERR_OUTPUT or ERR_IO. */
Status export_sglang(const PlacementSlots *placement, uint32_t experts, uint32_t model_layers,
                     const char *out);
/* LAYER_UPDATES: 0 keeps the placement; else so many layers an iteration are balanced anew. */
Status export_trtllm(const PlacementSlots *placement, uint32_t layer_updates, const char *out);

#endif
