/* cuBLAS, loaded when a device is opened rather than with the program: it is half a gigabyte, and
 * most commands never need it. */
#ifndef EXEC_CUDA_CUBLAS_H
#define EXEC_CUDA_CUBLAS_H

#include "exec/cuda/check.h"

#include <cublas_v2.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    void *library;
    cublasHandle_t handle;
    void *workspace;
    cublasStatus_t (*create)(cublasHandle_t *);
    cublasStatus_t (*destroy)(cublasHandle_t);
    cublasStatus_t (*set_stream)(cublasHandle_t, cudaStream_t);
    cublasStatus_t (*set_workspace)(cublasHandle_t, void *, size_t);
    cublasStatus_t (*product)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                              const void *, const void *, cudaDataType, int, const void *,
                              cudaDataType, int, const void *, void *, cudaDataType, int,
                              cublasComputeType_t, cublasGemmAlgo_t);
    cublasStatus_t (*products)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                               const void *, const void *, cudaDataType, int, long long,
                               const void *, cudaDataType, int, long long, const void *, void *,
                               cudaDataType, int, long long, int, cublasComputeType_t,
                               cublasGemmAlgo_t);
} Cublas;

enum { CUBLAS_WORKSPACE_BYTES = 32 << 20 };

/* Rows of row-major matrices, one after the other; STRIDE from matrix to matrix when there are
 * several (0: the same one). */
typedef struct {
    const void *data;
    uint32_t columns; /* from row to row */
    size_t stride;    /* elements */
} CublasMatrix;

/* out[count][rows][columns] = a[count][rows][depth] * b^T (+ out). B has COLUMNS rows of DEPTH;
 * with B_DEPTH_FIRST it is not transposed and has DEPTH rows of COLUMNS; likewise A_DEPTH_FIRST. */
typedef struct {
    cudaDataType in; /* CUDA_R_16BF or CUDA_R_32F */
    cudaDataType out;
    uint32_t rows;
    uint32_t columns;
    uint32_t depth;
    uint32_t count;
    bool a_depth_first;
    bool b_depth_first;
    bool add;
} CublasProduct;

#ifdef __cplusplus
extern "C" {
#endif

/* WORKSPACE: device memory of CUBLAS_WORKSPACE_BYTES, so that nothing is allocated later. Fails
 * with ERR_UNSUPPORTED when the library is not there. */
Status cublas_open(void *workspace, Cublas *cublas);
/* Does nothing when CUBLAS is zero. */
void cublas_close(Cublas *cublas);

/* f32 sums; f32 operands are multiplied in full f32. */
Status cublas_product(const Cublas *cublas, const CublasProduct *product, const CublasMatrix *a,
                      const CublasMatrix *b, const CublasMatrix *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
