/* A processor whose core nobody else uses.
 *
 * Two processors of a machine may be the same core's, and the other one another machine's: while it
 * is busy, what this one does takes up to 1.8 times as long, for milliseconds or for minutes, and
 * nothing but the time tells (on the H200's host 14 us for a loop that then takes 20 to 30). Who
 * measures moves away from it first, and measures again what was disturbed:
 *
 *     quiet_processor_seek(&quiet);
 *     for (int round = 0; round < ROUNDS; round += quiet_processor_counts(&quiet))
 *         ... measure round ROUND ...
 *
 * Whether a round counts follows from the loop alone, never from what was measured. */
#ifndef BASE_QUIET_PROCESSOR_H
#define BASE_QUIET_PROCESSOR_H

#include <stdbool.h>
#include <stdint.h>

enum {
    QUIET_TRIES = 3, /* a round is measured so often at the most; */
    QUIET_SHARE = 8, /* ... all that do not count take no more of the time of those that do, */
    QUIET_COME = 8,  /* others were there when they were in one of so many loops */
};
#define QUIET_AGAIN_NS UINT64_C(2000000000) /* ... and this besides */

/* Processors 0 to N - 1 of a machine that is not there, for tests. */
typedef struct {
    int n;
    uint64_t (*loop_ns)(void *argument, int processor); /* how long the loop takes there now */
    uint64_t (*now_ns)(void *argument);
    void *argument;
} QuietMachine;

/* What was seen of the processors that the thread may run on; zeroed before the first call, but for
 * BEST_NS where it is known from before, MAY_WAIT_NS and MACHINE. */
typedef struct {
    uint64_t best_ns;            /* of the loop, on any of them */
    uint64_t may_wait_ns;        /* in all, where all are disturbed */
    const QuietMachine *machine; /* NULL: the real one */
    uint64_t waited_ns;
    uint64_t rounds;    /* that count, */
    uint64_t disturbed; /* ... and of these, on a processor that was disturbed all the same, */
    double loop_ns;     /* ... and the sum over them of the loop's mean time */
    uint64_t again;     /* rounds that do not count */
    uint64_t rounds_ns; /* what those took that count, */
    uint64_t again_ns;  /* ... and those that do not */
    /* Its own: */
    uint64_t quiet_ns;  /* the least that was to be had when none was as fast as the best; or 0 */
    uint64_t looked_ns; /* when that was so */
    uint64_t start_ns;  /* of the round */
    uint64_t began_ns;  /* the loop's time before the round, */
    double watched_ns;  /* ... and the sum of those in it, */
    uint32_t watched;   /* ... which are so many, */
    uint32_t came;      /* ... of which so many are of a disturbed processor, */
    uint32_t slow;      /* ... or of one that is not as fast as the best */
    uint32_t tries;     /* of the round, that do not count */
    int processor;      /* that it was moved to last */
} QuietProcessor;

/* Moves the calling thread to a processor that is as fast as the best that was seen, or else, when
 * it has waited for one, to the fastest of all, unless the one that it is on is so. It may run on
 * the same ones as before: a thread that keeps busy stays where it is. Where it stays this takes
 * two of the loop's times. */
void quiet_processor_seek(QuietProcessor *seen);

/* During a round that lasts for long, between two things that are measured: takes a loop's time. */
void quiet_processor_watch(QuietProcessor *seen);

/* After a round of measuring: true when it counts. One that began on a quiet processor which is
 * disturbed now, or was while it was watched, does not, unless that has happened too often; one
 * that began where no quiet one was to be had counts as disturbed. The next round may begin at
 * once: where it is necessary the thread has moved, as by quiet_processor_seek(). */
bool quiet_processor_counts(QuietProcessor *seen);

#endif
