/* Small kernels that stand between the host and the operations. */
#ifndef EXEC_CUDA_CONVERT_H
#define EXEC_CUDA_CONVERT_H

#include "exec/cuda/check.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out[i] = in[i] rounded to bf16 */
Status convert_to_bf16(const float *in, size_t count, void *out, cudaStream_t stream);
/* ... and back */
Status convert_to_f32(const void *in, size_t count, float *out, cudaStream_t stream);

/* Writes the device's clock to *START. */
Status clock_note(uint64_t *start, cudaStream_t stream);
/* Ends when the device's clock is NS after *START or more. */
Status clock_wait(const uint64_t *start, uint64_t ns, cudaStream_t stream);

/* Holds the stream until *OVER in host memory has come to NUMBER, or a second has passed. */
Status hold_queue(const uint32_t *over, uint32_t number, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
