/* The files of a trace that is recorded. */
#ifndef TESTS_RECORDER_FILES_H
#define TESTS_RECORDER_FILES_H

#include "base/files.h"
#include "tests/random_trace.h"

/* PATH with SUFFIX */
static inline const char *suffixed(const char *path, const char *suffix)
{
    static char text[512];
    snprintf(text, sizeof text, "%s%s", path, suffix);
    return text;
}

static inline void assert_one_file(const char *path)
{
    assert_true(file_exists(path));
    assert_false(file_exists(suffixed(path, "-wal")));
    assert_false(file_exists(suffixed(path, "-shm")));
    assert_false(file_exists(suffixed(path, "-journal")));
}

static inline void assert_no_file(const char *path)
{
    assert_false(file_exists(path));
    assert_false(file_exists(suffixed(path, "-wal")));
    assert_false(file_exists(suffixed(path, "-shm")));
    assert_false(file_exists(suffixed(path, "-journal")));
}

#endif
