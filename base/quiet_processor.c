#define _GNU_SOURCE
#include "base/quiet_processor.h"

#include <sched.h>
#include <stdbool.h>

#include "base/clock.h"

enum { ROUNDS = 15000, TRIES = 2 };

/* Beside another thread on its core a loop takes at least so much longer. */
static const double DISTURBED = 1.25;

/* As much at a time as a core can do, so that it shows who shares it. */
static uint64_t work(uint64_t a)
{
    uint64_t b = 2, c = 3, d = 4, e = 5, f = 6;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        a += b ^ i;
        c += d ^ i;
        e += f ^ i;
        b = b << 7 | b >> 57;
        d = d << 9 | d >> 55;
        f ^= f >> 3;
        a ^= 0x9E37;
        c ^= 0x79B9;
    }
    return a + b + c + d + e + f;
}

/* The loop's time where the thread is. */
static uint64_t time_here(void)
{
    volatile uint64_t kept = 1; /* so that the loop is run, and between the two times */
    uint64_t best_ns = UINT64_MAX;
    for (int i = 0; i < TRIES; i++) {
        uint64_t start_ns = clock_ns();
        kept = work(kept);
        uint64_t ns = clock_ns() - start_ns;
        best_ns = ns < best_ns ? ns : best_ns;
    }
    return best_ns;
}

static bool is_quiet(const QuietProcessor *seen, uint64_t ns)
{
    return (double)ns <= DISTURBED * (double)seen->best_ns;
}

static bool go_to(int processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    return sched_setaffinity(0, sizeof one, &one) == 0;
}

/* Goes from one of ALLOWED to the next until one is quiet, or else back to the fastest, which then
 * is what is to be had: clocks change as well. */
static void look_around(QuietProcessor *seen, const cpu_set_t *allowed, bool all)
{
    uint64_t least_ns = UINT64_MAX;
    int fastest = -1;
    int last = -1;
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, allowed) || !go_to(i))
            continue;
        uint64_t ns = time_here();
        last = i;
        if (ns < least_ns) {
            least_ns = ns;
            fastest = i;
        }
        if (!all && is_quiet(seen, ns))
            return;
    }
    if (fastest != last)
        go_to(fastest);
    if (fastest >= 0)
        seen->best_ns = least_ns;
}

void quiet_processor_seek(QuietProcessor *seen)
{
    cpu_set_t allowed;
    bool first = seen->best_ns == 0;
    uint64_t ns = time_here();
    if (first || ns < seen->best_ns)
        seen->best_ns = ns;
    if (!first && is_quiet(seen, ns))
        return;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    look_around(seen, &allowed, first);
    sched_setaffinity(0, sizeof allowed, &allowed);
}
