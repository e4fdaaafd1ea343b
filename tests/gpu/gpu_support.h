/* What tests of kernels need: a queue of operations, and arrays on both sides.
 *
 * Everything made here lives until gpu_reset(). */
#ifndef TESTS_GPU_SUPPORT_H
#define TESTS_GPU_SUPPORT_H

#include "exec/backend.h"
#include "exec/cuda/ops.h"
#include "tests/support.h"

/* The same numbers on the host and on the device. */
typedef struct {
    float *host;
    float *device;
    size_t n;
} Floats;

/* The test's queue; scratch is what SCRATCH_BYTES says. Opened on the first call. */
OpsQueue gpu_queue(ComputeType compute);
/* Frees all arrays. */
void gpu_reset(void);

void *gpu_upload(const void *from, size_t bytes);
/* N random numbers in -1 to 1, at the nearest bf16 when ROUNDED. */
Floats gpu_random(uint64_t *state, size_t n, bool rounded);
/* N NaNs on the device, zeros on the host: what an operation shall write. */
Floats gpu_result(size_t n);
/* FLOATS as matrix elements of COMPUTE on the device. */
void *gpu_elements(const Floats *floats, ComputeType compute);
float gpu_rounded(float value);

/* N random numbers in -SCALE to SCALE at the nearest bf16, on the host; the caller frees them. */
float *gpu_random_floats(uint64_t *state, size_t n, float scale);
/* The matrix [rows][columns] of the floats at *AT, which moves behind it. */
Part gpu_matrix_part(float **at, uint32_t rows, uint32_t columns);

/* Slots FILLED to N - 1, of STRIDE bytes, become what those before are, over and over. */
void gpu_repeat_slots(const Backend *backend, Device *device, unsigned char *slots, size_t stride,
                      uint32_t filled, uint32_t n);

/* Waits, and compares elements of COMPUTE on the device with what FLOATS has on the host. */
void gpu_assert_elements_near(const OpsQueue *queue, ComputeType compute, const void *elements,
                              const Floats *floats, float tolerance);
/* Waits: what the device's N floats are; until gpu_reset(). */
const float *gpu_read(const OpsQueue *queue, const float *from, size_t n);
/* Waits; the device's N floats at A and at B are the same bits. */
void gpu_assert_same(const OpsQueue *queue, const float *a, const float *b, size_t n);

/* |got - want| / |want| of N numbers on the host, as lengths of vectors. */
double gpu_distance(const float *got, const float *want, size_t n);

/* Waits, and compares what the device has with the host: within TOLERANCE of the larger of 1 and
 * the host's number. */
void gpu_assert_near(const OpsQueue *queue, const Floats *floats, float tolerance);

#endif
