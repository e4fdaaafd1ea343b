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
__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t state,
                                                            const unsigned char *data, size_t bytes)
{
    uint64_t wide = state;
    for (; bytes >= 8; data += 8, bytes -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
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
