/* Steps in which the host computes experts, of which none is resident: what the files that measure
 * them share. */
#ifndef EXEC_CALIBRATE_HOST_H
#define EXEC_CALIBRATE_HOST_H

#include "exec/calibrate_parts.h"

/* Steps of one kind, for which so many sets of experts take turns: one after the other, or in no
 * order, so that steps of several kinds in turn do not read the same ones again and again. */
typedef struct {
    StepKind kind;
    uint32_t active;
    uint32_t sets;
    bool in_order;
} HostSteps;

/* Steps of TOKENS tokens, each with as many experts as it wants, or ACTIVE if these are fewer;
 * false where there is no room. */
bool calibration_host_steps(const Calibration *c, uint32_t tokens, uint32_t active,
                            HostSteps *steps);

/* One of STEPS, with the set of experts whose turn it is and a stamp behind each operation. */
Status calibration_host_step(Calibration *c, const HostSteps *steps, StepOutput *output);

/* Experts of LAYER that the host computed; their records, which have one time, begin at *FIRST. */
uint32_t calibration_count_host(const StepOutput *output, uint32_t layer,
                                const ResidencyRecord **first);

/* The model's experts are such that loads of several are copied together. They lie in the caches as
 * long as these keep them, whatever the host reads. */
bool calibration_small_experts(const Calibration *c);

/* What experts take longer when the host had none for a while. */
Status calibrate_host_rested(Calibration *c);

/* What small experts take longer, or less, by when the host computed them last; after host/experts,
 * which is settled. */
Status calibrate_host_aged(Calibration *c);

#endif
