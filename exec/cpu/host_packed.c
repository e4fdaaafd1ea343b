#define _GNU_SOURCE
#include "exec/cpu/host_packed.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
#endif

enum { WORD_BYTES = 16, WORDS = 8 /* of a block's row */ };

/* Rows of the block that ROW lies in. */
static uint32_t block_height(uint32_t row, uint32_t rows)
{
    uint32_t left = rows - row / PACKED_BLOCK_ROWS * PACKED_BLOCK_ROWS;
    return left < PACKED_BLOCK_ROWS ? left : PACKED_BLOCK_ROWS;
}

/* Where ROW's first word would lie without the swizzle. */
static size_t row_at(uint32_t row, uint32_t columns)
{
    uint32_t first = row / PACKED_BLOCK_ROWS * PACKED_BLOCK_ROWS;
    return 2 * (size_t)first * columns + (size_t)(row - first) * PACKED_ROW_BYTES;
}

PackedStrip packed_strip(const void *matrix, uint32_t rows, uint32_t columns, uint32_t strip)
{
    uint32_t row = strip * STRIP_ROWS;
    return (PackedStrip){.weights = (const unsigned char *)matrix + row_at(row, columns),
                         .block_bytes = (size_t)block_height(row, rows) * PACKED_ROW_BYTES,
                         .strips = 1,
                         .columns = columns};
}

size_t packed_word_at(uint32_t row, uint32_t word, uint32_t rows, uint32_t columns)
{
    return row_at(row, columns) +
           (size_t)(word / WORDS) * block_height(row, rows) * PACKED_ROW_BYTES +
           (size_t)((word ^ row) % WORDS) * WORD_BYTES;
}

PACKED_READS static float from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Word WORD, of 8 columns, of row ROW of the strips, which goes on into the next strip. */
PACKED_READS static void read_word(const PackedStrip *strip, uint32_t row, uint32_t word, float *to)
{
    uint16_t halves[8];
    memcpy(halves,
           strip->weights + word / WORDS * strip->block_bytes + (size_t)row * PACKED_ROW_BYTES +
               (size_t)((word ^ row) % WORDS) * WORD_BYTES,
           sizeof halves);
    for (uint32_t i = 0; i < 8; i++)
        to[i] = from_bf16(halves[i]);
}

PACKED_READS static void multiply_plain(const PackedStrip *strip)
{
    for (uint32_t row = 0; row < strip->strips * STRIP_ROWS; row++) {
        float *out = strip->out + (size_t)(row / STRIP_ROWS) * strip->n * STRIP_ROWS;
        for (uint32_t i = 0; i < strip->n; i++)
            out[packed_output_at(row % STRIP_ROWS, i, strip->n)] = 0;
        for (uint32_t word = 0; word < strip->columns / 8; word++) {
            float weights[8];
            read_word(strip, row, word, weights);
            for (uint32_t i = 0; i < strip->n; i++) {
                const uint16_t *in = strip->in + (size_t)i * strip->columns + 8 * (size_t)word;
                float sum = 0;
                for (uint32_t j = 0; j < 8; j++)
                    sum += weights[j] * from_bf16(in[j]);
                out[packed_output_at(row % STRIP_ROWS, i, strip->n)] += sum;
            }
        }
    }
}

size_t packed_input_at(bool pairs, uint32_t row, uint32_t column, uint32_t n, uint32_t columns)
{
    if (!pairs)
        return (size_t)row * columns + column;
    uint32_t first = row / PAIR_ROWS * PAIR_ROWS;
    uint32_t width = n - first < PAIR_ROWS ? n - first : PAIR_ROWS;
    return (size_t)first * columns + ((size_t)(column / 2) * width + row - first) * 2 + column % 2;
}

#if defined(__x86_64__)
/* The system must agree that the process uses the tiles' state. */
static bool has_amx(void)
{
    const unsigned tile = 1u << 24;
    const unsigned bf16 = 1u << 22;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (tile | bf16)) != (tile | bf16))
        return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static bool has_avx512_bf16(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
}

static const PackedKernel KERNELS[] = {{"AMX bf16", packed_strip_amx, true, true},
                                       {"AVX-512 bf16", packed_strip_avx512_bf16, false, true},
                                       {"plain C", multiply_plain, false, false}};

const PackedKernel *packed_kernels(size_t *n)
{
    size_t first = has_avx512_bf16() ? (has_amx() ? 0 : 1) : 2;
    *n = sizeof KERNELS / sizeof *KERNELS - first;
    return KERNELS + first;
}
#else
static const PackedKernel KERNELS[] = {{"plain C", multiply_plain, false, false}};

const PackedKernel *packed_kernels(size_t *n)
{
    *n = 1;
    return KERNELS;
}
#endif
