#include "exec/text/charsmap.h"

#include <string.h>

#include "base/base64.h"
#include "base/memory.h"
#include "exec/text/unicode.h"
#include "exec/text/utf8.h"

static Status decode_base64(const JsonAt *at, Span text, ByteBuffer *out)
{
    TRY(bytes_reserve(out, text.bytes));
    if (!base64_decode((const char *)text.data, text.bytes, out->data, &out->bytes))
        return json_fail(at, "not base64");
    return OK;
}

static uint32_t u32_at(const unsigned char *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static Status read_map(const JsonAt *at, Span blob, Charsmap *map)
{
    size_t trie_bytes = blob.bytes >= 4 ? u32_at(blob.data) : 0;
    if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > blob.bytes - 4)
        return json_fail(at, "not a character map");
    map->n_units = trie_bytes / 4;
    map->pool_bytes = blob.bytes - 4 - trie_bytes;
    Span pool = {.data = blob.data + 4 + trie_bytes, .bytes = map->pool_bytes};
    if (utf8_valid_prefix(pool) != pool.bytes)
        return json_fail(at, "not a character map: its replacements are not UTF-8");
    TRY(mem_new(&map->units, map->n_units, sizeof *map->units, "character map"));
    TRY(mem_new(&map->pool, map->pool_bytes + 1, 1, "character map"));
    for (size_t i = 0; i < map->n_units; i++)
        map->units[i] = u32_at(blob.data + 4 + 4 * i);
    memcpy(map->pool, pool.data, pool.bytes);
    return OK;
}

Status charsmap_load(const JsonAt *at, Charsmap *map)
{
    const char *text = NULL;
    ByteBuffer blob = {0};
    *map = (Charsmap){0};
    TRY(json_text(at, &text));
    Status status = decode_base64(at, span_of(text), &blob);
    if (status == OK)
        status = read_map(at, bytes_span(&blob, 0), map);
    bytes_free(&blob);
    if (status != OK)
        charsmap_free(map);
    return status;
}

void charsmap_free(Charsmap *map)
{
    mem_free(map->units);
    mem_free(map->pool);
    *map = (Charsmap){0};
}

/* A unit's fields, as Darts-clone packs them. */
static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

static uint32_t unit_label(uint32_t unit)
{
    return unit & ((1u << 31) | 0xFF);
}

static bool unit_has_leaf(uint32_t unit)
{
    return (unit >> 8 & 1) != 0;
}

/* The replacement of the shortest rule that TEXT begins with. A trie that points outside itself has
 * no rule there. */
static bool shortest_rule(const Charsmap *map, Span text, Span *replacement)
{
    size_t at = unit_offset(map->units[0]);
    for (size_t i = 0; i < text.bytes && text.data[i] != 0; i++) {
        at ^= text.data[i];
        if (at >= map->n_units || unit_label(map->units[at]) != text.data[i])
            return false;
        bool leaf = unit_has_leaf(map->units[at]);
        at ^= unit_offset(map->units[at]);
        if (!leaf)
            continue;
        size_t value = at < map->n_units ? map->units[at] & 0x7FFFFFFF : SIZE_MAX;
        if (value >= map->pool_bytes || (map->pool[value] & 0xC0) == 0x80)
            return false;
        const char *start = (const char *)map->pool + value; /* the pool ends in a zero */
        *replacement = span_of(start);
        return true;
    }
    return false;
}

static Status append_characters(const Charsmap *map, Span text, ByteBuffer *out)
{
    for (size_t at = 0; at < text.bytes;) {
        Span character = {.data = text.data + at, .bytes = utf8_length(text.data[at])};
        Span made = character;
        shortest_rule(map, character, &made);
        TRY(bytes_append(out, made.data, made.bytes));
        at += character.bytes;
    }
    return OK;
}

Status charsmap_append(const Charsmap *map, Span text, ByteBuffer *out)
{
    enum { WHOLE_BYTES = 5 };
    for (size_t at = 0; at < text.bytes;) {
        Span rest = {.data = text.data + at, .bytes = text.bytes - at};
        Span cluster = {.data = rest.data, .bytes = unicode_grapheme(rest)};
        Span made;
        if (cluster.bytes <= WHOLE_BYTES && shortest_rule(map, cluster, &made))
            TRY(bytes_append(out, made.data, made.bytes));
        else
            TRY(append_characters(map, cluster, out));
        at += cluster.bytes;
    }
    return OK;
}
