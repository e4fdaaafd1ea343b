#include "analysis/timeline.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "policies/placement.h"
#include "traces/ops.h"

typedef enum { TRACK_HOST = 1, TRACK_COMPUTE, TRACK_COPIES, TRACK_PORT_OUT, TRACK_PORT_IN } Track;

/* The executor, and the ranks of the simulator; in the file their numbers are from 1 on. */
enum { PROCESSES = TIMELINE_SIMULATOR + PLACEMENT_MAX_RANKS };

struct Timeline {
    OutputFile file;
    bool begun;
    bool seen[PROCESSES];
    uint64_t origin_ns[PROCESSES]; /* start of the first step */
};

Status timeline_open(const char *path, Timeline **out)
{
    Timeline *timeline;
    TRY(mem_new(&timeline, 1, sizeof *timeline, "timeline"));
    Status status = output_open(path, &timeline->file);
    if (status != OK) {
        mem_free(timeline);
        return status;
    }
    fputs("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[", timeline->file.stream);
    *out = timeline;
    return OK;
}

/* The name of a process, or of one of its tracks where TRACK is not 0. */
static void put_name(Timeline *timeline, uint32_t process, int track, const char *name)
{
    fprintf(timeline->file.stream,
            "%s\n{\"ph\":\"M\",\"pid\":%u,\"tid\":%d,\"name\":\"%s\",\"args\":{\"name\":\"%s\"}}",
            timeline->begun ? "," : "", process + 1, track,
            track == 0 ? "process_name" : "thread_name", name);
    timeline->begun = true;
}

static void begin_process(Timeline *timeline, uint32_t process, const TimelineStep *step)
{
    char name[48] = "executor";
    if (process >= TIMELINE_SIMULATOR)
        snprintf(name, sizeof name, "simulator");
    if (step->ranks > 1)
        snprintf(name, sizeof name, "simulator, rank %" PRIu32, step->rank);
    put_name(timeline, process, 0, name);
    put_name(timeline, process, TRACK_HOST, "host");
    put_name(timeline, process, TRACK_COMPUTE, "compute");
    put_name(timeline, process, TRACK_COPIES, "copies H2D");
    if (step->ranks > 1) {
        put_name(timeline, process, TRACK_PORT_OUT, "port out");
        put_name(timeline, process, TRACK_PORT_IN, "port in");
    }
    timeline->seen[process] = true;
    timeline->origin_ns[process] = step->start_ns;
}

/* Times are in microseconds, of which three decimals keep the nanoseconds. Clocks of a device and
 * of its host may differ a little: nothing is drawn before the first step. */
static void put_slice(const Timeline *timeline, uint32_t process, Track track, uint64_t start_ns,
                      uint64_t duration_ns)
{
    uint64_t origin_ns = timeline->origin_ns[process];
    uint64_t at_ns = start_ns > origin_ns ? start_ns - origin_ns : 0;
    fprintf(timeline->file.stream,
            ",\n{\"ph\":\"X\",\"pid\":%u,\"tid\":%d,\"ts\":%" PRIu64 ".%03u,\"dur\":%" PRIu64
            ".%03u,",
            process + 1, track, at_ns / 1000, (unsigned)(at_ns % 1000), duration_ns / 1000,
            (unsigned)(duration_ns % 1000));
}

static void put_step(const Timeline *timeline, uint32_t process, const TimelineStep *step)
{
    put_slice(timeline, process, TRACK_HOST, step->start_ns, step->duration_ns);
    fprintf(timeline->file.stream,
            "\"name\":\"step %" PRIu32 " %s\",\"args\":{\"tokens\":%" PRIu32 "}}", step->step,
            phase_name(step->phase), step->tokens);
}

/* A counter, of which Perfetto draws each value; it has the step's end. */
static void put_memory(const Timeline *timeline, uint32_t process, const TimelineStep *step)
{
    const TimelineMemory *memory = &step->memory;
    uint64_t at_ns = step->start_ns + step->duration_ns - timeline->origin_ns[process];
    if (memory->weights + memory->slots + memory->caches + memory->activations == 0)
        return;
    fprintf(timeline->file.stream,
            ",\n{\"ph\":\"C\",\"pid\":%u,\"ts\":%" PRIu64 ".%03u,\"name\":\"device memory\","
            "\"args\":{\"weights\":%" PRIu64 ",\"slots\":%" PRIu64 ",\"caches\":%" PRIu64
            ",\"activations\":%" PRIu64 "}}",
            process + 1, at_ns / 1000, (unsigned)(at_ns % 1000), memory->weights, memory->slots,
            memory->caches, memory->activations);
}

static void put_op(const Timeline *timeline, uint32_t process, uint32_t step,
                   const TimingRecord *op)
{
    put_slice(timeline, process, TRACK_COMPUTE, op->start_ns, op->duration_ns);
    fprintf(timeline->file.stream,
            "\"name\":\"%s\",\"args\":{\"layer\":%" PRIu32 ",\"step\":%" PRIu32 "}}",
            op->op < OPS ? op_name((Op)op->op) : "?", op->layer, step);
}

static void put_exchange(const Timeline *timeline, uint32_t process, uint32_t step,
                         const PortRecord *record)
{
    for (Track track = TRACK_PORT_OUT; track <= TRACK_PORT_IN; track++) {
        uint64_t bytes = track == TRACK_PORT_OUT ? record->sent_bytes : record->received_bytes;
        put_slice(timeline, process, track, record->start_ns, record->duration_ns);
        fprintf(timeline->file.stream,
                "\"name\":\"%s\",\"args\":{\"layer\":%" PRIu32 ",\"bytes\":%" PRIu64
                ",\"step\":%" PRIu32 "}}",
                record->back ? "combine" : "dispatch", record->layer, bytes, step);
    }
}

static void put_load(const Timeline *timeline, uint32_t process, uint32_t step,
                     const ResidencyRecord *record)
{
    Track track = record->kind == RESIDENCY_HOST ? TRACK_HOST : TRACK_COPIES;
    put_slice(timeline, process, track, record->start_ns, record->duration_ns);
    fprintf(timeline->file.stream,
            "\"name\":\"%s\",\"args\":{\"layer\":%" PRIu32 ",\"expert\":%" PRIu32
            ",\"slot\":%" PRIu32 ",\"bytes\":%" PRIu64 ",\"step\":%" PRIu32 "}}",
            residency_kind_name((ResidencyKind)record->kind), record->layer, record->expert,
            record->slot, record->bytes, step);
}

Status timeline_add(Timeline *timeline, TimelineProcess who, const TimelineStep *step)
{
    uint32_t process = who + step->rank;
    if (!timeline->seen[process])
        begin_process(timeline, process, step);
    put_step(timeline, process, step);
    put_memory(timeline, process, step);
    for (size_t i = 0; i < step->n_ops; i++)
        put_op(timeline, process, step->step, &step->ops[i]);
    for (size_t i = 0; i < step->n_residency; i++)
        if (step->residency[i].duration_ns > 0)
            put_load(timeline, process, step->step, &step->residency[i]);
    for (size_t i = 0; i < step->n_ports; i++)
        put_exchange(timeline, process, step->step, &step->ports[i]);
    if (ferror(timeline->file.stream))
        return fail(ERR_IO, "%s: cannot write: %s", timeline->file.path, strerror(errno));
    return OK;
}

Status timeline_close(Timeline *timeline)
{
    fputs("\n]}\n", timeline->file.stream);
    Status status = output_commit(&timeline->file);
    mem_free(timeline);
    return status;
}

void timeline_abandon(Timeline *timeline)
{
    if (timeline == NULL)
        return;
    output_discard(&timeline->file);
    mem_free(timeline);
}
