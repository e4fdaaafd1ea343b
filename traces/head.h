/* The small tables of a trace: run and layer, with the digest that protects them. */
#ifndef TRACES_HEAD_H
#define TRACES_HEAD_H

#include "traces/digest.h"
#include "traces/store.h"

typedef struct {
    TraceRun run; /* texts belong to the head */
    TraceLayer *layers;
    uint32_t n_layers;
    Digest digest;
} TraceHead;

/* Checks that STORE is a trace of a schema we know, with all its tables. Fails with
 * ERR_NOT_A_TRACE, ERR_SCHEMA or ERR_CORRUPT. */
Status head_check_schema(const Store *store);
/* Reads and checks. On failure HEAD holds nothing. */
Status head_read(const Store *store, TraceHead *head);
void head_free(TraceHead *head);

#endif
