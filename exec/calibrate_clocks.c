/* The clock of the GPU's processors, by the driver's own library, which is looked for when it is
 * needed. */
#include <dlfcn.h>
#include <string.h>

#include "exec/calibrate_parts.h"

/* Of nvml.h, whose functions return 0 for success. */
enum { CLOCK_OF_PROCESSORS = 1 };
typedef int (*NvmlInit)(void);
typedef int (*NvmlHandle)(unsigned index, void **device);

/* POSIX has objects and functions share addresses; C does not say so. */
static bool find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static void open_driver(Calibration *c)
{
    DeviceClock *clock = &c->clock;
    NvmlInit init;
    NvmlHandle handle;
    clock->asked = true;
    clock->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (clock->library == NULL || !find(clock->library, "nvmlInit_v2", &init) ||
        !find(clock->library, "nvmlDeviceGetHandleByIndex_v2", &handle) ||
        !find(clock->library, "nvmlDeviceGetClockInfo", &clock->read) || init() != 0 ||
        handle(0, &clock->device) != 0)
        clock->read = NULL;
}

void calibration_note_clock(Calibration *c)
{
    Hardware *hardware = c->hardware;
    unsigned mhz = 0;
    if (strcmp(c->options->device, "cuda") != 0)
        return;
    if (!c->clock.asked)
        open_driver(c);
    if (c->clock.read == NULL || c->clock.read(c->clock.device, CLOCK_OF_PROCESSORS, &mhz) != 0 ||
        mhz == 0)
        return;
    if (hardware->least_clock_mhz == 0 || mhz < hardware->least_clock_mhz)
        hardware->least_clock_mhz = mhz;
    if (mhz > hardware->most_clock_mhz)
        hardware->most_clock_mhz = mhz;
}

void calibration_close_clock(Calibration *c)
{
    if (c->clock.library != NULL)
        dlclose(c->clock.library);
    c->clock = (DeviceClock){.asked = false};
}
