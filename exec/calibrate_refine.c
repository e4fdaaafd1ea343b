/* More places where costs jump: operations on the tokens of a step change their kernels at some
 * numbers of tokens, which grids do not know. Between neighbours that differ too much for a line
 * the middle is measured, again and again, until a jump lies between places that are next to each
 * other. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exec/calibrate_parts.h"

enum {
    ROUNDS = 6,
    ROUND_PLACES = 16, /* that are measured before the next are chosen */
    MOST_TOKENS = 4096,
    REFINE_REPEATS = 5
};

/* What a line may be off. */
static const double OFF = 0.02;

/* Tokens between two places, and how much a line between them may be wrong. */
typedef struct {
    uint32_t tokens;
    double weight;
} Middle;

static int compare_middles(const void *a, const void *b)
{
    const Middle *x = a;
    const Middle *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->tokens > y->tokens) - (x->tokens < y->tokens);
}

static void add_middle(Middle *middles, uint32_t *n, uint32_t tokens, double weight)
{
    for (uint32_t i = 0; i < *n; i++)
        if (middles[i].tokens == tokens) {
            middles[i].weight = weight > middles[i].weight ? weight : middles[i].weight;
            return;
        }
    middles[(*n)++] = (Middle){tokens, weight};
}

/* How far point I lies off the line between its neighbours. */
static double off_line(const CostTable *table, uint32_t i)
{
    const double *at = table->at + i;
    const double *value = table->value + i;
    if (i == 0 || i + 1 >= table->n_points || value[0] <= 0)
        return 0;
    double line = value[-1] + (value[1] - value[-1]) * (at[0] - at[-1]) / (at[1] - at[-1]);
    return fabs(line / value[0] - 1);
}

/* The middles of the intervals of TABLE, by tokens, at whose ends a line is off. */
static void look_at(const CostTable *table, Middle *middles, uint32_t *n)
{
    for (uint32_t i = 0; i + 1 < table->n_points; i++) {
        double low = table->at[i];
        double high = table->at[i + 1];
        double off = fmax(off_line(table, i), off_line(table, i + 1));
        double jump = fabs(table->value[i + 1] / fmax(table->value[i], 1) - 1);
        if (high > MOST_TOKENS || off < OFF || jump < OFF || high - low < 2 ||
            high - low <= low / COST_NEXT_TO)
            continue;
        add_middle(middles, n, (uint32_t)((low + high) / 2), fmin(off, jump) * log(high / low));
    }
}

/* Those of all operations of the decoder whose costs are by tokens. */
static uint32_t find_middles(const Calibration *c, Middle *middles)
{
    const HardwareModel *model = hardware_model(c->hardware, c->model);
    uint32_t n = 0;
    for (uint32_t i = 0; i < model->n_ops[STACK_DECODER]; i++) {
        const HardwareOp *op = &model->ops[STACK_DECODER][i];
        char name[48];
        snprintf(name, sizeof name, "gpu/%s", op_name(op->op));
        const CostTable *table = hardware_table(c->hardware, name, op->shape);
        if (table != NULL && table->n_axes == 1 && strcmp(table->axis[0], "tokens") == 0)
            look_at(table, middles, &n);
    }
    qsort(middles, n, sizeof *middles, compare_middles);
    return n;
}

static Status measure_tokens(Calibration *c, uint32_t tokens)
{
    StepMeasured measured;
    StepKind kind = {.requests = 1, .tokens = tokens, .stamped_only = true};
    if (tokens <= c->max_requests)
        kind = (StepKind){.requests = tokens, .tokens = 1, .stamped_only = true};
    if (kind.tokens > c->max_length || tokens > c->max_tokens)
        return OK;
    TRY(calibration_measure(c, &kind, REFINE_REPEATS, &measured));
    return calibration_note_ops(c, &kind, &measured);
}

static Status refine_round(Calibration *c, Middle *middles)
{
    TRY(calibration_settle(c));
    uint32_t n = find_middles(c, middles);
    for (uint32_t i = 0; i < ROUND_PLACES; i++)
        if (!calibration_only_counts(c) && i < n)
            TRY(measure_tokens(c, middles[i].tokens));
    return OK;
}

Status calibrate_refine(Calibration *c)
{
    Middle *middles;
    if (c->counting) {
        c->total += ROUNDS * ROUND_PLACES;
        return OK;
    }
    TRY(mem_new(&middles, MOST_TOKENS, sizeof *middles, "calibration"));
    Status status = OK;
    for (int round = 0; round < ROUNDS && status == OK; round++)
        status = refine_round(c, middles);
    mem_free(middles);
    return status;
}
