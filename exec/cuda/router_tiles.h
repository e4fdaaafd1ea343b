/* Routing of many tokens on the tensor cores. */
#ifndef EXEC_CUDA_ROUTER_TILES_H
#define EXEC_CUDA_ROUTER_TILES_H

#include "exec/cuda/router.h"

#ifdef __cplusplus

struct RouteTask;

/* True where this kernel can route TASK's tokens, and faster than the other ones do. */
bool route_tiles_fit(const Matrix &matrix, const float *in, const RouteTask &task);
Status route_tiles_run(const Matrix &matrix, const float *in, const RouteTask &task,
                       cudaStream_t stream);
#endif

#endif
