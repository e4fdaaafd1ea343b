#include "exec/text/byte_alphabet.h"

#include "exec/text/utf8.h"

static bool stands_for_itself(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
}

void byte_alphabet_init(ByteAlphabet *alphabet)
{
    uint16_t next = 0x100;
    for (size_t i = 0; i < 512; i++)
        alphabet->byte[i] = -1;
    for (unsigned byte = 0; byte < 256; byte++) {
        alphabet->code_point[byte] = stands_for_itself(byte) ? (uint16_t)byte : next++;
        alphabet->byte[alphabet->code_point[byte]] = (int16_t)byte;
    }
}

bool byte_alphabet_append_bytes(const ByteAlphabet *alphabet, Span piece, ByteBuffer *bytes,
                                Status *status)
{
    size_t before = bytes->bytes;
    *status = bytes_reserve(bytes, piece.bytes);
    if (*status != OK)
        return false;
    for (size_t at = 0; at < piece.bytes; at += utf8_length(piece.data[at])) {
        uint32_t code_point = utf8_code_point(piece.data + at);
        int byte = code_point < 512 ? alphabet->byte[code_point] : -1;
        if (byte < 0) {
            bytes->bytes = before;
            return false;
        }
        bytes->data[bytes->bytes++] = (unsigned char)byte;
    }
    return true;
}
