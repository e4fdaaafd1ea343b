#include "base/crc32c.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint32_t table[256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void table_build(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0x82F63B78u : value >> 1;
        table[byte] = value;
    }
}

static uint32_t crc_portable(uint32_t state, const unsigned char *data, size_t bytes)
{
    pthread_once(&table_once, table_build);
    for (size_t i = 0; i < bytes; i++)
        state = table[(state ^ data[i]) & 0xFF] ^ state >> 8;
    return state;
}

#if defined(__x86_64__)
#define SSE42 __attribute__((target("sse4.2")))
#define FOLDING __attribute__((target("avx512f,vpclmulqdq")))

static uint64_t word_at(const unsigned char *data)
{
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

/* ---- three stretches ---- */

/* The instruction takes three times as long as until the next can begin: three stretches go side
 * by side. */
enum { STRETCH = 128 };

/* What a state becomes when STRETCH zeroes follow, by each of its bytes: the checksum is linear. */
static uint32_t past_stretch[4][256];
static pthread_once_t past_once = PTHREAD_ONCE_INIT;

static void past_build(void)
{
    static const unsigned char zeroes[STRETCH];
    for (int byte = 0; byte < 4; byte++)
        for (uint32_t value = 1; value < 256; value++) {
            uint32_t others = value & (value - 1); /* than its lowest bit */
            past_stretch[byte][value] =
                others != 0 ? past_stretch[byte][others] ^ past_stretch[byte][value ^ others]
                            : crc_portable(value << 8 * byte, zeroes, STRETCH);
        }
}

static uint64_t past(uint64_t state)
{
    return past_stretch[0][state & 0xFF] ^ past_stretch[1][state >> 8 & 0xFF] ^
           past_stretch[2][state >> 16 & 0xFF] ^ past_stretch[3][state >> 24 & 0xFF];
}

SSE42 static uint64_t three_stretches(uint64_t state, const unsigned char *data)
{
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < STRETCH; i += 8) {
        state = __builtin_ia32_crc32di(state, word_at(data + i));
        second = __builtin_ia32_crc32di(second, word_at(data + STRETCH + i));
        third = __builtin_ia32_crc32di(third, word_at(data + 2 * STRETCH + i));
    }
    return past(past(state) ^ second) ^ third;
}

/* ---- folding ---- */

/* Text is a polynomial over bits, of which the checksum is the remainder: 128 bits of it may be
 * replaced by what they come to DISTANCE further on, which is a product with two constants. Gopal,
 * Ozturk et al., Fast CRC Computation for Generic Polynomials Using PCLMULQDQ, Intel 2009. */
enum { LANES = 64, FOLDED = 4 * LANES };

typedef struct {
    uint64_t low; /* of a lane's first 64 bits, which are the higher powers */
    uint64_t high;
} Factors;

static Factors factors_far;  /* FOLDED bytes further on */
static Factors factors_next; /* LANES bytes */
static pthread_once_t factors_once = PTHREAD_ONCE_INIT;

/* Bits are mirrored, so that a product is one power too high: x^7 in place of x^8. */
static Factors factors_of(size_t distance)
{
    static const unsigned char zeroes[FOLDED + 7];
    const uint32_t x7 = 0x01000000u;
    return (Factors){.low = (uint64_t)crc_portable(x7, zeroes, distance + 7) << 32,
                     .high = (uint64_t)crc_portable(x7, zeroes, distance - 1) << 32};
}

static void factors_build(void)
{
    factors_far = factors_of(FOLDED);
    factors_next = factors_of(LANES);
}

FOLDING static inline __m512i factors_in(const Factors *factors)
{
    return _mm512_set_epi64((long long)factors->high, (long long)factors->low,
                            (long long)factors->high, (long long)factors->low,
                            (long long)factors->high, (long long)factors->low,
                            (long long)factors->high, (long long)factors->low);
}

/* LANES further on, where MORE is. */
FOLDING static inline __m512i fold(__m512i lanes, __m512i factors, __m512i more)
{
    const __m512i low = _mm512_clmulepi64_epi128(lanes, factors, 0x00);
    const __m512i high = _mm512_clmulepi64_epi128(lanes, factors, 0x11);
    return _mm512_ternarylogic_epi64(low, high, more, 0x96);
}

/* Folds whole FOLDED bytes of DATA, of which there are two at least, into REST, from which the
 * checksum goes on with 0; returns their end. */
FOLDING static const unsigned char *fold_all(uint32_t state, const unsigned char *data,
                                             const unsigned char *end, unsigned char rest[LANES])
{
    const __m512i far = factors_in(&factors_far);
    const __m512i next = factors_in(&factors_next);
    __m512i lanes[4];
    for (int i = 0; i < 4; i++)
        lanes[i] = _mm512_loadu_si512(data + LANES * i);
    lanes[0] = _mm512_xor_si512(lanes[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)state)));
    for (data += FOLDED; end - data >= FOLDED; data += FOLDED)
        for (int i = 0; i < 4; i++)
            lanes[i] = fold(lanes[i], far, _mm512_loadu_si512(data + LANES * i));
    for (int i = 1; i < 4; i++)
        lanes[i] = fold(lanes[i - 1], next, lanes[i]);
    _mm512_storeu_si512(rest, lanes[3]);
    return data;
}

static bool can_fold(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
}

SSE42 static uint64_t by_words(uint64_t state, const unsigned char *data, size_t bytes)
{
    for (size_t i = 0; i + 8 <= bytes; i += 8)
        state = __builtin_ia32_crc32di(state, word_at(data + i));
    return state;
}

SSE42 static uint32_t crc_sse42(uint32_t state, const unsigned char *data, size_t bytes)
{
    uint64_t wide = state;
    const unsigned char *end = data + bytes;
    if (bytes >= 2 * FOLDED && can_fold()) {
        unsigned char rest[LANES];
        pthread_once(&factors_once, factors_build);
        data = fold_all(state, data, end, rest);
        wide = by_words(0, rest, LANES);
    }
    if (end - data >= 3 * STRETCH)
        pthread_once(&past_once, past_build);
    for (; end - data >= 3 * STRETCH; data += 3 * STRETCH)
        wide = three_stretches(wide, data);
    wide = by_words(wide, data, (size_t)(end - data));
    data += (end - data) / 8 * 8;
    state = (uint32_t)wide;
    for (; data < end; data++)
        state = __builtin_ia32_crc32qi(state, *data);
    return state;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc_sse42(~crc, data, bytes);
#endif
    return ~crc_portable(~crc, data, bytes);
}
