/* One line on stderr with share, rate and time left, for work that lasts over a second on a
 * terminal; or, on request, a new line every ten seconds, for logs. */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *what; /* "recording" */
    const char *unit; /* "tokens" */
    uint64_t total;   /* 0: unknown */
    uint64_t start_ns;
    uint64_t shown_ns;
    bool visible; /* stderr is a terminal, or lines were asked for */
    bool lines;
    bool printed;
} Progress;

void progress_start(Progress *progress, const char *what, const char *unit, uint64_t total);
/* From now on lines, whatever stderr is. */
void progress_in_lines(Progress *progress);
/* Redraws at most ten times a second. Cheap enough to call per step. */
void progress_update(Progress *progress, uint64_t done);
/* The same as a callback of long work: ARGUMENT is the Progress, whose total becomes TOTAL. */
void progress_show(void *argument, uint64_t done, uint64_t total);
/* Wipes the line. */
void progress_end(Progress *progress);

#endif
