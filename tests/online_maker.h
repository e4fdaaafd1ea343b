/* A small model and its tokens, for commands that run it. */
#ifndef TESTS_ONLINE_MAKER_H
#define TESTS_ONLINE_MAKER_H

#include "tests/cli_run.h"

#include <dirent.h>
#include <unistd.h>

#include "base/files.h"
#include "traces/safetensors.h"
#include "tests/checkpoint_maker.h"
#include "tests/json_at.h"
#include "traces/reader.h"

enum { VOCABULARY = 96, ROWS = 3, LENGTH = 11 };

static char model[256];
static char one[256];   /* tokens: one stream of LENGTH */
static char batch[256]; /* ROWS x LENGTH, the first row is the stream */
static char out[256];
static CliRun run;

static inline void assert_refused(const char *wanted)
{
    assert_run_refused(&run, 2, wanted);
    if (file_exists(out))
        fail_msg("%s was left", out);
}

static inline void write_text(const char *path, const char *text)
{
    assert_ok(file_write_all(path, text, strlen(text)));
}

/* A safetensors file with one I32 tensor "ids" of so many rows (0: a vector). */
static inline void write_ids(const char *path, uint32_t rows)
{
    int32_t ids[ROWS * LENGTH];
    uint64_t random = 6;
    uint32_t count = (rows > 0 ? rows : 1) * LENGTH;
    SafeTensorsWriter *writer;
    Tensor spec = {.name = "ids", .dtype = DTYPE_I32, .rank = 1, .shape = {LENGTH}};
    if (rows > 0)
        spec = (Tensor){.name = "ids", .dtype = DTYPE_I32, .rank = 2, .shape = {rows, LENGTH}};
    for (uint32_t i = 0; i < count; i++)
        ids[i] = (int32_t)random_below(&random, VOCABULARY);
    assert_ok(safetensors_writer_open(path, &spec, 1, &writer));
    assert_ok(safetensors_writer_append(writer, 0, ids, count * sizeof ids[0]));
    assert_ok(safetensors_writer_commit(writer));
}

static inline int make_files(void **state)
{
    (void)state;
    const CheckpointSpec spec = {.seed = 31, .max_positions = 40, .dense_layers = 2};
    snprintf(model, sizeof model, "%s", scratch_path("model"));
    snprintf(one, sizeof one, "%s", scratch_path("one.safetensors"));
    snprintf(batch, sizeof batch, "%s", scratch_path("batch.safetensors"));
    snprintf(out, sizeof out, "%s", scratch_path("out"));
    make_checkpoint(model, &spec);
    write_ids(one, 0);
    write_ids(batch, ROWS);
    return 0;
}

static inline int remove_out(void **state)
{
    (void)state;
    unlink(out);
    return 0;
}

#endif
