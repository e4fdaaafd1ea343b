#include "exec/ffn_layout.h"

#include <stdint.h>

enum { PART_ALIGNMENT = 64 };

/* Puts COUNT elements of SIZE bytes at the end of LAYOUT and returns their offset. */
static size_t append(FfnLayout *layout, uint64_t count, size_t size)
{
    size_t at = layout->bytes;
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes) ||
        __builtin_add_overflow(bytes, PART_ALIGNMENT - 1, &bytes) ||
        __builtin_add_overflow(at, bytes / PART_ALIGNMENT * PART_ALIGNMENT, &layout->bytes))
        layout->bytes = SIZE_MAX / PART_ALIGNMENT * PART_ALIGNMENT;
    return at;
}

FfnLayout ffn_layout(const FfnShape *shape, size_t weight_bytes)
{
    FfnLayout layout = {0};
    uint64_t rows = ffn_first_rows(shape);
    layout.first = append(&layout, rows * shape->d_model, weight_bytes);
    layout.first_bias = append(&layout, shape->bias ? rows : 0, sizeof(float));
    layout.second = append(&layout, (uint64_t)shape->d_model * shape->d_ff, weight_bytes);
    layout.second_bias = append(&layout, shape->bias ? shape->d_model : 0, sizeof(float));
    return layout;
}
