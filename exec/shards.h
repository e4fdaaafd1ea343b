/* The tensors of a checkpoint directory, whichever of its files they lie in. */
#ifndef EXEC_SHARDS_H
#define EXEC_SHARDS_H

#include <stdbool.h>

#include "base/memory.h"
#include "traces/safetensors.h"

typedef struct {
    const Tensor *tensor;
    const char *file; /* the path of the file it lies in */
    bool used;        /* by whoever looks for tensors that nobody wants */
} ShardTensor;

typedef struct {
    char *source;        /* the path of what lists the tensors: the index, or the only file */
    SafeTensors **files; /* [n_files], mapped */
    char **paths;        /* [n_files] */
    size_t n_files;
    ShardTensor *tensors; /* [n_tensors], by name */
    size_t n_tensors;
    Arena synthetic; /* what TENSORS of a shape point to (exec/shape.h), which has no files */
} Shards;

/* Maps the files that model.safetensors.index.json names; without one model.safetensors, else the
 * only *.safetensors file of DIRECTORY. SHARDS must be zeroed, and shards_close() is due in any
 * case. Fails with ERR_INPUT for a missing shard, a shard's name that leaves the directory, or a
 * tensor that is not where the index says. */
Status shards_open(const char *directory, Shards *shards);
void shards_close(Shards *shards);
/* Puts the tensors in the order of their names, which shards_find() wants. */
void shards_sort(Shards *shards);
/* NULL when there is none of that name. */
ShardTensor *shards_find(const Shards *shards, const char *name);

#endif
