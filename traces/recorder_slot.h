/* A place of the recorder's ring, and what is copied into it. Only traces/recorder*.c includes it.
 */
#ifndef TRACES_RECORDER_SLOT_H
#define TRACES_RECORDER_SLOT_H

#include "traces/step_buffer.h"
#include "traces/writer.h"

/* One item on its way to the writer thread: a step, or a request. */
typedef struct {
    bool is_request;
    uint64_t lent_until; /* experts and weights are the producer's, who may change them from this
                            step on, by number of those handed over; 0: they are copies */
    StepBuffer arrays;
    StepRows rows; /* points into the buffers of this slot */
    void *residency;
    size_t residency_bytes;
    void *timing;
    size_t timing_bytes;
    void *predicted; /* ids, then weights */
    size_t predicted_bytes;
    TraceRequest request;
    void *label;
    size_t label_bytes;
} RecorderSlot;

/* Makes room for the arrays of a step of TOKENS with IDS entries, in pages that are touched: the
 * first touch of a page takes as long as copying it does some times over. */
Status recorder_slot_reserve(RecorderSlot *slot, uint32_t tokens, size_t ids);
/* Copies ROWS into SLOT; the experts and weights of its step have IDS entries each, and stay where
 * they are where LENT_UNTIL is not 0. Allocates only while SLOT has not yet seen a step this large;
 * fails with ERR_MEMORY. */
Status recorder_slot_put_step(RecorderSlot *slot, const StepRows *rows, size_t ids,
                              uint64_t lent_until);
/* The same for a request, with its label. */
Status recorder_slot_put_request(RecorderSlot *slot, const TraceRequest *request);
/* What SLOT holds; SLOT itself is the ring's. */
void recorder_slot_free(RecorderSlot *slot);

#endif
