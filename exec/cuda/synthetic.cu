#include "exec/cuda/synthetic.h"

#include <cuda_bf16.h>

#include "exec/cuda/put.cuh"

static constexpr uint32_t THREADS = 256;
static constexpr uint32_t MAX_BLOCKS = 1056;

/* A block takes rows in turn, its threads the elements of one. Some 25 integer instructions, five
 * of them products of 64 bits, for each element of 2 or 4 bytes: bound by these. */
template <typename Element>
__global__ void __launch_bounds__(THREADS) make_values(SyntheticPart part, Element *to)
{
    for (uint32_t row = blockIdx.x; row < part.rows; row += gridDim.x) {
        uint64_t first = part.first + row * part.row_step;
        Element *out = to + (size_t)row * part.columns;
        for (uint32_t column = threadIdx.x; column < part.columns; column += THREADS)
            put(out + column, synthetic_value(part.tensor, first + column * part.column_step));
    }
}

extern "C" Status synthetic_store(const SyntheticPart *part, bool bf16, void *to,
                                  cudaStream_t stream)
{
    uint32_t blocks = part->rows < MAX_BLOCKS ? part->rows : MAX_BLOCKS;
    if (part->rows == 0 || part->columns == 0)
        return OK;
    if (bf16)
        make_values<<<blocks, THREADS, 0, stream>>>(*part, (__nv_bfloat16 *)to);
    else
        make_values<<<blocks, THREADS, 0, stream>>>(*part, (float *)to);
    CUDA_TRY(cudaGetLastError());
    return OK;
}
