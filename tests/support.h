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

/* splitmix64 */
uint64_t random_next(uint64_t *state);
/* 0 to BELOW - 1 */
uint32_t random_below(uint64_t *state, uint32_t below);
/* -1 to 1 */
float random_float(uint64_t *state);

#endif
