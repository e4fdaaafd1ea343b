/* Foreign files for the import tests, and what every refused import must look like. */
#ifndef TESTS_IMPORT_MAKER_H
#define TESTS_IMPORT_MAKER_H

#include <stdio.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/support.h"
#include "traces/import.h"
#include "traces/reader.h"

/* A copy of scratch_path() that stays valid until the end of the program. */
static inline char *scratch_name(const char *name)
{
    static char paths[512][256];
    static size_t used;
    assert_true(used < sizeof paths / sizeof paths[0]);
    snprintf(paths[used], sizeof paths[0], "%s", scratch_path(name));
    return paths[used++];
}

static inline const char *text_file(const char *name, const char *text)
{
    char *path = scratch_name(name);
    assert_ok(file_write_all(path, text, strlen(text)));
    return path;
}

/* Any .npy: DESCR is "<i4", SHAPE "(2, 3, 4)". */
static inline const char *npy_file(const char *name, const char *descr, const char *shape,
                                   const void *data, size_t bytes)
{
    char *path = scratch_name(name);
    char header[256];
    int length = snprintf(header, sizeof header,
                          "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n", descr, shape);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    const unsigned char prefix[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)length,
                                      0};
    fwrite(prefix, 1, sizeof prefix, stream);
    fwrite(header, 1, (size_t)length, stream);
    fwrite(data, 1, bytes, stream);
    assert_int_equal(fclose(stream), 0);
    return path;
}

/* Nothing in OUT's folder begins with its name: no trace, no temporary file, no log. */
static inline void assert_nothing_written(const char *out)
{
    char folder[300];
    snprintf(folder, sizeof folder, "%s", out);
    char *slash = strrchr(folder, '/');
    *slash = '\0';
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (strncmp(entry->d_name, slash + 1, strlen(slash + 1)) == 0)
            fail_msg("%s was left behind", entry->d_name);
    closedir(directory);
}

/* The import fails as bad input, with one message that has WANTED in it, and leaves nothing. */
static inline void assert_import_refused(ImportOptions options, const char *wanted)
{
    ImportReport report;
    char *out = scratch_name("refused.db");
    options.out = out;
    error_clear();
    Status status = trace_import(&options, &report);
    if (status == OK || status_exit_code(status) != 2 || strstr(error_message(), wanted) == NULL)
        fail_msg("wanted \"%s\", got status %d: %s", wanted, status, error_message());
    if (status != ERR_USAGE && strstr(error_message(), options.path) == NULL &&
        (options.sequences == NULL || strstr(error_message(), options.sequences) == NULL))
        fail_msg("the message names no file: %s", error_message());
    assert_null(strchr(error_message(), '\n'));
    assert_nothing_written(out);
}

/* Imports to OUT, which is removed first, and checks the whole trace. */
static inline ImportReport import_to(ImportOptions options, const char *out)
{
    ImportReport report;
    TraceCheck found;
    unlink(out);
    options.out = out;
    assert_ok(trace_import(&options, &report));
    assert_ok(trace_check(out, &found, NULL, NULL));
    assert_int_equal(found.steps, report.steps);
    assert_int_equal(found.tokens, report.tokens);
    assert_int_equal(found.requests, report.requests);
    return report;
}

/* Fails the k-th allocation, k growing by a twentieth, until the import gets through. */
static inline void assert_survives_lost_memory(const ImportOptions *options)
{
    int64_t before = mem_live_blocks();
    for (uint64_t k = 1;; k += 1 + k / 20) {
        ImportReport report;
        mem_fail_at(k);
        Status status = trace_import(options, &report);
        bool reached = mem_fail_reached();
        mem_fail_at(0);
        assert_int_equal(mem_live_blocks(), before);
        if (status == OK)
            unlink(options->out); /* also when reached: SQLite can do without some blocks */
        else
            assert_int_equal(status, ERR_MEMORY);
        assert_nothing_written(options->out);
        if (!reached)
            return;
    }
}

#endif
