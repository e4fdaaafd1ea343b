/* What the GPU's ceilings are measured with, kept open to be measured in turn with other work. */
#ifndef CLI_BENCH_GPU_CEILINGS_H
#define CLI_BENCH_GPU_CEILINGS_H

#include "cli/bench_ceilings.h"
#include "exec/cuda/device_arena.h"
#include "exec/cuda/measure.h"

typedef struct {
    DeviceArena arena; /* 2 GiB and cuBLAS's workspace */
    Cublas cublas;
    DeviceCopy copy;       /* 1 GiB */
    DeviceProduct product; /* 8192 x 8192 x 8192, of normal deviates */
} CeilingsRig;

/* Fails with ERR_MEMORY when the memory is not free. Close a rig that is zero or was opened, in
 * part or not. */
Status ceilings_rig_open(CeilingsRig *rig);
void ceilings_rig_close(CeilingsRig *rig);

/* The rates at the beginning, while the card is cool. */
Status ceilings_rig_measure(CeilingsRig *rig, Ceilings *ceilings);

#endif
