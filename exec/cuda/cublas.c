#include "exec/cuda/cublas.h"

#include <dlfcn.h>

#include "base/library.h"

static const char *const LIBRARIES[] = {"libcublas.so.13", "/usr/local/cuda/lib64/libcublas.so.13",
                                        "/usr/local/cuda/targets/x86_64-linux/lib/libcublas.so.13",
                                        "libcublas.so.12", "/usr/local/cuda/lib64/libcublas.so.12"};
static const Library CUBLAS = {
    .name = "cuda: cuBLAS", .paths = LIBRARIES, .n_paths = sizeof LIBRARIES / sizeof *LIBRARIES};

#define CUBLAS_TRY(call)                                                                           \
    do {                                                                                           \
        cublasStatus_t cublas_try_status = (call);                                                 \
        if (cublas_try_status != CUBLAS_STATUS_SUCCESS)                                            \
            return cublas_failed(cublas_try_status, #call);                                        \
    } while (0)

static Status cublas_failed(cublasStatus_t error, const char *call)
{
    Status status = error == CUBLAS_STATUS_ALLOC_FAILED ? ERR_MEMORY : ERR_IO;
    return fail(status, "cuda: cuBLAS: %s: status %d", call, (int)error);
}

static Status find_functions(Cublas *cublas)
{
    const LibraryFunction functions[] = {{"cublasCreate_v2", &cublas->create},
                                         {"cublasDestroy_v2", &cublas->destroy},
                                         {"cublasSetStream_v2", &cublas->set_stream},
                                         {"cublasSetWorkspace_v2", &cublas->set_workspace},
                                         {"cublasGemmEx", &cublas->product},
                                         {"cublasGemmStridedBatchedEx", &cublas->products}};
    return library_find(&CUBLAS, cublas->library, functions, sizeof functions / sizeof *functions);
}

static Status open_handle(void *workspace, Cublas *cublas)
{
    TRY(find_functions(cublas));
    CUBLAS_TRY(cublas->create(&cublas->handle));
    cublas->workspace = workspace;
    return OK;
}

Status cublas_open(void *workspace, Cublas *cublas)
{
    *cublas = (Cublas){.library = NULL};
    TRY(library_load(&CUBLAS, &cublas->library));
    Status status = open_handle(workspace, cublas);
    if (status != OK)
        cublas_close(cublas);
    return status;
}

void cublas_close(Cublas *cublas)
{
    if (cublas->handle != NULL)
        cublas->destroy(cublas->handle);
    if (cublas->library != NULL)
        dlclose(cublas->library);
    *cublas = (Cublas){.library = NULL};
}

/* cuBLAS counts by columns, so that out^T = b * a^T is what it is asked for. */
Status cublas_product(const Cublas *cublas, const CublasProduct *product, const CublasMatrix *a,
                      const CublasMatrix *b, const CublasMatrix *out, cudaStream_t stream)
{
    const float one = 1;
    const float beta = product->add ? 1 : 0;
    cublasOperation_t b_way = product->b_depth_first ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasOperation_t a_way = product->a_depth_first ? CUBLAS_OP_T : CUBLAS_OP_N;
    int m = (int)product->columns;
    int n = (int)product->rows;
    int k = (int)product->depth;
    cublasHandle_t handle = cublas->handle;
    /* The first call takes the workspace away, and without one the library allocates. */
    CUBLAS_TRY(cublas->set_stream(handle, stream));
    CUBLAS_TRY(cublas->set_workspace(handle, cublas->workspace, CUBLAS_WORKSPACE_BYTES));
    if (product->count == 1)
        CUBLAS_TRY(cublas->product(handle, b_way, a_way, m, n, k, &one, b->data, product->in,
                                   (int)b->columns, a->data, product->in, (int)a->columns, &beta,
                                   (void *)out->data, product->out, (int)out->columns,
                                   CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    else
        CUBLAS_TRY(cublas->products(handle, b_way, a_way, m, n, k, &one, b->data, product->in,
                                    (int)b->columns, (long long)b->stride, a->data, product->in,
                                    (int)a->columns, (long long)a->stride, &beta, (void *)out->data,
                                    product->out, (int)out->columns, (long long)out->stride,
                                    (int)product->count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    return OK;
}
