#include "exec/score_rows.h"

#include "base/layout.h"
#include "traces/f16.h"

static uint32_t kept(const ScoreRows *rows, const TraceLayer *layer)
{
    return rows->keep < layer->experts ? rows->keep : layer->experts;
}

void score_rows_lay_out(ScoreRows *rows, uint32_t max_tokens, Arena *arena)
{
    size_t values = 0;
    size_t widest = 0;
    if (rows->keep == SCORES_NONE)
        return;
    for (uint32_t i = 0; i < rows->n_layers; i++) {
        values += kept(rows, &rows->layers[i]);
        widest = rows->layers[i].experts > widest ? rows->layers[i].experts : widest;
    }
    rows->halves = lay_out(arena, times(values, max_tokens), sizeof *rows->halves);
    rows->largest = lay_out(arena, widest, sizeof *rows->largest);
}

/* largest[m] = the M largest of SCORES[n], descending. */
static void take_largest(const float *scores, uint32_t n, uint32_t m, float *largest)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (taken == m && scores[i] <= largest[m - 1])
            continue;
        uint32_t at = taken < m ? taken++ : m - 1;
        for (; at > 0 && largest[at - 1] < scores[i]; at--)
            largest[at] = largest[at - 1];
        largest[at] = scores[i];
    }
}

size_t score_rows_pack(const ScoreRows *rows, Stack stack, const float *scores, uint32_t tokens)
{
    uint16_t *to = rows->halves;
    if (rows->keep == SCORES_NONE)
        return 0;
    for (uint32_t i = 0; i < rows->n_layers; i++) {
        if (rows->layers[i].stack != stack)
            continue;
        uint32_t experts = rows->layers[i].experts;
        uint32_t m = kept(rows, &rows->layers[i]);
        if (rows->keep == SCORES_ALL) {
            f16_encode(scores, (size_t)tokens * experts, to);
            scores += (size_t)tokens * experts;
            to += (size_t)tokens * experts;
            continue;
        }
        for (uint32_t token = 0; token < tokens; token++, scores += experts, to += m) {
            take_largest(scores, experts, m, rows->largest);
            f16_encode(rows->largest, m, to);
        }
    }
    return (size_t)(to - rows->halves);
}
