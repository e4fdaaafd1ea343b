/* Small loads that come ahead: the copy engine brings them one after the other, which are begun
 * together. */
#include "base/clock.h"
#include "exec/calibrate_rig.h"
#include "policies/link.h"

enum { LEAST_BYTES = 32 << 10, MOST_AHEAD = 16, ROUNDS = 5 };

/* N loads of BYTES that come ahead, one after the other, while a product is on its way: what the
 * host needs to begin them, and what they take. */
static Status measure_ahead(const Rig *rig, size_t bytes, uint32_t n)
{
    static const char *const AXES[] = {"bytes", "loads"};
    const FfnShape shape = rig_shape(rig, bytes);
    const double at[] = {(double)bytes, n};
    Load loads[MOST_AHEAD];
    double ns[ROUNDS];
    double issue_ns[ROUNDS];
    for (uint32_t i = 0; i < n; i++)
        loads[i] = (Load){.shape = &shape,
                          .kept = rig->host + i * bytes,
                          .slot = rig->at + i * bytes,
                          .ahead = true,
                          .ticket = i};
    calibration_seek_quiet(rig->calibration);
    for (int round = -1; round < ROUNDS; round += calibration_counts(rig->calibration)) {
        uint32_t row = round > 0 ? (uint32_t)round : 0;
        uint64_t load_start_ns;
        uint64_t duration_ns;
        TRY(rig_multiply(rig, 1, 1));
        uint64_t start_ns = clock_ns();
        TRY(rig->backend->load(rig->device, loads, n));
        issue_ns[row] = (double)(clock_ns() - start_ns);
        TRY(rig->backend->await_loads(rig->device, &loads->ticket, 1));
        TRY(rig->backend->wait(rig->device));
        TRY(rig->backend->load_time(rig->device, 0, &load_start_ns, &duration_ns));
        ns[row] = (double)duration_ns;
    }
    double spread = variation_f64(issue_ns, ROUNDS);
    TRY(calibration_note(rig->calibration, "issue/ahead", "", UNIT_NS, AXES, 2, at,
                         median_f64(issue_ns, ROUNDS), spread));
    spread = variation_f64(ns, ROUNDS);
    return calibration_note(rig->calibration, "copy/ahead", "", UNIT_NS, AXES, 2, at,
                            median_f64(ns, ROUNDS), spread);
}

Status calibrate_copies_ahead(const Rig *rig)
{
    for (size_t bytes = LEAST_BYTES; bytes <= LOADED_TOGETHER_BYTES; bytes *= 2)
        for (uint32_t n = 1; n <= MOST_AHEAD && n * bytes <= rig->most_bytes; n *= 2)
            TRY(measure_ahead(rig, bytes, n));
    return OK;
}
