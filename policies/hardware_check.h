/* What types and ranges alone do not say of a profile that is read: costs that no machine can have,
 * and lists that no model can have. */
#ifndef POLICIES_HARDWARE_CHECK_H
#define POLICIES_HARDWARE_CHECK_H

#include "policies/hardware.h"

/* Fails with ERR_INPUT, naming what is wrong below AT, when a table of that name is in another
 * unit, an operation's has other axes than hardware_op_axes() (none is allowed: a constant), or
 * what was measured for itself took less than no time. */
Status hardware_check_costs(const JsonAt *at, const CostTable *table);
/* Fails with ERR_INPUT when layers do not ascend in a list of operations, one stands twice in its
 * layer, or slots are told and are not those of the layers that have experts. */
Status hardware_check_model(const JsonAt *at, const HardwareModel *model);

#endif
