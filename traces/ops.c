#include "traces/ops.h"

#include <assert.h>
#include <string.h>

static const char *const NAMES[OPS] = {
    [OP_EMBED] = "embed",
    [OP_ATTENTION_NORM] = "attention norm",
    [OP_ATTENTION_PROJECT] = "attention project",
    [OP_ATTENTION] = "attention",
    [OP_ATTENTION_OUTPUT] = "attention output",
    [OP_CROSS_ATTENTION] = "cross attention",
    [OP_FFN_NORM] = "ffn norm",
    [OP_DENSE_FFN] = "dense ffn",
    [OP_ROUTE] = "route",
    [OP_EXPERTS] = "experts",
    [OP_COMBINE] = "combine",
    [OP_SHARED_EXPERTS] = "shared experts",
    [OP_CROSS_CACHE] = "cross cache",
    [OP_HEAD] = "head",
    [OP_PREDICT] = "predict",
};

const char *op_name(Op op)
{
    assert(op < OPS);
    return NAMES[op];
}

bool op_find(const char *name, Op *op)
{
    for (Op i = 0; i < OPS; i++)
        if (strcmp(NAMES[i], name) == 0) {
            *op = i;
            return true;
        }
    return false;
}
