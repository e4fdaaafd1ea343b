/* A good trace with any bytes of it changed: refused or read, never a crash. The input is a list of
 * changes, four bytes each: offset (24 bits, little-endian, modulo the size), value. */
#define _XOPEN_SOURCE 700
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/packed.h"
#include "traces/recorder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char path[64];
static char *good;
static size_t good_bytes;

static void remove_file(void)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < 4; i++) {
        char name[80];
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

static Status record(void)
{
    const TraceLayer layer = {.layer = 1, .experts = 16, .top_k = 4};
    const uint32_t words[4] = {0, 1, 2, 3};
    const uint16_t experts[16] = {1, 2, 3, 4, 5, 6, 7, 8, EXPERT_DROPPED};
    const ResidencyRecord hit = {.layer = 1, .expert = 2};
    const TimingRecord op = {.layer = 1};
    Recorder *recorder;
    TRY(recorder_open(path, &(TraceRun){0}, &layer, 1, NULL, &recorder));
    TRY(recorder_request(recorder, &(TraceRequest){.label = "a"}));
    for (uint32_t i = 0; i < 20; i++) {
        TraceStep step = {.step = i, .tokens = 4, .request = words, .position = words};
        step.experts = experts;
        TRY(recorder_step(recorder, &step, &hit, 1, &op, 1));
    }
    return recorder_close(recorder);
}

static void prepare(void)
{
    memory_install();
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"; /* memory is faster */
    snprintf(path, sizeof path, "%s/moebius-fuzz-%ld.db", folder, (long)getpid());
    atexit(remove_file);
    if (record() != OK || file_read_all(path, 1 << 24, &good, &good_bytes) != OK)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (good == NULL)
        prepare();
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, good, good_bytes) != (ssize_t)good_bytes)
        abort();
    for (; bytes >= 4; data += 4, bytes -= 4) {
        size_t offset = data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16;
        if (pwrite(fd, data + 3, 1, (off_t)(offset % good_bytes)) != 1)
            abort();
    }
    close(fd);
    TraceCheck found;
    PackedTrace trace;
    trace_check(path, &found, NULL, NULL);
    if (packed_trace_load(path, &trace) == OK)
        packed_trace_free(&trace);
    remove_file();
    return 0;
}
