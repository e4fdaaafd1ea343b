#include "base/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

#define REDRAW_NS UINT64_C(100000000)
#define LINE_NS UINT64_C(10000000000)

void progress_start(Progress *progress, const char *what, const char *unit, uint64_t total)
{
    *progress = (Progress){.what = what, .unit = unit, .total = total, .start_ns = clock_ns()};
    progress->shown_ns = progress->start_ns + 900000000u; /* first drawn after a second */
    progress->visible = isatty(STDERR_FILENO) == 1;
}

void progress_in_lines(Progress *progress)
{
    progress->visible = true;
    progress->lines = true;
    progress->shown_ns = progress->start_ns;
}

static void print_text(const Progress *progress, uint64_t done, double seconds)
{
    double rate = (double)done / seconds;
    if (progress->total == 0 || done == 0) {
        fprintf(stderr, "%s: %llu %s, %.3g/s", progress->what, (unsigned long long)done,
                progress->unit, rate);
        return;
    }
    uint64_t left = progress->total - (done < progress->total ? done : progress->total);
    fprintf(stderr, "%s: %llu of %llu %s (%.0f %%), %.3g/s, %.0f s left", progress->what,
            (unsigned long long)done, (unsigned long long)progress->total, progress->unit,
            100.0 * (double)done / (double)progress->total, rate, (double)left / rate);
}

void progress_update(Progress *progress, uint64_t done)
{
    if (!progress->visible)
        return;
    uint64_t now = clock_ns();
    if (now < progress->shown_ns + (progress->lines ? LINE_NS : REDRAW_NS))
        return;
    progress->shown_ns = now;
    progress->printed = true;
    if (!progress->lines)
        fputc('\r', stderr);
    print_text(progress, done, (double)(now - progress->start_ns) / 1e9);
    fputs(progress->lines ? "\n" : " \033[K", stderr);
    fflush(stderr);
}

void progress_show(void *argument, uint64_t done, uint64_t total)
{
    Progress *progress = argument;
    progress->total = total;
    progress_update(progress, done);
}

void progress_end(Progress *progress)
{
    if (progress->printed && !progress->lines)
        fprintf(stderr, "\r\033[K");
}
