/* What several tests need: a scratch folder, random numbers, small traces, tiny random checkpoints.
 */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Fails the test with the error record unless CALL returns OK. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        Status assert_status = (call);                                                             \
        if (assert_status != OK)                                                                   \
            fail_msg("%s: status %d: %s", #call, assert_status, error_message());                  \
    } while (0)

/* A path inside this process's scratch folder (made on first use, removed at exit); valid for the
 * next 16 calls. */
const char *scratch_path(const char *name);

/* True when MOEBIUS_EXHAUSTIVE is set: take every case, however long it lasts, instead of a sample.
 */
bool exhaustive(void);
/* True when MOEBIUS_BRIEF is set: take the fewest cases and the least sizes that still go through
 * all code, as under checkers that make a GPU a hundred times as slow. */
bool brief(void);
/* True when it is 2: no case but what is the first to reach a kernel; as under racecheck, which
 * takes milliseconds for every launch. */
bool briefest(void);

/* Fails the first allocation of what is tried, then the second, the third and so on, until it gets
 * through. Each try must have given back all memory when the next begins, and says ERR_MEMORY.
 *
 *     for (FailingAllocation failing = {0}; failing_next(&failing);) {
 *         Status status = what_is_tried();
 *         failing_end(&failing, status);
 *         ... free what it made ...
 *     } */
typedef struct {
    uint64_t k;          /* number of the allocation that fails */
    uint64_t sparse;     /* a sample: leaves out K / SPARSE after number K; 0: takes all */
    bool may_do_without; /* what is tried may succeed all the same, as SQLite can */
    bool reached;
    int64_t live_blocks; /* before the try */
} FailingAllocation;

bool failing_next(FailingAllocation *failing);
/* Allocations work again; what was tried gave STATUS. */
void failing_end(FailingAllocation *failing, Status status);

/* splitmix64 */
uint64_t random_next(uint64_t *state);
/* 0 to BELOW - 1 */
uint32_t random_below(uint64_t *state, uint32_t below);
/* -1 to 1 */
float random_float(uint64_t *state);

#endif
