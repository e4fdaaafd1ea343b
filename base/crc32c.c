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

static uint64_t word_at(const unsigned char *data)
{
    uint64_t word;
    memcpy(&word, data, sizeof word);
    return word;
}

__attribute__((target("sse4.2"))) static uint64_t three_stretches(uint64_t state,
                                                                  const unsigned char *data)
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

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t state,
                                                            const unsigned char *data, size_t bytes)
{
    uint64_t wide = state;
    if (bytes >= 3 * STRETCH)
        pthread_once(&past_once, past_build);
    for (; bytes >= 3 * STRETCH; data += 3 * STRETCH, bytes -= 3 * STRETCH)
        wide = three_stretches(wide, data);
    for (; bytes >= 8; data += 8, bytes -= 8) {
        wide = __builtin_ia32_crc32di(wide, word_at(data));
    }
    state = (uint32_t)wide;
    for (; bytes > 0; data++, bytes--)
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
