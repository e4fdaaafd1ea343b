/* Request numbers of a trace -> what running them again needs to know: a hash table. */
#ifndef TRACES_REQUEST_TABLE_H
#define TRACES_REQUEST_TABLE_H

#include <stdbool.h>

#include "base/memory.h"

typedef struct {
    uint32_t request;
    bool used;
    bool running; /* has a KV slot */
    uint32_t kv_slot;
    uint32_t length;        /* tokens seen so far */
    uint32_t source_length; /* ... of its source, in the encoder */
    uint64_t first_step;    /* index of the first and last step with a token of it */
    uint64_t last_step;
    int64_t unseen; /* positions that it has and whose tokens are in no step */
} RequestEntry;

typedef struct {
    RequestEntry *entries; /* [room], a power of two; open addressing */
    size_t room;
    size_t count;
} RequestTable;

void request_table_free(RequestTable *table);
/* The entry of REQUEST, made when there is none (*ENTRY then has used set and nothing else).
 * Pointers are valid until the next call that makes one. */
Status request_table_get(RequestTable *table, uint32_t request, RequestEntry **entry);

#endif
