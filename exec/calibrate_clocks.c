/* The clock of the GPU's processors, by the driver's own library, which is looked for when it is
 * needed. */
#include <dlfcn.h>
#include <string.h>

#include "exec/calibrate_parts.h"

/* Of nvml.h, whose functions return 0 for success. */
enum { CLOCK_OF_PROCESSORS = 1 };
typedef struct nvmlDevice *NvmlDevice;
typedef int (*NvmlInit)(void);
typedef int (*NvmlHandle)(unsigned index, NvmlDevice *device);
typedef int (*NvmlClock)(NvmlDevice device, int type, unsigned *mhz);

/* POSIX has objects and functions share addresses; C does not say so. */
static bool find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static void read_clock(void *library, uint32_t *mhz)
{
    NvmlInit init;
    NvmlHandle handle;
    NvmlClock clock;
    NvmlDevice device;
    unsigned now = 0;
    if (find(library, "nvmlInit_v2", &init) &&
        find(library, "nvmlDeviceGetHandleByIndex_v2", &handle) &&
        find(library, "nvmlDeviceGetClockInfo", &clock) && init() == 0 && handle(0, &device) == 0 &&
        clock(device, CLOCK_OF_PROCESSORS, &now) == 0)
        *mhz = now;
}

void calibration_note_clock(Calibration *c)
{
    Hardware *hardware = c->hardware;
    uint32_t mhz = 0;
    if (strcmp(c->options->device, "cuda") != 0)
        return;
    if (c->driver == NULL)
        c->driver = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (c->driver == NULL)
        return;
    read_clock(c->driver, &mhz);
    if (mhz == 0)
        return;
    if (hardware->least_clock_mhz == 0 || mhz < hardware->least_clock_mhz)
        hardware->least_clock_mhz = mhz;
    if (mhz > hardware->most_clock_mhz)
        hardware->most_clock_mhz = mhz;
}

void calibration_close_clock(Calibration *c)
{
    if (c->driver != NULL)
        dlclose(c->driver);
    c->driver = NULL;
}
