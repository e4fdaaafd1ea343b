/* What the files of exec/expert_slots.h share; nobody else's. */
#ifndef EXEC_EXPERT_SLOTS_PARTS_H
#define EXEC_EXPERT_SLOTS_PARTS_H

#include "exec/expert_slots.h"
#include "policies/link.h"

/* Device bytes of an expert of a layer, and where one of its slots lies. */
size_t expert_slots_stride(const ExpertSlots *slots, uint32_t layer_index);
void *expert_slots_address(const ExpertSlots *slots, uint32_t layer_index, uint32_t slot);

/* A load of all of EXPERT into SLOT, for which RECORD is to have the time; takes a ticket. */
Load expert_slots_load(ExpertSlots *slots, uint32_t layer_index, uint32_t expert, uint32_t slot,
                       ResidencyRecord *record);

/* Begins LOADS[*n] together, of which none is left. */
Status expert_slots_begin(ExpertSlots *slots, const Load *loads, uint32_t *n);

/* Whether a slot of one layer may be one of the other, too: its own, or where all have one pool. */
static inline bool expert_slots_share(const ExpertSlots *slots, uint32_t layer_index,
                                      uint32_t other_index)
{
    return layer_index == other_index || slots->plan->buffer.scope == SCOPE_DEVICE;
}

/* Prefetches of the step (exec/expert_ahead.c). Adds that of ACTION, which RECORD is of, and begins
 * it where nothing is in its way; or, where it is not held back, puts it off until the host waits,
 * or gathers it where it goes into a slot that is still read. EVENT decided it. */
Status ahead_add(ExpertSlots *slots, const ExpertEvent *event, const BufferAction *action,
                 const ResidencyRecord *record);
/* The slot of EXPERT still waits for a prefetch of this step: begins what is left of it. *TICKET is
 * its. */
Status ahead_take_over(ExpertSlots *slots, uint32_t layer_index, uint32_t expert, uint32_t *ticket);
/* EXPERT leaves its slot: what has not begun of its prefetch never will. */
void ahead_forget(ExpertSlots *slots, uint32_t layer_index, uint32_t expert);
/* The lookups of the event of LAYER_INDEX are done: cancels what was prefetched for them, has not
 * begun and was not hit. */
void ahead_pass(ExpertSlots *slots, uint32_t layer_index);
/* The host has waited: slots that earlier events read are free. */
void ahead_note_wait(ExpertSlots *slots);

#endif
