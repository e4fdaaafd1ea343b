/* A set of byte strings with a number each, walked byte by byte. */
#ifndef EXEC_TEXT_BYTE_TRIE_H
#define EXEC_TEXT_BYTE_TRIE_H

#include "exec/text/buffers.h"

#define TRIE_NONE UINT32_MAX

typedef struct {
    uint32_t children; /* the first; they follow each other, by ascending byte */
    uint32_t value;    /* TRIE_NONE: no string ends here */
    uint16_t n_children;
    unsigned char byte; /* that leads here */
} TrieNode;

typedef struct {
    TrieNode *nodes; /* [n_nodes]; 0 is the root */
    uint32_t n_nodes;
    uint32_t first[256]; /* the root's child of each byte, or TRIE_NONE */
} ByteTrie;

typedef struct {
    Span key; /* not empty */
    uint32_t value;
} TrieKey;

/* Builds a trie of KEYS[COUNT], which it sorts. Of equal keys the lowest value stays. */
Status byte_trie_build(ByteTrie *trie, TrieKey *keys, size_t count);
void byte_trie_free(ByteTrie *trie);
/* The child of NODE that BYTE leads to, or TRIE_NONE. */
uint32_t byte_trie_step(const ByteTrie *trie, uint32_t node, unsigned char byte);
/* The longest string that TEXT begins with: its length, and *VALUE; 0 when there is none. */
size_t byte_trie_longest(const ByteTrie *trie, Span text, uint32_t *value);

#endif
