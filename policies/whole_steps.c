#include "policies/whole_steps.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static const char WHAT[] = "calibration: whole steps";

Status whole_steps_begin(WholeSteps *whole, const char *model, const TraceLayer *layers,
                         uint32_t n_layers)
{
    snprintf(whole->model, sizeof whole->model, "%s", model);
    TRY(mem_new(&whole->layers, n_layers, sizeof *whole->layers, WHAT));
    if (n_layers > 0)
        memcpy(whole->layers, layers, n_layers * sizeof *layers);
    whole->n_layers = n_layers;
    return OK;
}

static Status add_rows(WholeSteps *whole, const TraceLayer *layer, const uint16_t *experts,
                       size_t n)
{
    for (uint32_t e = 0; e < layer->experts; e++) {
        TRY(mem_grow(&whole->rows, &whole->row_room, whole->n_rows, sizeof *whole->rows, WHAT));
        whole->rows[whole->n_rows++] = 0;
    }
    uint32_t *rows = whole->rows + whole->n_rows - layer->experts;
    for (size_t i = 0; i < n; i++)
        if (experts[i] < layer->experts)
            rows[experts[i]]++;
    return OK;
}

Status whole_steps_add(WholeSteps *whole, const WholeStep *step, const uint16_t *experts)
{
    TRY(mem_grow(&whole->steps, &whole->step_room, whole->n, sizeof *whole->steps, WHAT));
    WholeStep *added = &whole->steps[whole->n];
    *added = *step;
    added->first_row = whole->n_rows;
    for (uint32_t i = 0; i < whole->n_layers; i++) {
        const TraceLayer *layer = &whole->layers[i];
        size_t n = (size_t)whole_step_tokens(step) * layer->top_k;
        if (layer->stack != step->stack)
            continue;
        TRY(add_rows(whole, layer, experts, n));
        experts += n;
    }
    whole->n++;
    return OK;
}

void whole_steps_free(WholeSteps *whole)
{
    mem_free(whole->layers);
    mem_free(whole->steps);
    mem_free(whole->rows);
    *whole = (WholeSteps){0};
}
