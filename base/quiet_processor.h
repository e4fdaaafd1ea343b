/* A processor whose core nobody else uses.
 *
 * Two processors of a machine may be the same core's, and the other one another machine's: while it
 * is busy, what this one does takes up to 1.8 times as long, for milliseconds or for minutes, and
 * nothing but the time tells (on the H200's host 30 us for a loop that then takes 50 to 60). Who
 * measures moves away from it first. */
#ifndef BASE_QUIET_PROCESSOR_H
#define BASE_QUIET_PROCESSOR_H

#include <stdint.h>

/* What was seen of the processors that the thread may run on; zeroed before the first call. */
typedef struct {
    uint64_t best_ns; /* of the loop, on any of them */
} QuietProcessor;

/* Moves the calling thread to a processor that is as fast as the best that was seen, or else to the
 * fastest of all, unless the one that it is on is so. It may run on the same ones as before: a
 * thread that keeps busy stays where it is. Takes some 60 us where it stays. */
void quiet_processor_seek(QuietProcessor *seen);

#endif
