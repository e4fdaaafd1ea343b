#include "exec/cuda/launch.cuh"
#include "exec/cuda/packed.cuh"

static constexpr uint32_t PACK_THREADS = 256;
static constexpr uint32_t BLOCK_WORDS = BLOCK_BYTES / 16;

/* One thread: a word of 8 columns of a packed matrix of ROWS x COLUMNS. Reads and writes every byte
 * once; bound by memory. */
__global__ void __launch_bounds__(PACK_THREADS)
    pack_matrix(const __nv_bfloat16 *gate, const __nv_bfloat16 *matrix, uint32_t rows,
                uint32_t columns, uint32_t column_blocks, uint4 *packed)
{
    wait_for_earlier_kernels();
    uint32_t word = blockIdx.x * PACK_THREADS + threadIdx.x;
    uint32_t block = word / BLOCK_WORDS;
    uint32_t in_block = word % BLOCK_WORDS;
    uint32_t row = block / column_blocks * BLOCK_ROWS + in_block / 8;
    uint32_t column = block % column_blocks * BLOCK_COLUMNS + in_block % 8 * 8;
    const __nv_bfloat16 *from = matrix;
    if (gate != NULL) {
        from = row % 16 < 8 ? gate : matrix;
        row = row / 16 * 8 + row % 8;
    }
    __align__(16) __nv_bfloat16 values[8];
    for (uint32_t i = 0; i < 8; i++)
        values[i] = row < rows && column + i < columns ? from[(size_t)row * columns + column + i]
                                                       : __float2bfloat16_rn(0);
    packed[(size_t)block * BLOCK_WORDS + swizzled_word(in_block / 8, in_block % 8)] =
        *(const uint4 *)values;
}

static Status pack(const void *gate, const void *matrix, uint32_t rows, uint32_t columns,
                   void *packed, cudaStream_t stream)
{
    uint32_t column_blocks = packed_column_blocks(columns);
    uint32_t blocks = packed_row_blocks(gate != NULL ? 2 * rows : rows) * column_blocks;
    const LaunchShape launch = {dim3(blocks * (BLOCK_WORDS / PACK_THREADS)), PACK_THREADS, 0, 0};
    return launch_after(pack_matrix, launch, stream, (const __nv_bfloat16 *)gate,
                        (const __nv_bfloat16 *)matrix, rows, columns, column_blocks,
                        (uint4 *)packed);
}

extern "C" Status packed_expert_store(const ExpertShape *shape, const void *gate, const void *up,
                                      const void *down, void *first, void *second,
                                      cudaStream_t stream)
{
    TRY(pack(shape->gated ? gate : NULL, up, shape->d_ff, shape->d_model, first, stream));
    return pack(NULL, down, shape->d_model, shape->d_ff, second, stream);
}
