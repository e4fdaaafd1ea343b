#include "exec/text/utf8.h"

#include <string.h>

size_t utf8_write(uint32_t code_point, unsigned char *at)
{
    if (code_point < 0x80) {
        at[0] = (unsigned char)code_point;
        return 1;
    }
    size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    static const unsigned char LEADS[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = length - 1; i > 0; i--) {
        at[i] = (unsigned char)(0x80 | (code_point & 0x3F));
        code_point >>= 6;
    }
    at[0] = (unsigned char)(LEADS[length] | code_point);
    return length;
}

Status utf8_append(ByteBuffer *buffer, uint32_t code_point)
{
    TRY(bytes_reserve(buffer, 4));
    buffer->bytes += utf8_write(code_point, buffer->data + buffer->bytes);
    return OK;
}

size_t utf8_last_start(Span text)
{
    size_t at = text.bytes - 1;
    while (at > 0 && (text.data[at] & 0xC0) == 0x80)
        at--;
    return at;
}

size_t utf8_valid_length(Span text, size_t *wrong)
{
    const unsigned char *at = text.data;
    *wrong = 1;
    if (at[0] < 0x80)
        return 1;
    if (at[0] < 0xC2 || at[0] > 0xF4)
        return 0;
    /* The second byte's range depends on the lead: no overlong forms, surrogates or values above
     * U+10FFFF. */
    unsigned char least = at[0] == 0xE0 ? 0xA0 : at[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char most = at[0] == 0xED ? 0x9F : at[0] == 0xF4 ? 0x8F : 0xBF;
    size_t length = utf8_length(at[0]);
    for (size_t i = 1; i < length; i++) {
        if (i >= text.bytes || at[i] < least || at[i] > most) {
            *wrong = i;
            return 0;
        }
        least = 0x80;
        most = 0xBF;
    }
    return length;
}

size_t utf8_valid_prefix(Span text)
{
    size_t at = 0;
    while (at < text.bytes) {
        uint64_t eight;
        if (text.bytes - at >= sizeof eight) {
            memcpy(&eight, text.data + at, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) {
                at += sizeof eight;
                continue;
            }
        }
        size_t wrong;
        size_t length =
            utf8_valid_length((Span){.data = text.data + at, .bytes = text.bytes - at}, &wrong);
        if (length == 0)
            break;
        at += length;
    }
    return at;
}

Status utf8_append_mended(ByteBuffer *buffer, Span text)
{
    for (size_t at = 0; at < text.bytes;) {
        Span rest = {.data = text.data + at, .bytes = text.bytes - at};
        size_t good = utf8_valid_prefix(rest);
        TRY(bytes_append(buffer, rest.data, good));
        at += good;
        if (at == text.bytes)
            break;
        size_t wrong = 1;
        utf8_valid_length((Span){.data = text.data + at, .bytes = text.bytes - at}, &wrong);
        TRY(utf8_append(buffer, 0xFFFD));
        at += wrong;
    }
    return OK;
}
