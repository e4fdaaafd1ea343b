#include "exec/cuda/launch.cuh"
#include "exec/cuda/packed.cuh"

static constexpr uint32_t PACK_THREADS = 256;

/* One thread: a word of 8 columns of a packed matrix of ROWS x COLUMNS, which has gate's rows
 * before up's when it is GATED. Reads and writes every byte once; bound by memory. */
__global__ void __launch_bounds__(PACK_THREADS)
    pack_matrix(const uint4 *matrix, uint32_t rows, uint32_t columns, bool gated, uint4 *packed)
{
    uint32_t words = columns / 8;
    size_t i = (size_t)blockIdx.x * PACK_THREADS + threadIdx.x;
    uint32_t row = (uint32_t)(i / words);
    uint32_t word = (uint32_t)(i % words);
    if (row >= rows)
        return;
    uint32_t from = gated ? row / 16 * 8 + row % 8 + (row % 16 < 8 ? 0 : rows / 2) : row;
    packed[packed_word(row, word, rows, columns)] = matrix[(size_t)from * words + word];
}

static Status pack(const void *matrix, uint32_t rows, uint32_t columns, bool gated, void *packed,
                   cudaStream_t stream)
{
    size_t words = (size_t)rows * (columns / 8);
    uint32_t blocks = (uint32_t)((words + PACK_THREADS - 1) / PACK_THREADS);
    pack_matrix<<<blocks, PACK_THREADS, 0, stream>>>((const uint4 *)matrix, rows, columns, gated,
                                                     (uint4 *)packed);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

extern "C" Status packed_expert_store(const FfnShape *shape, const void *dense, void *packed,
                                      cudaStream_t stream)
{
    const FfnLayout layout = ffn_layout(shape, sizeof(uint16_t));
    const unsigned char *from = (const unsigned char *)dense;
    unsigned char *to = (unsigned char *)packed;
    TRY(pack(from + layout.first, ffn_first_rows(shape), shape->d_model, shape->gated,
             to + layout.first, stream));
    TRY(pack(from + layout.second, shape->d_model, shape->d_ff, false, to + layout.second, stream));
    if (!shape->bias)
        return OK;
    CUDA_TRY(cudaMemcpyAsync(to + layout.first_bias, from + layout.first_bias,
                             layout.second - layout.first_bias, cudaMemcpyDeviceToDevice, stream));
    CUDA_TRY(cudaMemcpyAsync(to + layout.second_bias, from + layout.second_bias,
                             layout.bytes - layout.second_bias, cudaMemcpyDeviceToDevice, stream));
    return OK;
}
