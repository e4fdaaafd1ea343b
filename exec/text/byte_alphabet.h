/* The characters that stand for bytes in byte-level vocabularies.
 *
 * GPT-2 (Radford et al. 2019, encoder.py: bytes_to_unicode): the 188 printable bytes of Latin-1
 * stand for themselves, the others for U+0100, U+0101, ... in ascending order. */
#ifndef EXEC_TEXT_BYTE_ALPHABET_H
#define EXEC_TEXT_BYTE_ALPHABET_H

#include <stdbool.h>

#include "exec/text/buffers.h"

typedef struct {
    uint16_t code_point[256]; /* byte -> character */
    int16_t byte[512];        /* character -> byte, -1: none */
} ByteAlphabet;

void byte_alphabet_init(ByteAlphabet *alphabet);
/* Appends the bytes that PIECE (valid UTF-8) stands for; false, and nothing appended, when one of
 * its characters stands for none. *STATUS is the append's. */
bool byte_alphabet_append_bytes(const ByteAlphabet *alphabet, Span piece, ByteBuffer *bytes,
                                Status *status);

#endif
