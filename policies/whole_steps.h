/* Whole steps that were measured, without stamps. What a step takes besides its operations is told
 * by them (the table step/rest of policies/hardware.h): exec/calibrate.h measures them, and
 * sim/rests.h sets them against what the profile makes of their operations. */
#ifndef POLICIES_WHOLE_STEPS_H
#define POLICIES_WHOLE_STEPS_H

#include <stdbool.h>
#include <stddef.h>

#include "traces/trace.h"

/* REQUESTS requests took TOKENS each, and one more its PROMPT. */
typedef struct {
    Stack stack;
    uint32_t requests;
    uint32_t tokens;
    uint32_t context; /* positions of each before */
    uint32_t prompt;  /* 0: there is no such request */
    uint32_t source;  /* tokens of each one's source; 0: it has none */
    bool forced;      /* its routing was laid on it */
    double first_ns;  /* the first step of its shape */
    double second_ns; /* the second, whose graph is made */
    double third_ns;  /* the third, the first that launches the graph */
    double ns;        /* the median of the others */
    double spread;    /* ... and their coefficient of variation */
    size_t first_row; /* of rows: per MoE layer of the stack [experts] tokens of each */
} WholeStep;

/* Those of one model, all experts in place. Zeroed: none. */
typedef struct {
    char model[256];
    TraceLayer *layers; /* [n_layers] its MoE layers */
    uint32_t n_layers;
    WholeStep *steps; /* [n] */
    size_t n;
    size_t step_room;
    uint32_t *rows; /* [n_rows] */
    size_t n_rows;
    size_t row_room;
} WholeSteps;

static inline uint32_t whole_step_tokens(const WholeStep *step)
{
    return step->requests * step->tokens + step->prompt;
}

/* WHOLE must be zeroed. */
Status whole_steps_begin(WholeSteps *whole, const char *model, const TraceLayer *layers,
                         uint32_t n_layers);
/* Adds STEP but for its rows, which are counted: EXPERTS is per MoE layer of its stack
 * [whole_step_tokens()][top_k]. */
Status whole_steps_add(WholeSteps *whole, const WholeStep *step, const uint16_t *experts);
void whole_steps_free(WholeSteps *whole);

#endif
