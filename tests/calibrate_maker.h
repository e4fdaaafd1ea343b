/* What tests of calibration measure: a small model on the CPU. */
#ifndef TESTS_CALIBRATE_MAKER_H
#define TESTS_CALIBRATE_MAKER_H

#include "exec/calibrate_parts.h"

static const char MODEL[] = "models/tiny-32x4";

static inline CalibrateOptions options_of_cpu(void)
{
    return (CalibrateOptions){.device = "cpu", .threads = 2, .quick = true};
}

#endif
