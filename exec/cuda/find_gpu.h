/* Which GPU is used: the first. */
#ifndef EXEC_CUDA_FIND_GPU_H
#define EXEC_CUDA_FIND_GPU_H

#include "base/status.h"

/* Makes it the calling thread's. Fails with ERR_UNSUPPORTED where there is none, and says why. */
Status cuda_find_gpu(void);

#endif
