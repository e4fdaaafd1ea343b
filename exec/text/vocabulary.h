/* The pieces of a model and their ids. */
#ifndef EXEC_TEXT_VOCABULARY_H
#define EXEC_TEXT_VOCABULARY_H

#include "base/json.h"
#include "exec/text/string_table.h"

/* Ids need not be dense: one without a piece has data == NULL. */
typedef struct {
    Span *pieces; /* [n_ids] */
    uint32_t n_ids;
    uint32_t n_pieces;
    StringTable ids; /* piece -> id */
    unsigned char *pool;
} Vocabulary;

enum { VOCABULARY_MAX = 1 << 24 };

/* Reads {"piece": id, ...}. Fails with ERR_INPUT, naming the piece: an id that is no whole number,
 * is VOCABULARY_MAX or more, or has two pieces. */
Status vocabulary_load_object(const JsonAt *at, Vocabulary *vocabulary);
/* Reads [["piece", score], ...]; ids count from 0. SCORES is [n_ids], from mem_new(), each as
 * Hugging Face's library reads it: the decimal digits as one number, divided by a power of ten,
 * which may be a unit in the last place off and so decides between segmentations of equal score. Of
 * equal pieces the last one's id is found by its text. */
Status vocabulary_load_scored(const JsonAt *at, Vocabulary *vocabulary, double **scores);
void vocabulary_free(Vocabulary *vocabulary);

#endif
