/* One block of device memory, cut into aligned pieces and freed at once. */
#ifndef EXEC_CUDA_DEVICE_ARENA_H
#define EXEC_CUDA_DEVICE_ARENA_H

#include "exec/cuda/check.h"

typedef struct {
    unsigned char *base;
    size_t capacity;
    size_t used;
} DeviceArena;

/* Takes BYTES of the current device, zeroed on return. When they are not free, the record says how
 * many are wanted, free and in the device. */
Status device_arena_open(size_t bytes, DeviceArena *arena);
void device_arena_close(DeviceArena *arena);
/* The next COUNT * SIZE bytes, aligned to 256. Fails with ERR_MEMORY when the arena is too small.
 */
Status device_arena_take(DeviceArena *arena, size_t count, size_t size, void *out_pointer);

#endif
