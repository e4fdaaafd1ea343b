#include "exec/text/byte_trie.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* The keys below a node: KEYS[from] to KEYS[to - 1] share their first DEPTH bytes. */
typedef struct {
    uint32_t from;
    uint32_t to;
    uint32_t depth;
} Range;

static int compare_keys(const void *left, const void *right)
{
    const TrieKey *a = left;
    const TrieKey *b = right;
    size_t shared = a->key.bytes < b->key.bytes ? a->key.bytes : b->key.bytes;
    int order = memcmp(a->key.data, b->key.data, shared);
    if (order != 0)
        return order;
    if (a->key.bytes != b->key.bytes)
        return a->key.bytes < b->key.bytes ? -1 : 1;
    return a->value < b->value ? -1 : a->value > b->value;
}

/* One node per distinct prefix, and the root. KEYS are sorted. */
static size_t count_nodes(const TrieKey *keys, size_t count)
{
    size_t nodes = 1;
    for (size_t i = 0; i < count; i++) {
        size_t shared = 0;
        if (i > 0)
            while (shared < keys[i - 1].key.bytes && shared < keys[i].key.bytes &&
                   keys[i - 1].key.data[shared] == keys[i].key.data[shared])
                shared++;
        nodes += keys[i].key.bytes - shared;
    }
    return nodes;
}

/* Adds the children of NODE after the nodes that are there. */
static void expand(ByteTrie *trie, Range *ranges, const TrieKey *keys, uint32_t node)
{
    Range range = ranges[node];
    uint32_t i = range.from;
    while (i < range.to && keys[i].key.bytes == range.depth) {
        if (trie->nodes[node].value == TRIE_NONE)
            trie->nodes[node].value = keys[i].value;
        i++;
    }
    trie->nodes[node].children = trie->n_nodes;
    while (i < range.to) {
        unsigned char byte = keys[i].key.data[range.depth];
        uint32_t from = i;
        while (i < range.to && keys[i].key.data[range.depth] == byte)
            i++;
        uint32_t child = trie->n_nodes++;
        trie->nodes[child] = (TrieNode){.value = TRIE_NONE, .byte = byte};
        trie->nodes[node].n_children++;
        ranges[child] = (Range){.from = from, .to = i, .depth = range.depth + 1};
    }
}

Status byte_trie_build(ByteTrie *trie, TrieKey *keys, size_t count)
{
    Range *ranges = NULL;
    *trie = (ByteTrie){0};
    if (count > 0)
        qsort(keys, count, sizeof *keys, compare_keys);
    size_t n_nodes = count_nodes(keys, count);
    if (n_nodes >= TRIE_NONE)
        return fail_memory("vocabulary", SIZE_MAX);
    TRY(mem_new(&trie->nodes, n_nodes, sizeof *trie->nodes, "vocabulary"));
    Status status = mem_new(&ranges, n_nodes, sizeof *ranges, "vocabulary");
    if (status != OK) {
        byte_trie_free(trie);
        return status;
    }
    trie->nodes[0].value = TRIE_NONE;
    trie->n_nodes = 1;
    ranges[0] = (Range){.to = (uint32_t)count};
    for (uint32_t node = 0; node < trie->n_nodes; node++)
        expand(trie, ranges, keys, node);
    assert(trie->n_nodes == n_nodes);
    mem_free(ranges);
    for (size_t byte = 0; byte < 256; byte++)
        trie->first[byte] = TRIE_NONE;
    for (uint32_t i = 0; i < trie->nodes[0].n_children; i++)
        trie->first[trie->nodes[1 + i].byte] = 1 + i;
    return OK;
}

void byte_trie_free(ByteTrie *trie)
{
    mem_free(trie->nodes);
    *trie = (ByteTrie){0};
}

uint32_t byte_trie_step(const ByteTrie *trie, uint32_t node, unsigned char byte)
{
    if (node == 0)
        return trie->first[byte];
    uint32_t low = trie->nodes[node].children;
    uint32_t high = low + trie->nodes[node].n_children;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (trie->nodes[middle].byte < byte)
            low = middle + 1;
        else
            high = middle;
    }
    uint32_t end = trie->nodes[node].children + trie->nodes[node].n_children;
    return low < end && trie->nodes[low].byte == byte ? low : TRIE_NONE;
}

size_t byte_trie_longest(const ByteTrie *trie, Span text, uint32_t *value)
{
    size_t longest = 0;
    uint32_t node = 0;
    for (size_t at = 0; at < text.bytes; at++) {
        node = byte_trie_step(trie, node, text.data[at]);
        if (node == TRIE_NONE)
            break;
        if (trie->nodes[node].value != TRIE_NONE) {
            longest = at + 1;
            *value = trie->nodes[node].value;
        }
    }
    return longest;
}
