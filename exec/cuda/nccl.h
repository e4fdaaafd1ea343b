/* NCCL, loaded when ranks meet rather than with the program: most commands never need it. */
#ifndef EXEC_CUDA_NCCL_H
#define EXEC_CUDA_NCCL_H

#include "exec/cuda/check.h"

#include <nccl.h>

typedef struct {
    void *library;
    char version[32]; /* "2.28.9" */
    ncclResult_t (*get_version)(int *);
    ncclResult_t (*get_unique_id)(ncclUniqueId *);
    ncclResult_t (*init_rank)(ncclComm_t *, int, ncclUniqueId, int);
    ncclResult_t (*destroy)(ncclComm_t);
    ncclResult_t (*abort)(ncclComm_t);
    ncclResult_t (*async_error)(ncclComm_t, ncclResult_t *);
    ncclResult_t (*group_start)(void);
    ncclResult_t (*group_end)(void);
    ncclResult_t (*send)(const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*receive)(void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    const char *(*error_text)(ncclResult_t);
    const char *(*last_error)(ncclComm_t);
} Nccl;

/* Fails with ERR_UNSUPPORTED when the library is not there, or lacks a function. What was loaded
 * stays with the program. */
Status nccl_load(Nccl *nccl);
/* The record of a failed call: "nccl: CALL: WHY". */
Status nccl_failed(const Nccl *nccl, ncclResult_t error, const char *call);

/* Returns from the caller unless CALL succeeds. */
#define NCCL_TRY(nccl, call)                                                                       \
    do {                                                                                           \
        ncclResult_t nccl_try_error = (call);                                                      \
        if (nccl_try_error != ncclSuccess)                                                         \
            return nccl_failed(nccl, nccl_try_error, #call);                                       \
    } while (0)

#endif
