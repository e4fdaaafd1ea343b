#include "traces/request_table.h"

enum { FIRST_ROOM = 64 };

void request_table_free(RequestTable *table)
{
    mem_free(table->entries);
    *table = (RequestTable){0};
}

/* Where REQUEST is or would be. */
static RequestEntry *find(const RequestTable *table, uint32_t request)
{
    size_t at = (request * 2654435769u) & (table->room - 1);
    while (table->entries[at].used && table->entries[at].request != request)
        at = (at + 1) & (table->room - 1);
    return &table->entries[at];
}

static Status grow(RequestTable *table)
{
    RequestTable larger = {.room = table->room > 0 ? 2 * table->room : FIRST_ROOM,
                           .count = table->count};
    TRY(mem_new(&larger.entries, larger.room, sizeof *larger.entries, "table of requests"));
    for (size_t i = 0; i < table->room; i++)
        if (table->entries[i].used)
            *find(&larger, table->entries[i].request) = table->entries[i];
    mem_free(table->entries);
    *table = larger;
    return OK;
}

Status request_table_get(RequestTable *table, uint32_t request, RequestEntry **entry)
{
    if (table->count >= table->room / 2)
        TRY(grow(table));
    *entry = find(table, request);
    if (!(*entry)->used) {
        **entry = (RequestEntry){.request = request, .used = true};
        table->count++;
    }
    return OK;
}
