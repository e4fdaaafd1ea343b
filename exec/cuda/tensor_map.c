#include "exec/cuda/tensor_map.h"

#include <cudaTypedefs.h>

/* The driver's function, found at run time so that the program starts without a driver. */
static Status find_encoder(PFN_cuTensorMapEncodeTiled_v12000 *encode)
{
    void *function = NULL;
    enum cudaDriverEntryPointQueryResult found;
    CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                              cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess || function == NULL)
        return fail(ERR_UNSUPPORTED,
                    "cuda: the driver has no tensor maps; 12.0 or newer is wanted");
    *(void **)encode = function;
    return OK;
}

static Status make(const TensorShape *shape, CUtensorMapDataType type, CUtensorMapSwizzle swizzle,
                   CUtensorMap *map)
{
    PFN_cuTensorMapEncodeTiled_v12000 encode = NULL;
    cuuint32_t ones[MAX_TENSOR_DIMENSIONS] = {1, 1, 1, 1, 1};
    TRY(find_encoder(&encode));
    CUresult result =
        encode(map, type, shape->n_dimensions, (void *)shape->data, shape->size,
               shape->stride_bytes + 1, shape->box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        return fail(ERR_IO,
                    "cuda: cuTensorMapEncodeTiled: error %d for %u dimensions, the first %llu x "
                    "%llu, rows of %llu bytes",
                    (int)result, shape->n_dimensions, (unsigned long long)shape->size[0],
                    (unsigned long long)shape->size[1], (unsigned long long)shape->stride_bytes[1]);
    return OK;
}

Status tensor_map_make(const TensorShape *shape, CUtensorMap *map)
{
    return make(shape, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                shape->box[0] == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, map);
}

Status tensor_map_make_f32(const TensorShape *shape, CUtensorMap *map)
{
    return make(shape, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, CU_TENSOR_MAP_SWIZZLE_NONE, map);
}
