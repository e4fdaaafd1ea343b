/* Writing f32 values as elements of either type, rounded to nearest: one, or four in one word. */
#ifndef EXEC_CUDA_PUT_CUH
#define EXEC_CUDA_PUT_CUH

#include "exec/cuda/hopper.cuh"

__device__ inline void put(float *to, float value)
{
    *to = value;
}

__device__ inline void put(__nv_bfloat16 *to, float value)
{
    *to = __float2bfloat16_rn(value);
}

/* TO is aligned to four elements, as below. */
__device__ inline void put(float *to, float4 value)
{
    *(float4 *)to = value;
}

__device__ inline void put(__nv_bfloat16 *to, float4 value)
{
    *(uint2 *)to = make_uint2(pack_bf16(value.x, value.y), pack_bf16(value.z, value.w));
}

#endif
