/* Measures what the executor's operations cost on the machine at hand, for the simulator.
 *
 * The executor itself is driven: steps of every batch, length and context of a grid, with stamps
 * and without, and the medians of repeated runs become tables of policies/hardware.h. A table
 * belongs to a shape key, made of the sizes and choices that an operation's cost depends on, so
 * that models with equal layers share it, and what a profile has already is not measured again. */
#ifndef EXEC_CALIBRATE_H
#define EXEC_CALIBRATE_H

#include "base/processes.h"
#include "exec/executor.h"
#include "policies/hardware.h"
#include "policies/whole_steps.h"

typedef struct {
    const char *device; /* "cuda" */
    ComputeType compute;
    size_t threads; /* of the host; 0: all */
    bool quick;     /* fewer places and repeats */
    /* Of the same device: operations and copies that it has are not measured; NULL: none. */
    const Hardware *known;
    const char *known_path; /* where it is from, for errors */
    /* Called with the steps that were run and how many there will be; NULL: not. */
    void (*progress)(void *argument, uint64_t done, uint64_t total);
    void *progress_argument;
    const volatile int *stop; /* not 0: ERR_INTERRUPTED; NULL: none */
} CalibrateOptions;

/* Measures MODEL (checkpoint_open_model()'s name) and adds it, and the tables of its operations, to
 * HARDWARE, whose device it fills in. What whole steps took is in WHOLE, which must be zeroed and
 * is the caller's to free, whatever comes of it: sim/rests.h makes the rest of the profile of it.
 * Fails as executor_open() does. */
Status calibrate_model(const CalibrateOptions *options, const char *model, Hardware *hardware,
                       WholeSteps *whole);

/* Measures with all of PROCESSES, at least two, what their GPUs send one another, and adds it to
 * HARDWARE, whose device it fills in; the shape is hardware_ranks_shape(). Called by every process,
 * with the options of rank 0 but KNOWN, which only rank 0 needs to have. Fails in all of them, as
 * processes_agree() says: with ERR_UNSUPPORTED where the device has no ranks, or as ranks_open().
 */
Status calibrate_ranks(const CalibrateOptions *options, Processes *processes, Hardware *hardware);

/* Writes the shape key of OP of LAYER, "" for one without sizes of its own; COMPUTE is "bf16". */
void calibrate_shape(const ModelConfig *config, uint32_t layer, Op op, const char *compute,
                     char shape[160]);

#endif
