#include "base/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

void progress_start(Progress *progress, const char *what, const char *unit, uint64_t total)
{
    *progress = (Progress){.what = what, .unit = unit, .total = total, .start_ns = clock_ns()};
    progress->shown_ns = progress->start_ns + 900000000u; /* first drawn after a second */
    progress->visible = isatty(STDERR_FILENO) == 1;
}

void progress_update(Progress *progress, uint64_t done)
{
    if (!progress->visible)
        return;
    uint64_t now = clock_ns();
    if (now < progress->shown_ns + 100000000u)
        return;
    progress->shown_ns = now;
    progress->printed = true;
    double seconds = (double)(now - progress->start_ns) / 1e9;
    double rate = (double)done / seconds;
    fprintf(stderr, "\r%s: %llu", progress->what, (unsigned long long)done);
    if (progress->total > 0 && done > 0) {
        double left =
            (double)(progress->total - (done < progress->total ? done : progress->total)) / rate;
        fprintf(stderr, " of %llu %s (%.0f %%), %.3g/s, %.0f s left \033[K",
                (unsigned long long)progress->total, progress->unit,
                100.0 * (double)done / (double)progress->total, rate, left);
    } else {
        fprintf(stderr, " %s, %.3g/s \033[K", progress->unit, rate);
    }
    fflush(stderr);
}

void progress_end(Progress *progress)
{
    if (progress->printed)
        fprintf(stderr, "\r\033[K");
}
