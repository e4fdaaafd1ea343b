#include "exec/shards.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"

enum { INDEX_BYTES = 100 << 20, MAX_SHARDS = 10000 };

static const char ENDING[] = ".safetensors";

/* One pair of the index. */
typedef struct {
    const char *file;
    const char *tensor;
} Claim;

static int compare_claims(const void *left, const void *right)
{
    return strcmp(((const Claim *)left)->file, ((const Claim *)right)->file);
}

static int compare_tensors(const void *left, const void *right)
{
    const ShardTensor *a = left;
    const ShardTensor *b = right;
    return strcmp(a->tensor->name, b->tensor->name);
}

/* A shard's name must be one of a file in the directory itself. */
static Status check_shard_name(const char *index, const Claim *claim)
{
    size_t length = strlen(claim->file);
    size_t ending = sizeof ENDING - 1;
    if (strchr(claim->file, '/') != NULL || claim->file[0] == '.' || length <= ending ||
        strcmp(claim->file + length - ending, ENDING) != 0)
        return fail(ERR_INPUT,
                    "%s: weight_map: tensor %s: \"%.128s\" is not the name of a %s file in the "
                    "directory",
                    index, claim->tensor, claim->file, ENDING);
    return OK;
}

/* *CLAIMS [*count] are the pairs of the index, by file; they point into JSON. */
static Status read_claims(const char *index, const cJSON *json, Claim **claims, size_t *count)
{
    JsonAt root = json_root(json, index);
    JsonAt map;
    TRY(json_need(&root, "weight_map", &map));
    if (!cJSON_IsObject(map.node) || map.node->child == NULL)
        return json_fail(&map, "must be an object that names a file for each tensor");
    size_t n = 0;
    for (const cJSON *node = map.node->child; node != NULL; node = node->next) {
        Claim claim = {node->valuestring, node->string};
        if (!cJSON_IsString(node))
            return fail(ERR_INPUT, "%s: weight_map: tensor %s: must be a string", index,
                        node->string);
        TRY(check_shard_name(index, &claim));
        n++;
    }
    TRY(mem_new(claims, n, sizeof **claims, index));
    for (const cJSON *node = map.node->child; node != NULL; node = node->next)
        (*claims)[(*count)++] = (Claim){node->valuestring, node->string};
    qsort(*claims, n, sizeof **claims, compare_claims);
    return OK;
}

static Status reserve_files(Shards *shards, size_t count)
{
    TRY(mem_new(&shards->files, count, sizeof *shards->files, shards->source));
    return mem_new(&shards->paths, count, sizeof *shards->paths, shards->source);
}

/* Maps the next file; there is room for it. */
static Status open_file(Shards *shards, const char *directory, const char *name)
{
    size_t i = shards->n_files++;
    TRY(path_join(directory, name, &shards->paths[i]));
    return safetensors_open(shards->paths[i], &shards->files[i]);
}

static Status open_claimed(Shards *shards, const char *directory, const Claim *claims, size_t count)
{
    size_t n_files = 0;
    for (size_t i = 0; i < count; i++)
        n_files += i == 0 || compare_claims(&claims[i - 1], &claims[i]) != 0;
    if (n_files > MAX_SHARDS)
        return fail(ERR_INPUT, "%s: weight_map: %zu files, at most %d are allowed", shards->source,
                    n_files, MAX_SHARDS);
    TRY(reserve_files(shards, n_files));
    TRY(mem_new(&shards->tensors, count, sizeof *shards->tensors, shards->source));
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || compare_claims(&claims[i - 1], &claims[i]) != 0)
            TRY(fail_in(open_file(shards, directory, claims[i].file), "%s", shards->source));
        size_t last = shards->n_files - 1;
        const Tensor *tensor = safetensors_find(shards->files[last], claims[i].tensor);
        if (tensor == NULL)
            return fail(ERR_INPUT, "%s: tensor %s: missing, though %s says it is here",
                        shards->paths[last], claims[i].tensor, shards->source);
        shards->tensors[shards->n_tensors++] =
            (ShardTensor){.tensor = tensor, .file = shards->paths[last]};
    }
    shards_sort(shards);
    return OK;
}

static Status open_index(Shards *shards, const char *directory)
{
    cJSON *json = NULL;
    Claim *claims = NULL;
    size_t count = 0;
    Status status = json_load(shards->source, INDEX_BYTES, &json);
    if (status == OK)
        status = read_claims(shards->source, json, &claims, &count);
    if (status == OK)
        status = open_claimed(shards, directory, claims, count);
    mem_free(claims);
    cJSON_Delete(json);
    return status;
}

static Status open_single(Shards *shards, const char *directory, const char *name)
{
    TRY(reserve_files(shards, 1));
    TRY(open_file(shards, directory, name));
    size_t count = safetensors_count(shards->files[0]);
    TRY(mem_new(&shards->tensors, count, sizeof *shards->tensors, shards->source));
    for (; shards->n_tensors < count; shards->n_tensors++)
        shards->tensors[shards->n_tensors] =
            (ShardTensor){.tensor = safetensors_at(shards->files[0], shards->n_tensors),
                          .file = shards->paths[0]};
    return OK;
}

/* Writes the name of the one *.safetensors file of DIRECTORY. */
static Status find_only_file(const char *directory, char *name, size_t room)
{
    DIR *list = opendir(directory);
    if (list == NULL)
        return fail(ERR_INPUT, "%s: cannot open: %s", directory, strerror(errno));
    size_t found = 0;
    for (struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        size_t length = strlen(entry->d_name);
        if (length < sizeof ENDING || length >= room ||
            strcmp(entry->d_name + length - (sizeof ENDING - 1), ENDING) != 0)
            continue;
        if (found++ == 0)
            memcpy(name, entry->d_name, length + 1);
    }
    closedir(list);
    if (found == 0)
        return fail(ERR_INPUT, "%s: holds no %s file", directory, ENDING);
    if (found > 1)
        return fail(ERR_INPUT,
                    "%s: holds %zu %s files, but neither model.safetensors.index.json nor "
                    "model.safetensors",
                    directory, found, ENDING);
    return OK;
}

Status shards_open(const char *directory, Shards *shards)
{
    char name[512] = "model.safetensors";
    TRY(path_join(directory, "model.safetensors.index.json", &shards->source));
    if (file_exists(shards->source))
        return open_index(shards, directory);
    mem_free(shards->source);
    shards->source = NULL;
    TRY(path_join(directory, name, &shards->source));
    if (!file_exists(shards->source)) {
        mem_free(shards->source);
        shards->source = NULL;
        TRY(find_only_file(directory, name, sizeof name));
        TRY(path_join(directory, name, &shards->source));
    }
    return open_single(shards, directory, name);
}

void shards_close(Shards *shards)
{
    for (size_t i = 0; i < shards->n_files; i++) {
        safetensors_close(shards->files[i]);
        mem_free(shards->paths[i]);
    }
    mem_free(shards->files);
    mem_free(shards->paths);
    mem_free(shards->tensors);
    mem_free(shards->source);
    arena_free(&shards->synthetic);
    *shards = (Shards){0};
}

void shards_sort(Shards *shards)
{
    qsort(shards->tensors, shards->n_tensors, sizeof *shards->tensors, compare_tensors);
}

ShardTensor *shards_find(const Shards *shards, const char *name)
{
    Tensor named = {.name = name};
    ShardTensor key = {.tensor = &named};
    return bsearch(&key, shards->tensors, shards->n_tensors, sizeof key, compare_tensors);
}
