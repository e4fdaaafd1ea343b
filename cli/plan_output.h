/* Plans that a command writes. */
#ifndef CLI_PLAN_OUTPUT_H
#define CLI_PLAN_OUTPUT_H

#include "policies/plan.h"

/* Writes PLAN as OUT, atomically. Fails with ERR_INPUT, and writes nothing, where it is so large
 * that no command would read it; ADVICE says how to make it smaller. */
Status plan_output(const Plan *plan, const char *out, const char *advice);

#endif
