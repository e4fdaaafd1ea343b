/* A device that computes nothing, and looks whether it would have computed the right thing.
 *
 * A slot holds the name of an expert, or what is left while one is copied into it. Two queues, of
 * computation and of copies, move on as chance has it, however far apart their contracts
 * (exec/backend.h) let them: an expert that is computed from a slot that does not hold it as a
 * whole at that moment fails the test. */
#ifndef TESTS_SYMBOLIC_DEVICE_H
#define TESTS_SYMBOLIC_DEVICE_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include "exec/expert_slots.h"

enum { SYMBOLIC_SLOTS = 128, SYMBOLIC_QUEUE = 1 << 12, SYMBOLIC_JOBS = 64 };

/* An expert is the address of its tensors, which is also what keep_expert() gives. */
typedef struct {
    const void *address;
    const void *expert;
    bool whole;
} SymbolicSlot;

typedef struct {
    uint32_t n_jobs; /* 0: waits until so many copies are done */
    const void *address[SYMBOLIC_JOBS];
    const void *expert[SYMBOLIC_JOBS];
    uint64_t copies;
} SymbolicRun;

typedef struct {
    Load load;
    uint64_t after; /* runs that must be over before it begins */
} SymbolicCopy;

struct Device {
    uint64_t random;
    uint32_t copy_speed; /* of 8: how often the link moves on by itself */
    SymbolicSlot slots[SYMBOLIC_SLOTS];
    uint32_t n_slots;
    SymbolicRun runs[SYMBOLIC_QUEUE]; /* of one step */
    uint64_t n_runs;
    uint64_t runs_done;
    SymbolicCopy copies[SYMBOLIC_QUEUE];
    uint64_t n_copies;
    uint64_t copies_done;
    bool copying;                          /* the next copy has begun */
    uint64_t last_copy_of[SYMBOLIC_QUEUE]; /* by ticket: copies that its load ends with */
    uint64_t gated;                        /* copies that had to wait for a run, ... */
    uint64_t split;                        /* ... and that were parts, so far */
};

extern const Backend SYMBOLIC;

/* The batch of an event, with the experts of its layer. */
typedef struct {
    ExpertBatch batch; /* first */
    const FfnTensors *experts;
} SymbolicBatch;

/* A new step begins; both queues are done. */
void symbolic_begin_step(Device *device);
/* Both queues move on to their ends. */
void symbolic_finish(Device *device);
/* What lies at ADDRESS; NULL: nothing that is whole. */
const void *symbolic_content(const Device *device, const void *address);

#endif
