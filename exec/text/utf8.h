/* UTF-8: reading, writing, checking and mending. */
#ifndef EXEC_TEXT_UTF8_H
#define EXEC_TEXT_UTF8_H

#include <stdbool.h>

#include "exec/text/buffers.h"

/* Bytes of the sequence that LEAD begins in valid UTF-8. */
static inline size_t utf8_length(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* The code point at AT, which is the start of a sequence in valid UTF-8. */
static inline uint32_t utf8_code_point(const unsigned char *at)
{
    if (at[0] < 0x80)
        return at[0];
    if (at[0] < 0xE0)
        return (uint32_t)(at[0] & 0x1F) << 6 | (at[1] & 0x3F);
    if (at[0] < 0xF0)
        return (uint32_t)(at[0] & 0x0F) << 12 | (uint32_t)(at[1] & 0x3F) << 6 | (at[2] & 0x3F);
    return (uint32_t)(at[0] & 0x07) << 18 | (uint32_t)(at[1] & 0x3F) << 12 |
           (uint32_t)(at[2] & 0x3F) << 6 | (at[3] & 0x3F);
}

/* Writes CODE_POINT at AT (room for 4 bytes) and returns its length. */
size_t utf8_write(uint32_t code_point, unsigned char *at);
Status utf8_append(ByteBuffer *buffer, uint32_t code_point);

/* The start of the last code point of TEXT, which is valid and not empty. */
size_t utf8_last_start(Span text);

/* Length of the valid sequence at the start of TEXT, 0 when there is none; *WRONG is then the
 * length of the maximal subpart (Unicode 15, section 3.9), 1 or more. RFC 3629: no surrogates, no
 * overlong forms. TEXT must not be empty. */
size_t utf8_valid_length(Span text, size_t *wrong);
/* How many bytes at the start of TEXT are valid. */
size_t utf8_valid_prefix(Span text);
/* Appends TEXT with U+FFFD for each maximal subpart of an ill-formed sequence, as Python's
 * bytes.decode("utf-8", errors="replace"). */
Status utf8_append_mended(ByteBuffer *buffer, Span text);

#endif
