#include "traces/rowcrc.h"

#include <string.h>

#include "base/crc32c.h"

enum { TAG_NULL, TAG_INTEGER, TAG_TEXT, TAG_BLOB, TAG_REAL };

static uint32_t add_tagged(uint32_t crc, unsigned char tag, uint64_t number)
{
    unsigned char bytes[9] = {tag};
    for (int i = 0; i < 8; i++)
        bytes[i + 1] = (unsigned char)(number >> 8 * i);
    return crc32c(crc, bytes, sizeof bytes);
}

uint32_t rowcrc_null(uint32_t crc)
{
    const unsigned char tag = TAG_NULL;
    return crc32c(crc, &tag, 1);
}

uint32_t rowcrc_integer(uint32_t crc, int64_t value)
{
    return add_tagged(crc, TAG_INTEGER, (uint64_t)value);
}

uint32_t rowcrc_real(uint32_t crc, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return add_tagged(crc, TAG_REAL, bits);
}

uint32_t rowcrc_text(uint32_t crc, const char *text, size_t bytes)
{
    return crc32c(add_tagged(crc, TAG_TEXT, bytes), text, bytes);
}

uint32_t rowcrc_blob(uint32_t crc, const void *data, size_t bytes)
{
    return crc32c(add_tagged(crc, TAG_BLOB, bytes), data, bytes);
}

uint32_t rowcrc_text_or_null(uint32_t crc, const char *text)
{
    return text == NULL ? rowcrc_null(crc) : rowcrc_text(crc, text, strlen(text));
}
