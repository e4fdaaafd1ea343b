#include "exec/text/string_table.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"

uint64_t hash_u64(uint64_t value)
{
    value ^= value >> 32;
    value *= 0xD6E8FEB86659FD93u;
    value ^= value >> 32;
    value *= 0xD6E8FEB86659FD93u;
    return value ^ value >> 32;
}

uint64_t hash_bytes(const unsigned char *data, size_t bytes)
{
    uint64_t hash = bytes * 0x9E3779B97F4A7C15u;
    uint64_t word;
    for (; bytes >= sizeof word; data += sizeof word, bytes -= sizeof word) {
        memcpy(&word, data, sizeof word);
        hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
        hash ^= hash >> 32;
    }
    word = 0;
    memcpy(&word, data, bytes);
    return hash_u64(hash ^ word);
}

Status string_table_new(StringTable *table, size_t count)
{
    size_t room = 16;
    while (room < 2 * count)
        room *= 2;
    *table = (StringTable){0};
    TRY(mem_new(&table->entries, room, sizeof *table->entries, "vocabulary"));
    table->room = room;
    return OK;
}

void string_table_free(StringTable *table)
{
    mem_free(table->entries);
    *table = (StringTable){0};
}

/* Where KEY stands, or the free entry where it would. */
static StringEntry *find(const StringTable *table, Span key)
{
    size_t mask = table->room - 1;
    size_t i = hash_bytes(key.data, key.bytes) & mask;
    for (;; i = (i + 1) & mask) {
        StringEntry *entry = &table->entries[i];
        if (entry->key == NULL ||
            (entry->bytes == key.bytes && memcmp(entry->key, key.data, key.bytes) == 0))
            return entry;
    }
}

bool string_table_put(StringTable *table, Span key, uint32_t value)
{
    StringEntry *entry = find(table, key);
    bool known = entry->key != NULL;
    if (!known) {
        assert(2 * table->count < table->room && key.bytes <= UINT32_MAX);
        table->count++;
        *entry = (StringEntry){.key = key.data, .bytes = (uint32_t)key.bytes};
    }
    entry->value = value;
    return known;
}

bool string_table_get(const StringTable *table, Span key, uint32_t *value)
{
    if (table->room == 0)
        return false;
    const StringEntry *entry = find(table, key);
    if (entry->key == NULL)
        return false;
    *value = entry->value;
    return true;
}
