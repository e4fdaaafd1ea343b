#include "traces/recorder_slot.h"

#include <string.h>

#include "base/memory.h"

/* Copies the arrays of STEP into SLOT, of experts and weights IDS entries; what is NULL stays NULL.
 * Without ids they stay where they are. */
static Status copy_step(RecorderSlot *slot, const TraceStep *step, size_t ids)
{
    StepBuffer *to = &slot->arrays;
    TRY(step_buffer_fit(to, step->tokens, ids, step->scores != NULL ? step->score_count : 0));
    TraceStep *copy = &slot->rows.step;
    size_t words = sizeof(uint32_t) * (size_t)step->tokens;
    *copy = *step;
    copy->request = memcpy(to->request, step->request, words);
    copy->position = memcpy(to->position, step->position, words);
    if (ids > 0)
        copy->experts = memcpy(to->experts, step->experts, 2 * ids);
    if (step->token != NULL)
        copy->token = memcpy(to->token, step->token, words);
    if (step->rank != NULL)
        copy->rank = memcpy(to->rank, step->rank, step->tokens);
    if (step->weights != NULL && ids > 0)
        copy->weights = memcpy(to->weights, step->weights, 4 * ids);
    if (step->scores != NULL)
        copy->scores = memcpy(to->scores, step->scores, 2 * step->score_count);
    return OK;
}

/* The part of each distance behind the one before, as STEP has them; IDS of one. */
static Status copy_predictions(RecorderSlot *slot, const TraceStep *step, size_t ids)
{
    TraceStep *copy = &slot->rows.step;
    size_t count = step->n_distances * ids;
    TRY(block_fit(&slot->predicted, &slot->predicted_bytes, count * (sizeof(float) + 2),
                  "predictions"));
    if (count == 0)
        return OK;
    float *weights = slot->predicted;
    uint16_t *experts = (uint16_t *)(weights + count);
    copy->predicted_weights = memcpy(weights, step->predicted_weights, count * sizeof *weights);
    copy->predicted = memcpy(experts, step->predicted, count * sizeof *experts);
    return OK;
}

static Status copy_records(RecorderSlot *slot, const StepRows *rows)
{
    size_t residency_bytes = rows->n_residency * sizeof *rows->residency;
    size_t timing_bytes = rows->n_timing * sizeof *rows->timing;
    TRY(block_fit(&slot->residency, &slot->residency_bytes, residency_bytes, "residency events"));
    TRY(block_fit(&slot->timing, &slot->timing_bytes, timing_bytes, "timings"));
    if (residency_bytes > 0)
        memcpy(slot->residency, rows->residency, residency_bytes);
    if (timing_bytes > 0)
        memcpy(slot->timing, rows->timing, timing_bytes);
    slot->rows.residency = slot->residency;
    slot->rows.n_residency = rows->n_residency;
    slot->rows.timing = slot->timing;
    slot->rows.n_timing = rows->n_timing;
    return OK;
}

Status recorder_slot_reserve(RecorderSlot *slot, uint32_t tokens, size_t ids)
{
    TRY(step_buffer_fit(&slot->arrays, tokens, ids, 0));
    memset(slot->arrays.block, 0, slot->arrays.capacity);
    return OK;
}

Status recorder_slot_put_step(RecorderSlot *slot, const StepRows *rows, size_t ids,
                              uint64_t lent_until)
{
    TRY(copy_step(slot, &rows->step, lent_until > 0 ? 0 : ids));
    TRY(copy_predictions(slot, &rows->step, ids));
    TRY(copy_records(slot, rows));
    slot->is_request = false;
    slot->lent_until = lent_until;
    return OK;
}

Status recorder_slot_put_request(RecorderSlot *slot, const TraceRequest *request)
{
    slot->is_request = true;
    slot->lent_until = 0;
    slot->request = *request;
    if (request->label == NULL)
        return OK;
    size_t bytes = strlen(request->label) + 1;
    TRY(block_fit(&slot->label, &slot->label_bytes, bytes, "request label"));
    slot->request.label = memcpy(slot->label, request->label, bytes);
    return OK;
}

void recorder_slot_free(RecorderSlot *slot)
{
    step_buffer_free(&slot->arrays);
    mem_free(slot->residency);
    mem_free(slot->timing);
    mem_free(slot->predicted);
    mem_free(slot->label);
}
