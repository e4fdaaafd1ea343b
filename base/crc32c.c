#include "base/crc32c.h"

#include <pthread.h>
#include <string.h>

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
/* The instruction takes three times as long as until the next can begin: three stretches go side
 * by side. */
enum { SHORT = 128, LONG = 1024 };

/* What a state becomes when so many zeroes follow, by each of its bytes: the checksum is linear. */
typedef uint32_t Past[4][256];
static Past past_short;
static Past past_long;
static pthread_once_t short_once = PTHREAD_ONCE_INIT;
static pthread_once_t long_once = PTHREAD_ONCE_INIT;

static void past_build(Past past, size_t stretch)
{
    static const unsigned char zeroes[LONG];
    for (int byte = 0; byte < 4; byte++)
        for (uint32_t value = 1; value < 256; value++) {
            uint32_t others = value & (value - 1); /* than its lowest bit */
            past[byte][value] = others != 0 ? past[byte][others] ^ past[byte][value ^ others]
                                            : crc_portable(value << 8 * byte, zeroes, stretch);
        }
}

static void past_short_build(void)
{
    past_build(past_short, SHORT);
}

static void past_long_build(void)
{
    past_build(past_long, LONG);
}

static uint64_t go_past(Past past, uint64_t state)
{
    return past[0][state & 0xFF] ^ past[1][state >> 8 & 0xFF] ^ past[2][state >> 16 & 0xFF] ^
           past[3][state >> 24 & 0xFF];
}

static uint64_t word_at(const unsigned char *data)
{
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

/* Stretches of STRETCH bytes, three at a time, up to END; returns where they end. */
__attribute__((target("sse4.2"))) static const unsigned char *
by_stretches(uint64_t *state, const unsigned char *data, const unsigned char *end, Past past,
             size_t stretch)
{
    uint64_t first = *state;
    for (; (size_t)(end - data) >= 3 * stretch; data += 3 * stretch) {
        uint64_t second = 0;
        uint64_t third = 0;
        for (size_t i = 0; i < stretch; i += 8) {
            first = __builtin_ia32_crc32di(first, word_at(data + i));
            second = __builtin_ia32_crc32di(second, word_at(data + stretch + i));
            third = __builtin_ia32_crc32di(third, word_at(data + 2 * stretch + i));
        }
        first = go_past(past, go_past(past, first) ^ second) ^ third;
    }
    *state = first;
    return data;
}

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t state,
                                                            const unsigned char *data, size_t bytes)
{
    uint64_t wide = state;
    const unsigned char *end = data + bytes;
    if (bytes >= 3 * LONG) {
        pthread_once(&long_once, past_long_build);
        data = by_stretches(&wide, data, end, past_long, LONG);
    }
    if (end - data >= 3 * SHORT) {
        pthread_once(&short_once, past_short_build);
        data = by_stretches(&wide, data, end, past_short, SHORT);
    }
    for (; end - data >= 8; data += 8)
        wide = __builtin_ia32_crc32di(wide, word_at(data));
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
