/* bf16 and packed weights, plainly. */
#ifndef TESTS_PACKED_MAKER_H
#define TESTS_PACKED_MAKER_H

#include "base/status.h"
#include "tests/support.h"

#include <string.h>

#include "exec/cpu/host_packed.h"

static inline uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline float from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Puts matrix [rows][columns] of bf16 where its elements lie packed. */
static inline void pack(const uint16_t *matrix, uint32_t rows, uint32_t columns, unsigned char *to)
{
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t word = 0; word < columns / 8; word++)
            memcpy(to + packed_word_at(row, word, rows, columns),
                   matrix + (size_t)row * columns + 8 * word, 16);
}

#endif
