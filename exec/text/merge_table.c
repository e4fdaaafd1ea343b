#include "exec/text/merge_table.h"

#include <string.h>

#include "base/memory.h"

void merge_table_free(MergeTable *table)
{
    mem_free(table->entries);
    *table = (MergeTable){0};
}

/* Where the pair stands, or the free entry where it would. */
static Merge *find(const MergeTable *table, uint32_t left, uint32_t right)
{
    size_t mask = table->room - 1;
    size_t i = hash_u64((uint64_t)left << 32 | right) & mask;
    for (;; i = (i + 1) & mask) {
        Merge *merge = &table->entries[i];
        if (merge->order == 0 || (merge->left == left && merge->right == right))
            return merge;
    }
}

const Merge *merge_table_get(const MergeTable *table, uint32_t left, uint32_t right)
{
    const Merge *merge = find(table, left, right);
    return merge->order != 0 ? merge : NULL;
}

/* The two pieces of the merge NODE, either spelling. */
static bool split_merge(const cJSON *node, Span *left, Span *right)
{
    if (cJSON_IsArray(node)) {
        const cJSON *first = node->child;
        const cJSON *second = first != NULL ? first->next : NULL;
        if (!cJSON_IsString(first) || !cJSON_IsString(second) || second->next != NULL)
            return false;
        *left = (Span){(const unsigned char *)first->valuestring, strlen(first->valuestring)};
        *right = (Span){(const unsigned char *)second->valuestring, strlen(second->valuestring)};
        return true;
    }
    if (!cJSON_IsString(node))
        return false;
    const char *text = node->valuestring;
    const char *space = strchr(text, ' ');
    if (space == NULL || strchr(space + 1, ' ') != NULL)
        return false;
    *left = (Span){(const unsigned char *)text, (size_t)(space - text)};
    *right = (Span){(const unsigned char *)space + 1, strlen(space + 1)};
    return true;
}

static Status add_merge(const JsonAt *at, const cJSON *node, uint32_t rank,
                        const Vocabulary *vocabulary, MergeTable *table, ByteBuffer *joined)
{
    Span left;
    Span right;
    Merge made = {.order = rank + 1};
    JsonAt item;
    if (!split_merge(node, &left, &right)) {
        item = json_item(at, node, rank);
        return json_fail(&item, "must be \"LEFT RIGHT\" or [\"LEFT\", \"RIGHT\"]");
    }
    joined->bytes = 0;
    TRY(bytes_append(joined, left.data, left.bytes));
    TRY(bytes_append(joined, right.data, right.bytes));
    Span both = bytes_span(joined, 0);
    if (!string_table_get(&vocabulary->ids, left, &made.left) ||
        !string_table_get(&vocabulary->ids, right, &made.right) ||
        !string_table_get(&vocabulary->ids, both, &made.merged)) {
        item = json_item(at, node, rank);
        return json_fail(&item, "\"%.*s\" + \"%.*s\": a piece that is not in the vocabulary",
                         (int)left.bytes, (const char *)left.data, (int)right.bytes,
                         (const char *)right.data);
    }
    *find(table, made.left, made.right) = made;
    return OK;
}

Status merge_table_load(const JsonAt *at, const Vocabulary *vocabulary, MergeTable *table)
{
    size_t count = 0;
    size_t room = 16;
    *table = (MergeTable){0};
    if (!cJSON_IsArray(at->node))
        return json_fail(at, "must be an array");
    for (const cJSON *node = at->node->child; node != NULL; node = node->next)
        count++;
    if (count >= UINT32_MAX / 4)
        return json_fail(at, "%zu merges are too many", count);
    while (room < 2 * count)
        room *= 2;
    TRY(mem_new(&table->entries, room, sizeof *table->entries, "merges"));
    table->room = room;
    ByteBuffer joined = {0};
    Status status = bytes_reserve(&joined, 1);
    uint32_t rank = 0;
    for (const cJSON *node = at->node->child; node != NULL && status == OK; node = node->next)
        status = add_merge(at, node, rank++, vocabulary, table, &joined);
    bytes_free(&joined);
    if (status != OK)
        merge_table_free(table);
    return status;
}
