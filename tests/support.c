#define _XOPEN_SOURCE 700
#include "tests/support.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/splitmix64.h"

static char folder[160];
static pid_t owner;

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static void remove_folder(void)
{
    if (getpid() == owner)
        nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *scratch_path(const char *name)
{
    static char paths[16][256];
    static unsigned next;
    if (folder[0] == '\0') {
        const char *base = getenv("TMPDIR");
        bool usable = base != NULL && base[0] == '/' && strlen(base) < sizeof folder - 32;
        snprintf(folder, sizeof folder, "%s/moebius-test-XXXXXX", usable ? base : "/tmp");
        assert_non_null(mkdtemp(folder));
        char *resolved = realpath(folder, NULL); /* as SQLite names its files */
        if (resolved != NULL && strlen(resolved) < sizeof folder)
            strcpy(folder, resolved);
        free(resolved);
        owner = getpid();
        atexit(remove_folder);
    }
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Of any test program: only the tests whose names fit the pattern MOEBIUS_TESTS, where it is set.
 */
__attribute__((constructor)) static void choose_tests(void)
{
    const char *pattern = getenv("MOEBIUS_TESTS");
    if (pattern != NULL)
        cmocka_set_test_filter(pattern);
}

bool exhaustive(void)
{
    const char *value = getenv("MOEBIUS_EXHAUSTIVE");
    return value != NULL && value[0] != '\0' && strcmp(value, "0") != 0;
}

bool brief(void)
{
    return getenv("MOEBIUS_BRIEF") != NULL;
}

bool briefest(void)
{
    return brief() && strcmp(getenv("MOEBIUS_BRIEF"), "2") == 0;
}

bool failing_next(FailingAllocation *failing)
{
    if (failing->k > 0) {
        assert_int_equal(mem_live_blocks(), failing->live_blocks);
        if (!failing->reached)
            return false;
    }
    failing->k += 1 + (failing->sparse > 0 ? failing->k / failing->sparse : 0);
    failing->live_blocks = mem_live_blocks();
    error_clear();
    mem_fail_at(failing->k);
    return true;
}

void failing_end(FailingAllocation *failing, Status status)
{
    failing->reached = mem_fail_reached();
    mem_fail_at(0);
    if (!failing->may_do_without || !failing->reached || status != OK)
        assert_int_equal(status, failing->reached ? ERR_MEMORY : OK);
    assert_true(status == OK || error_message()[0] != '\0');
}

uint64_t random_next(uint64_t *state)
{
    return splitmix64_next(state);
}

uint32_t random_below(uint64_t *state, uint32_t below)
{
    return (uint32_t)(random_next(state) % below);
}

float random_float(uint64_t *state)
{
    return (float)((double)(random_next(state) >> 11) / 4503599627370496.0 - 1.0);
}
