#include "exec/text/byte_pieces.h"

#include <stdio.h>
#include <string.h>

void byte_pieces_find(const Vocabulary *vocabulary, BytePieces *pieces)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        if (!string_table_get(&vocabulary->ids, span_of(name), &pieces->ids[byte]))
            pieces->ids[byte] = NO_PIECE;
    }
}

bool byte_pieces_cover(const BytePieces *pieces, Span text)
{
    for (size_t i = 0; i < text.bytes; i++)
        if (pieces->ids[text.data[i]] == NO_PIECE)
            return false;
    return true;
}

static int hex_digit(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int byte_piece_value(Span piece)
{
    if (piece.bytes != 6 || memcmp(piece.data, "<0x", 3) != 0 || piece.data[5] != '>')
        return -1;
    int high = hex_digit(piece.data[3]);
    int low = hex_digit(piece.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}
