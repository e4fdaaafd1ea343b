/* Router scores as a trace keeps them: f16, per MoE layer one after the other, for each token
 * either all of the layer's experts in id order ([tokens][experts]) or the largest M in descending
 * order ([tokens][min(M, experts)]). */
#ifndef EXEC_SCORE_ROWS_H
#define EXEC_SCORE_ROWS_H

#include "base/memory.h"
#include "traces/trace.h"

#define SCORES_NONE 0u
#define SCORES_ALL UINT32_MAX /* any other number: the largest so many */

typedef struct {
    uint32_t keep; /* SCORES_NONE, SCORES_ALL or M */
    const TraceLayer *layers;
    uint32_t n_layers;
    uint16_t *halves; /* [max_tokens] rows of every layer */
    float *largest;   /* [max(experts)] scratch */
} ScoreRows;

/* Lays the arrays out (exec/layout.h) for steps of at most MAX_TOKENS; KEEP, LAYERS and N_LAYERS
 * must be set. Without scores nothing is taken. */
void score_rows_lay_out(ScoreRows *rows, uint32_t max_tokens, Arena *arena);

/* Converts SCORES (per MoE layer of STACK [TOKENS][experts]) into rows->halves; returns how many
 * values that gives, 0 with SCORES_NONE. */
size_t score_rows_pack(const ScoreRows *rows, Stack stack, const float *scores, uint32_t tokens);

#endif
