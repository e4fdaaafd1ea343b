/* Warpgroup matrix multiply-accumulate, m64 nN k16, bf16 in, f32 sums. Operands lie in shared
 * memory with the 128-byte swizzle, K running fastest unless it is said; or A in registers.
 *
 * Thread t of the 128 holds, for each block j of 8 columns, sum[4 * j + i]: row
 * 16 * (t / 32) + t % 32 / 4 + 8 * (i / 2), column 8 * j + 2 * (t % 4) + i % 2. */
#ifndef EXEC_CUDA_WGMMA_CUH
#define EXEC_CUDA_WGMMA_CUH

#include <stdint.h>

/* Descriptor of rows of 128 bytes at ADDRESS (aligned to 1024): groups of 8 rows lie 1024 bytes
 * apart. Adding 2 moves it by 16 elements of K. */
__device__ inline uint64_t swizzled_operand(uint32_t address)
{
    const uint64_t rows_stride = 1024 >> 4;
    const uint64_t swizzle_128 = 1;
    return (uint64_t)((address & 0x3FFFF) >> 4) | (uint64_t)1 << 16 | rows_stride << 32 |
           swizzle_128 << 62;
}

/* Descriptor of an operand B whose columns run fastest: rows of 64 columns of 128 bytes, one per K,
 * at ADDRESS (aligned to 1024); the next 64 columns lie CHUNK_BYTES further. Adding 128 moves it by
 * 16 elements of K. */
__device__ inline uint64_t swizzled_columns(uint32_t address, uint32_t chunk_bytes)
{
    const uint64_t chunk_stride = chunk_bytes >> 4;
    return (swizzled_operand(address) & ~((uint64_t)0x3FFF << 16)) | chunk_stride << 16;
}

__device__ inline void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ inline void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most PENDING committed groups are unfinished. */
template <int PENDING> __device__ inline void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* After the wait: keeps the compiler from reading SUM before it. */
template <int M> __device__ inline void wgmma_results(float (&sum)[M])
{
#pragma unroll
    for (float &s : sum)
        asm volatile("" : "+f"(s)::"memory");
}

/* The operand numbers of the accumulators of N columns, and the operands themselves. */
#define NUMBERS_16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define NUMBERS_32 NUMBERS_16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NUMBERS_48 NUMBERS_32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define NUMBERS_64 NUMBERS_48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define NUMBERS_80 NUMBERS_64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define NUMBERS_96 NUMBERS_80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define NUMBERS_112 NUMBERS_96 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define NUMBERS_128 NUMBERS_112 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define NUMBERS_144 NUMBERS_128 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define NUMBERS_160 NUMBERS_144 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define NUMBERS_176 NUMBERS_160 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define NUMBERS_192 NUMBERS_176 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define NUMBERS_208 NUMBERS_192 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define NUMBERS_224 NUMBERS_208 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define NUMBERS_240 NUMBERS_224 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define NUMBERS_256 NUMBERS_240 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define EIGHT(i)                                                                                   \
    HOW(sum[8 * (i)]), HOW(sum[8 * (i) + 1]), HOW(sum[8 * (i) + 2]), HOW(sum[8 * (i) + 3]),        \
        HOW(sum[8 * (i) + 4]), HOW(sum[8 * (i) + 5]), HOW(sum[8 * (i) + 6]), HOW(sum[8 * (i) + 7])
#define HOW(x) "+f"(x)
#define SUMS_16 EIGHT(0)
#define SUMS_32 SUMS_16, EIGHT(1)
#define SUMS_48 SUMS_32, EIGHT(2)
#define SUMS_64 SUMS_48, EIGHT(3)
#define SUMS_80 SUMS_64, EIGHT(4)
#define SUMS_96 SUMS_80, EIGHT(5)
#define SUMS_112 SUMS_96, EIGHT(6)
#define SUMS_128 SUMS_112, EIGHT(7)
#define SUMS_144 SUMS_128, EIGHT(8)
#define SUMS_160 SUMS_144, EIGHT(9)
#define SUMS_176 SUMS_160, EIGHT(10)
#define SUMS_192 SUMS_176, EIGHT(11)
#define SUMS_208 SUMS_192, EIGHT(12)
#define SUMS_224 SUMS_208, EIGHT(13)
#define SUMS_240 SUMS_224, EIGHT(14)
#define SUMS_256 SUMS_240, EIGHT(15)

/* sum += a * b^T, N columns; set_product() takes the sum as zero before. */
template <int N> struct Wgmma;

#define WGMMA(N, OPERANDS)                                                                         \
    "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" NUMBERS_##N "}, " OPERANDS ";\n"

#define DEFINE_WGMMA(N, A, B)                                                                      \
    template <> struct Wgmma<N> {                                                                  \
        __device__ static void add_product(float (&sum)[N / 2], uint64_t a, uint64_t b)            \
        {                                                                                          \
            asm volatile(WGMMA(N, A ", " B ", 1, 1, 1, 0, 0") : SUMS_##N : "l"(a), "l"(b));        \
        }                                                                                          \
        __device__ static void set_product(float (&sum)[N / 2], uint64_t a, uint64_t b)            \
        {                                                                                          \
            asm volatile(WGMMA(N, A ", " B ", 0, 1, 1, 0, 0") : SUMS_##N : "l"(a), "l"(b));        \
        }                                                                                          \
    };

DEFINE_WGMMA(16, "%8", "%9")
DEFINE_WGMMA(32, "%16", "%17")
DEFINE_WGMMA(48, "%24", "%25")
DEFINE_WGMMA(64, "%32", "%33")
DEFINE_WGMMA(80, "%40", "%41")
DEFINE_WGMMA(96, "%48", "%49")
DEFINE_WGMMA(112, "%56", "%57")
DEFINE_WGMMA(128, "%64", "%65")
DEFINE_WGMMA(144, "%72", "%73")
DEFINE_WGMMA(160, "%80", "%81")
DEFINE_WGMMA(176, "%88", "%89")
DEFINE_WGMMA(192, "%96", "%97")
DEFINE_WGMMA(208, "%104", "%105")
DEFINE_WGMMA(224, "%112", "%113")
DEFINE_WGMMA(240, "%120", "%121")
DEFINE_WGMMA(256, "%128", "%129")

/* sum = a * b^T, N columns; what the sum was before is of no use from here on. */
template <int N> struct FirstWgmma;

#define DEFINE_FIRST_WGMMA(N, A, B)                                                                \
    template <> struct FirstWgmma<N> {                                                             \
        __device__ static void set_product(float (&sum)[N / 2], uint64_t a, uint64_t b)            \
        {                                                                                          \
            asm volatile(WGMMA(N, A ", " B ", 0, 1, 1, 0, 0") : SUMS_##N : "l"(a), "l"(b));        \
        }                                                                                          \
    };
#undef HOW
#define HOW(x) "=f"(x)
DEFINE_FIRST_WGMMA(16, "%8", "%9")
DEFINE_FIRST_WGMMA(32, "%16", "%17")
DEFINE_FIRST_WGMMA(48, "%24", "%25")
DEFINE_FIRST_WGMMA(64, "%32", "%33")
DEFINE_FIRST_WGMMA(80, "%40", "%41")
DEFINE_FIRST_WGMMA(96, "%48", "%49")
DEFINE_FIRST_WGMMA(112, "%56", "%57")
DEFINE_FIRST_WGMMA(128, "%64", "%65")
DEFINE_FIRST_WGMMA(144, "%72", "%73")
DEFINE_FIRST_WGMMA(160, "%80", "%81")
DEFINE_FIRST_WGMMA(176, "%88", "%89")
DEFINE_FIRST_WGMMA(192, "%96", "%97")
DEFINE_FIRST_WGMMA(208, "%104", "%105")
DEFINE_FIRST_WGMMA(224, "%112", "%113")
DEFINE_FIRST_WGMMA(240, "%120", "%121")
DEFINE_FIRST_WGMMA(256, "%128", "%129")
#undef HOW
#define HOW(x) "+f"(x)

/* sum += a * b, where B's columns run fastest. A is in shared memory, or in registers: of its 16 k,
 * lane l has the pairs (row l / 4, k 2 (l % 4)), (8 rows on), (8 k on), (both on). */
template <int N> struct WgmmaColumns;

#define DEFINE_WGMMA_COLUMNS(N, A, B, R1, R2, R3, RB)                                              \
    template <> struct WgmmaColumns<N> {                                                           \
        __device__ static void add_product(float (&sum)[N / 2], uint64_t a, uint64_t b)            \
        {                                                                                          \
            asm volatile(WGMMA(N, A ", " B ", 1, 1, 1, 0, 1") : SUMS_##N : "l"(a), "l"(b));        \
        }                                                                                          \
        __device__ static void add_product(float (&sum)[N / 2], uint32_t a0, uint32_t a1,          \
                                           uint32_t a2, uint32_t a3, uint64_t b)                   \
        {                                                                                          \
            asm volatile(WGMMA(N, "{" A ", " R1 ", " R2 ", " R3 "}, " RB ", 1, 1, 1, 1")           \
                         : SUMS_##N                                                                \
                         : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));                            \
        }                                                                                          \
    };

DEFINE_WGMMA_COLUMNS(64, "%32", "%33", "%33", "%34", "%35", "%36")
DEFINE_WGMMA_COLUMNS(128, "%64", "%65", "%65", "%66", "%67", "%68")
DEFINE_WGMMA_COLUMNS(256, "%128", "%129", "%129", "%130", "%131", "%132")

#endif
