/* Routing by clusters of blocks on the tensor cores: for few tokens with the norm before it, and
 * the grouping and gathering behind it, in one kernel. */
#ifndef EXEC_CUDA_ROUTER_CLUSTERS_H
#define EXEC_CUDA_ROUTER_CLUSTERS_H

#include "exec/cuda/grouping.h"
#include "exec/cuda/router.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What tokens are routed by. */
typedef struct {
    const Norm *norm; /* NORM_RMS; NULL: IN is normed */
    const float *in;  /* [tokens][matrix->columns] */
    float *normed;    /* where IN goes, normed; with a norm only */
    const Matrix *matrix;
} RouterInput;

/* Rows by expert of up to CLUSTER_TOKENS tokens. */
typedef struct {
    RowGroups groups;
    Grouping grouping;
    uint32_t max_width; /* of tiles */
    void *gathered; /* bf16, the tokens where their rows are (padding is left as it is); or NULL */
} RouterGroups;

enum { CLUSTER_TOKENS = 32 };

#ifdef __cplusplus
}

struct RouteTask;

bool route_clusters_fit(const RouterInput &input, const RouteTask &task);
/* With GROUPS (NULL: none) what experts_group() does, too. */
Status route_clusters_run(const RouterInput &input, const RouteTask &task,
                          const RouterGroups *groups, cudaStream_t stream);
#endif

#endif
