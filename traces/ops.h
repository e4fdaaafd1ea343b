/* The operations of a forward pass by name, as the trace's timing table numbers them. */
#ifndef TRACES_OPS_H
#define TRACES_OPS_H

#include <stdbool.h>

typedef enum {
    OP_EMBED,
    OP_ATTENTION_NORM,
    OP_ATTENTION_PROJECT, /* queries, keys and values, into the cache; of plain attention with the
                             norm before it */
    OP_ATTENTION,
    OP_ATTENTION_OUTPUT,
    OP_CROSS_ATTENTION, /* all of it */
    OP_FFN_NORM,        /* of a dense layer */
    OP_DENSE_FFN,
    OP_ROUTE,   /* of a MoE layer its norm, scores, choice, capacity, grouping by expert */
    OP_EXPERTS, /* with the loads that they wait for */
    OP_COMBINE,
    OP_SHARED_EXPERTS,
    OP_CROSS_CACHE, /* the encoder's output into the decoder's caches */
    OP_HEAD,
    OP_PREDICT, /* the routing of layers ahead */
    OPS
} Op;

/* "experts" */
const char *op_name(Op op);
/* The operation of that name; false when there is none. */
bool op_find(const char *name, Op *op);

#endif
