#include "exec/cuda/rank_work.h"

#include "exec/cuda/random.h"

enum { ELEMENT_BYTES = 2, ROOM_BYTES = 4 * 256 };

size_t rank_work_bytes(uint32_t side, uint32_t most_rows)
{
    if (side == 0)
        return 0;
    return ((size_t)side + 2 * (size_t)most_rows) * side * ELEMENT_BYTES + CUBLAS_WORKSPACE_BYTES +
           ROOM_BYTES;
}

Status rank_work_open(DeviceArena *arena, uint32_t side, uint32_t most_rows, RankWork *work)
{
    void *workspace;
    size_t row = (size_t)side * ELEMENT_BYTES;
    *work = (RankWork){.side = side, .most_rows = most_rows};
    TRY(device_arena_take(arena, side, row, &work->matrix));
    TRY(device_arena_take(arena, most_rows, row, &work->in));
    TRY(device_arena_take(arena, most_rows, row, &work->out));
    TRY(device_arena_take(arena, CUBLAS_WORKSPACE_BYTES, 1, &workspace));
    TRY(cublas_open(workspace, &work->cublas));
    CUDA_TRY(cudaStreamCreateWithFlags(&work->stream, cudaStreamNonBlocking));
    TRY(random_fill(work->matrix, (size_t)side * side, 1, 1, work->stream));
    TRY(random_fill(work->in, (size_t)most_rows * side, 1, 2, work->stream));
    CUDA_TRY(cudaStreamSynchronize(work->stream));
    return OK;
}

void rank_work_close(RankWork *work)
{
    cublas_close(&work->cublas);
    if (work->stream != NULL)
        cudaStreamDestroy(work->stream);
    *work = (RankWork){0};
}

Status rank_work_queue(const RankWork *work, uint32_t rows, uint32_t times)
{
    const CublasProduct product = {.in = CUDA_R_16BF,
                                   .out = CUDA_R_16BF,
                                   .rows = rows,
                                   .columns = work->side,
                                   .depth = work->side,
                                   .count = 1};
    const CublasMatrix a = {.data = work->in, .columns = work->side};
    const CublasMatrix b = {.data = work->matrix, .columns = work->side};
    const CublasMatrix out = {.data = work->out, .columns = work->side};
    for (uint32_t i = 0; i < times; i++)
        TRY(cublas_product(&work->cublas, &product, &a, &b, &out, work->stream));
    return OK;
}
