/* What a rule of a description comes to for one config: whether its tensor is there, and its
 * shape. */
#ifndef EXEC_RULE_H
#define EXEC_RULE_H

#include "exec/architecture.h"

/* What a rule is looked at for. LAYER is NULL outside the layers, FFN outside FFNs. */
typedef struct {
    const ModelConfig *config;
    const LayerConfig *layer;
    const FfnShape *ffn;
} RuleContext;

bool rule_is_wanted(const RuleContext *context, const TensorRule *rule);
/* Fills SHAPE; returns the rank. */
uint32_t rule_shape(const RuleContext *context, const TensorRule *rule, uint64_t shape[2]);

/* Called for every tensor of a model: NAME is valid during the call. */
typedef Status (*TensorVisit)(void *argument, const char *name, const uint64_t *shape,
                              uint32_t rank);

/* Names the tensors that a checkpoint of CONFIG must have, each expert by itself where the family
 * knows that form. Stops at the first failure of VISIT. */
Status architecture_visit(const Architecture *architecture, const ModelConfig *config,
                          TensorVisit visit, void *argument);

#endif
