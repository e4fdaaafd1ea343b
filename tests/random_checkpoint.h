/* A checkpoint of any architecture with random weights: a config.json, and every tensor that the
 * description asks for with it. */
#ifndef TESTS_RANDOM_CHECKPOINT_H
#define TESTS_RANDOM_CHECKPOINT_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/files.h"
#include "exec/rule.h"
#include "tests/support.h"
#include "traces/safetensors.h"

enum { MOST_TENSORS = 2000 };

/* What is done to the list before it is written. */
typedef struct {
    const char *leave_out; /* a name, or NULL */
    const char *misshape;
    const char *add;
    const char *poison; /* gets a NaN */
} Harm;

typedef struct {
    Tensor specs[MOST_TENSORS];
    char *names[MOST_TENSORS];
    size_t n;
    const Harm *harm;
} TensorList;

static inline Status list_tensor(void *argument, const char *name, const uint64_t *shape,
                                 uint32_t rank)
{
    TensorList *list = argument;
    if (list->harm->leave_out != NULL && strcmp(list->harm->leave_out, name) == 0)
        return OK;
    assert_true(list->n < MOST_TENSORS);
    list->names[list->n] = strdup(name);
    Tensor *spec = &list->specs[list->n];
    *spec = (Tensor){.name = list->names[list->n], .dtype = DTYPE_F32, .rank = rank};
    memcpy(spec->shape, shape, rank * sizeof *shape);
    if (list->harm->misshape != NULL && strcmp(list->harm->misshape, name) == 0)
        spec->shape[0]++;
    list->n++;
    return OK;
}

/* Vectors are norms, biases and sinks: around 1 for norm weights, around 0 for the rest. Matrices
 * keep the size of what goes through them. */
static inline void fill_tensor(const Tensor *spec, uint64_t *random, float *to, size_t count)
{
    bool norm =
        spec->rank == 1 && strstr(spec->name, "norm") != NULL && strstr(spec->name, "bias") == NULL;
    double columns = spec->rank > 1 ? (double)spec->shape[spec->rank - 1] : 16;
    bool router = strstr(spec->name, "gate.w") != NULL ||
                  strstr(spec->name, "classifier") != NULL || strstr(spec->name, "router") != NULL;
    float size = (float)((router ? 4 : 1.5) / sqrt(columns));
    for (size_t i = 0; i < count; i++)
        to[i] = (norm ? 1 : 0) + size * random_float(random);
}

static inline void write_tensors(const char *path, const TensorList *list, uint64_t seed)
{
    SafeTensorsWriter *writer;
    uint64_t random = seed;
    assert_ok(safetensors_writer_open(path, list->specs, list->n, &writer));
    for (size_t t = 0; t < list->n; t++) {
        const Tensor *spec = &list->specs[t];
        size_t count = 1;
        for (uint32_t i = 0; i < spec->rank; i++)
            count *= spec->shape[i];
        float *data = malloc(count * sizeof *data);
        fill_tensor(spec, &random, data, count);
        if (list->harm->poison != NULL && strcmp(list->harm->poison, spec->name) == 0)
            data[count / 2] = NAN;
        assert_ok(safetensors_writer_append(writer, t, data, count * sizeof *data));
        free(data);
    }
    assert_ok(safetensors_writer_commit(writer));
}

/* Writes the folder NAME with config.json CONFIG; the path is valid for the next 16 calls of
 * scratch_path(). */
static inline const char *random_checkpoint(const char *name, const char *config, uint64_t seed,
                                            const Harm *harm)
{
    static const Harm NONE = {0};
    const char *folder = scratch_path(name);
    char path[600];
    TensorList *list = calloc(1, sizeof *list);
    ModelConfig model = {0};
    const Architecture *architecture = NULL;
    mkdir(folder, 0700);
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_ok(file_write_all(path, config, strlen(config)));
    list->harm = harm != NULL ? harm : &NONE;
    assert_ok(model_config_load(folder, &model, &architecture));
    assert_ok(architecture_visit(architecture, &model, list_tensor, list));
    if (list->harm->add != NULL)
        list_tensor(list, list->harm->add, (uint64_t[]){3}, 1);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    write_tensors(path, list, seed);
    for (size_t i = 0; i < list->n; i++)
        free(list->names[i]);
    free(list);
    model_config_free(&model);
    return folder;
}

#endif
