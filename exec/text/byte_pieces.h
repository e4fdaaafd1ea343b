/* The pieces <0x00> to <0xFF>, by which a vocabulary falls back to bytes. */
#ifndef EXEC_TEXT_BYTE_PIECES_H
#define EXEC_TEXT_BYTE_PIECES_H

#include "exec/text/vocabulary.h"

#define NO_PIECE UINT32_MAX

typedef struct {
    uint32_t ids[256]; /* NO_PIECE where the vocabulary has none */
} BytePieces;

void byte_pieces_find(const Vocabulary *vocabulary, BytePieces *pieces);
/* True when every byte of TEXT has a piece. */
bool byte_pieces_cover(const BytePieces *pieces, Span text);
/* The byte that PIECE names ("<0x0A>", either case), or -1. */
int byte_piece_value(Span piece);

#endif
