/* What whole steps take besides their operations, as far as simulated time knows these. */
#ifndef SIM_RESTS_H
#define SIM_RESTS_H

#include "policies/hardware.h"
#include "policies/whole_steps.h"

/* Prices the operations of every step by the tables of HARDWARE, which has the model, and puts what
 * is left of its time into step/rest: a step like it is then simulated to take as long as it was
 * measured to. Fails as timing_new(), and with ERR_MEMORY. */
Status rests_note(const WholeSteps *whole, Hardware *hardware);

#endif
