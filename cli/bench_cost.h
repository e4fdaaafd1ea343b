/* The least that a step of a model takes: the bytes that must come out of memory once, and the
 * operations of its products. */
#ifndef CLI_BENCH_COST_H
#define CLI_BENCH_COST_H

#include "cli/bench_ceilings.h"
#include "exec/executor.h"

typedef struct {
    double bytes; /* of weights that take part, and of the KV cache that is read */
    double flops;
} StepCost;

/* What a step does, beside the model. */
typedef struct {
    Stack stack;
    uint32_t requests;
    uint32_t tokens;         /* of each request */
    uint32_t context;        /* positions of each before them */
    uint32_t source;         /* tokens of each request's source; 0 without an encoder */
    uint32_t logits;         /* rows */
    const uint16_t *experts; /* StepOutput's */
    double element_bytes;    /* of a weight and of a cached number */
    double active_experts;   /* filled in: mean over the MoE layers */
} StepWork;

StepCost step_cost(const ModelConfig *config, StepWork *work);
/* The larger of bytes over the copy rate and operations over the rate of products. */
double step_floor_ns(const StepCost *cost, const Ceilings *ceilings);

#endif
