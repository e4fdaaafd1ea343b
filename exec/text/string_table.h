/* Byte strings -> numbers: a hash table with open addressing.
 *
 * Keys are not copied: they must outlive the table. */
#ifndef EXEC_TEXT_STRING_TABLE_H
#define EXEC_TEXT_STRING_TABLE_H

#include <stdbool.h>

#include "exec/text/buffers.h"

typedef struct {
    const unsigned char *key; /* NULL: free */
    uint32_t bytes;
    uint32_t value;
} StringEntry;

typedef struct {
    StringEntry *entries; /* [room], a power of two */
    size_t room;
    size_t count;
} StringTable;

/* Makes an empty table for at most COUNT keys. */
Status string_table_new(StringTable *table, size_t count);
void string_table_free(StringTable *table);
/* Sets KEY's value; true when it had one before, which is then replaced. KEY.data must not be
 * NULL. */
bool string_table_put(StringTable *table, Span key, uint32_t value);
bool string_table_get(const StringTable *table, Span key, uint32_t *value);

/* Not for adversaries who choose keys to collide: it is not keyed. */
uint64_t hash_bytes(const unsigned char *data, size_t bytes);
uint64_t hash_u64(uint64_t value);

#endif
