/* The host's thread while it is measured: on a processor that others do not disturb, as far as
 * there is one. */
#include "exec/calibrate_parts.h"

/* For processors to become quiet, while a model is measured. */
static const uint64_t MOST_WAIT_NS = 8000000000;

void calibration_open_quiet(Calibration *c)
{
    const Hardware *known = c->options->known;
    uint64_t known_ns = known != NULL ? hardware_best_loop(known) : 0;
    uint64_t best_ns = hardware_best_loop(c->hardware);
    c->quiet.best_ns = best_ns == 0 || (known_ns > 0 && known_ns < best_ns) ? known_ns : best_ns;
    c->quiet.may_wait_ns = MOST_WAIT_NS;
}

/* Where operations run when they are called all processors are busy with them. */
static bool seeks_quiet(const Calibration *c)
{
    return !calibration_runs_at_once(c) || c->quiet.machine != NULL;
}

void calibration_seek_quiet(Calibration *c)
{
    if (seeks_quiet(c))
        quiet_processor_seek(&c->quiet);
}

bool calibration_counts(Calibration *c)
{
    return !seeks_quiet(c) || quiet_processor_counts(&c->quiet);
}

void calibration_note_host(Calibration *c)
{
    const QuietProcessor *quiet = &c->quiet;
    const HardwareModel *measured = hardware_model(c->hardware, c->model);
    if (measured == NULL || quiet->rounds == 0)
        return;
    HardwareModel *model = &c->hardware->models[measured - c->hardware->models];
    model->host = (HardwareHost){.best_ns = quiet->best_ns,
                                 .mean_ns = quiet->loop_ns / (double)quiet->rounds,
                                 .rounds = quiet->rounds,
                                 .disturbed = quiet->disturbed,
                                 .again = quiet->again,
                                 .waited_ns = quiet->waited_ns};
}
