/* Time. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

/* Monotonic nanoseconds since an arbitrary start. */
uint64_t clock_ns(void);
/* Nanoseconds since 1970-01-01 UTC. */
uint64_t clock_wall_ns(void);
/* Writes "2026-11-23T09:00:00Z" (21 bytes with the zero) for now. */
void clock_wall_text(char text[21]);

#endif
