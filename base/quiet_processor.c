#define _GNU_SOURCE
#include "base/quiet_processor.h"

#include <sched.h>

#include "base/clock.h"

enum { ROUNDS = 15000 };

/* Beside another thread on its core the loop takes 1.3 to 2.5 times as long, nearly always more
 * than this; that clocks go up and down makes up to 1.25 of it within a minute, on all processors.
 */
static const double DISTURBED = 1.35;

static const uint64_t MOST_WAIT_NS = 250000000;  /* at a time */
static const uint64_t LOOK_AGAIN_NS = 100000000; /* where the quietest is not quiet */

/* ---- the machine ---- */

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

static uint64_t time_loop(void)
{
    volatile uint64_t kept = 1; /* so that the loop is run, and between the two times */
    uint64_t start_ns = clock_ns();
    kept = work(kept);
    return clock_ns() - start_ns;
}

static uint64_t now_ns(const QuietProcessor *seen)
{
    return seen->machine != NULL ? seen->machine->now_ns(seen->machine->argument) : clock_ns();
}

static uint64_t time_once(const QuietProcessor *seen)
{
    const QuietMachine *machine = seen->machine;
    return machine != NULL ? machine->loop_ns(machine->argument, seen->processor) : time_loop();
}

/* The loop's time where the thread is: the least, for interrupts make it longer. The best is one
 * that comes twice. */
static uint64_t time_here(QuietProcessor *seen)
{
    uint64_t first_ns = time_once(seen);
    uint64_t second_ns = time_once(seen);
    uint64_t least_ns = first_ns < second_ns ? first_ns : second_ns;
    uint64_t most_ns = first_ns > second_ns ? first_ns : second_ns;
    if (seen->best_ns == 0 || most_ns < seen->best_ns)
        seen->best_ns = most_ns;
    if (least_ns < seen->quiet_ns)
        seen->quiet_ns = least_ns;
    return least_ns;
}

static bool pin_to(const cpu_set_t *allowed, int processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    return CPU_ISSET(processor, allowed) && sched_setaffinity(0, sizeof one, &one) == 0;
}

static bool go_to(QuietProcessor *seen, const cpu_set_t *allowed, int processor)
{
    bool there = seen->machine != NULL ? processor < seen->machine->n : pin_to(allowed, processor);
    if (there)
        seen->processor = processor;
    return there;
}

/* ---- who is disturbed ---- */

static bool is_disturbed(const QuietProcessor *seen, uint64_t ns)
{
    return (double)ns > DISTURBED * (double)seen->best_ns;
}

/* ... more than is to be had. */
static bool may_be_better(const QuietProcessor *seen, uint64_t ns)
{
    return is_disturbed(seen, ns) && (double)ns > DISTURBED * (double)seen->quiet_ns;
}

/* Goes from one of ALLOWED to the next until one is quiet, or ALL of them are known; or else back
 * to the fastest. Returns the loop's time there. */
static uint64_t look_around(QuietProcessor *seen, const cpu_set_t *allowed, bool all)
{
    const int here = seen->processor;
    uint64_t least_ns = UINT64_MAX;
    int fastest = here;
    for (int i = 1; i <= CPU_SETSIZE; i++) {
        int processor = (here + i) % CPU_SETSIZE;
        if (!go_to(seen, allowed, processor))
            continue;
        uint64_t ns = time_here(seen);
        if (ns < least_ns) {
            least_ns = ns;
            fastest = processor;
        }
        if (!all && !is_disturbed(seen, ns))
            return ns;
    }
    go_to(seen, allowed, fastest);
    return least_ns;
}

/* ... and waits until one is quiet, where it may and WAITs. */
static uint64_t look_for(QuietProcessor *seen, const cpu_set_t *allowed, bool all, bool wait)
{
    uint64_t ns = look_around(seen, allowed, all);
    uint64_t start_ns = now_ns(seen);
    uint64_t waited_ns = 0;
    uint64_t most_ns = seen->may_wait_ns - seen->waited_ns;
    most_ns = most_ns < MOST_WAIT_NS ? most_ns : MOST_WAIT_NS;
    while (wait && is_disturbed(seen, ns) && waited_ns < most_ns) {
        ns = look_around(seen, allowed, false);
        waited_ns = now_ns(seen) - start_ns;
    }
    seen->waited_ns += waited_ns < most_ns ? waited_ns : most_ns;
    seen->quiet_ns = is_disturbed(seen, ns) ? ns : 0;
    seen->looked_ns = now_ns(seen);
    return ns;
}

/* Moves, where the loop takes NS here. */
static void move(QuietProcessor *seen, bool first, uint64_t ns)
{
    cpu_set_t allowed;
    seen->began_ns = ns;
    if (!first && !is_disturbed(seen, ns))
        return;
    bool may = may_be_better(seen, ns);
    if (!first && !may && now_ns(seen) - seen->looked_ns < LOOK_AGAIN_NS)
        return;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    seen->began_ns = look_for(seen, &allowed, first, may);
    if (seen->machine == NULL)
        sched_setaffinity(0, sizeof allowed, &allowed);
}

/* A round begins. */
static void begin(QuietProcessor *seen)
{
    seen->watched = seen->came = seen->slow = 0;
    seen->watched_ns = 0;
    seen->start_ns = now_ns(seen);
}

void quiet_processor_seek(QuietProcessor *seen)
{
    bool first = seen->best_ns == 0;
    move(seen, first, time_here(seen));
    begin(seen);
}

void quiet_processor_watch(QuietProcessor *seen)
{
    uint64_t ns = time_once(seen);
    seen->watched++;
    seen->watched_ns += (double)ns;
    seen->came += may_be_better(seen, ns);
    seen->slow += is_disturbed(seen, ns);
}

/* Whether others were there in a round after which the loop takes NS, and the thread could have
 * been elsewhere. */
static bool came(const QuietProcessor *seen, uint64_t ns)
{
    return (may_be_better(seen, ns) || QUIET_COME * seen->came > seen->watched) &&
           !may_be_better(seen, seen->began_ns);
}

static bool was_disturbed(const QuietProcessor *seen, uint64_t ns)
{
    return is_disturbed(seen, ns) || is_disturbed(seen, seen->began_ns) ||
           QUIET_COME * seen->slow > seen->watched;
}

/* Whether a round of ROUND_NS may be measured again. */
static bool may_again(const QuietProcessor *seen, uint64_t round_ns)
{
    return seen->tries + 1 < QUIET_TRIES &&
           seen->again_ns + round_ns <= QUIET_AGAIN_NS + seen->rounds_ns / QUIET_SHARE;
}

bool quiet_processor_counts(QuietProcessor *seen)
{
    uint64_t round_ns = now_ns(seen) - seen->start_ns;
    uint64_t ns = time_here(seen);
    double loop_ns = ((double)seen->began_ns + (double)ns + seen->watched_ns) / (seen->watched + 2);
    bool again = came(seen, ns) && may_again(seen, round_ns);
    bool disturbed = was_disturbed(seen, ns);
    move(seen, false, ns);
    begin(seen);
    if (again) {
        seen->again++;
        seen->again_ns += round_ns;
        seen->tries++;
        return false;
    }
    seen->rounds++;
    seen->rounds_ns += round_ns;
    seen->disturbed += disturbed;
    seen->loop_ns += loop_ns;
    seen->tries = 0;
    return true;
}
