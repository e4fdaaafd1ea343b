#define _XOPEN_SOURCE 700
#include "traces/import_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "base/scratch.h"
#include "traces/layers.h"
#include "traces/page_size.h"
#include "traces/recorder.h"

/* Where steps differ in length a long one leaves half a page empty on average, and its row of
 * places more: with 1024 bytes a page sequences of 24 x top-4 take 1.02 of their own bytes, with
 * 4096 1.05. Where nothing is known of lengths there may be steps of one token, which take 1.05
 * times as much with 1024 as with 2048. */
enum { LONG_STEP_BYTES = 16 << 10, LONG_PAGE = 1024, UNKNOWN_PAGE = 2048, TABLES = 10 };
enum { RING_BYTES = 32 << 20, RING_MOST = 512, RING_LEAST = 4, TRANSACTION_STEPS = 4096 };

struct ImportSink {
    const ImportOptions *options;
    Recorder *recorder;
    StackSpan spans[2];   /* by Stack */
    ScratchFolder folder; /* beside the trace that is made */
    char *temporary;      /* the trace, in it */
    ImportReport report;
    uint32_t next_step;
    uint64_t progress_at; /* tokens at which to report next */
};

const char *const IMPORT_FORMAT_NAMES[IMPORT_FORMATS + 1] = {
    [IMPORT_NPY] = "npy",       [IMPORT_BIGMOE_CSV] = "bigmoe-csv",
    [IMPORT_JSONL] = "jsonl",   [IMPORT_COUNTS] = "counts",
    [IMPORT_SGLANG] = "sglang", [IMPORT_SGLANG_COUNTS] = "sglang-counts",
    [IMPORT_VLLM] = "vllm",     [IMPORT_TRTLLM] = "trtllm",
};

static Status add_notes(cJSON *root, const ImportOptions *options, const cJSON *notes)
{
    cJSON *import;
    TRY(json_add_object(root, "import", &import));
    TRY(json_add_text(import, "format", IMPORT_FORMAT_NAMES[options->from]));
    for (const cJSON *item = notes != NULL ? notes->child : NULL; item != NULL; item = item->next) {
        cJSON *copy = cJSON_Duplicate(item, 1);
        if (copy == NULL || !cJSON_AddItemToObject(import, item->string, copy)) {
            cJSON_Delete(copy);
            return fail_memory("run.notes", 0);
        }
    }
    return OK;
}

static Status notes_text(const ImportOptions *options, const cJSON *notes, char **text)
{
    cJSON *root = cJSON_CreateObject();
    Status status = root != NULL ? add_notes(root, options, notes) : fail_memory("run.notes", 0);
    *text = status == OK ? cJSON_PrintUnformatted(root) : NULL;
    if (status == OK && *text == NULL)
        status = fail_memory("run.notes", 0);
    cJSON_Delete(root);
    return status;
}

static uint32_t ring_slots(size_t step_bytes)
{
    size_t slots = RING_BYTES / (step_bytes + 1);
    if (slots < RING_LEAST)
        return RING_LEAST;
    return slots > RING_MOST ? RING_MOST : (uint32_t)slots;
}

/* 0: the usual. A row's record has its header and what else the step is described by before the
 * blobs. */
static uint32_t page_bytes(const TraceLayer *layers, uint32_t n_layers, const ImportSteps *steps)
{
    enum { ROUTING_REST = 12, STEP_REST = 24 };
    uint64_t ids = 0;
    if (steps->count == 0 && steps->bytes < LONG_STEP_BYTES)
        return 0;
    if (steps->count == 0)
        return steps->tokens > 0 ? LONG_PAGE : UNKNOWN_PAGE;
    for (uint32_t i = 0; i < n_layers; i++)
        ids += layers[i].top_k * steps->tokens;
    size_t id_bytes = layers_id_bytes(layers, n_layers) + (steps->weights ? sizeof(uint16_t) : 0);
    const uint64_t rows[] = {ids * id_bytes + ROUTING_REST,
                             steps->tokens * 2 * sizeof(uint32_t) + STEP_REST};
    return page_size_for(rows, sizeof rows / sizeof *rows, steps->count, TABLES);
}

static Status open_recorder(ImportSink *sink, const TraceLayer *layers, uint32_t n_layers,
                            const char *model, const char *notes, const ImportSteps *steps)
{
    const ImportOptions *options = sink->options;
    const TraceRun run = {
        .tool = "moebius " MOEBIUS_VERSION " import",
        .source = options->path,
        .model = options->model != NULL ? options->model : model,
        .notes = notes,
    };
    const RecorderOptions recorder = {.ring_slots = ring_slots(steps->bytes),
                                      .transaction_steps = TRANSACTION_STEPS,
                                      .transaction_ns = 2000000000,
                                      .durability = DURABLE_NOT,
                                      .page_bytes = page_bytes(layers, n_layers, steps)};
    TRY(layers_check(options->path, layers, n_layers, ERR_INPUT));
    return recorder_open(sink->temporary, &run, layers, n_layers, &recorder, &sink->recorder);
}

static Status name_files(ImportSink *sink)
{
    const char *out = sink->options->out;
    size_t room = strlen(out) + 32;
    if (file_exists(out))
        return fail(ERR_OUTPUT, "%s: exists already; remove it or choose another name", out);
    TRY(mem_new(&sink->temporary, room, 1, "import"));
    snprintf(sink->temporary, room, "%s" IMPORT_TEMPORARY, out);
    TRY(scratch_open(sink->temporary, &sink->folder));
    return scratch_name(&sink->folder, "trace.db", sink->temporary, room);
}

static void free_sink(ImportSink *sink)
{
    scratch_close(&sink->folder);
    mem_free(sink->temporary);
    mem_free(sink);
}

Status import_sink_open(const ImportOptions *options, const TraceLayer *layers, uint32_t n_layers,
                        const char *model, const cJSON *notes, const ImportSteps *steps,
                        ImportSink **out)
{
    ImportSink *sink;
    char *text = NULL;
    TRY(mem_new(&sink, 1, sizeof *sink, "import"));
    sink->options = options;
    sink->report.layers = n_layers;
    sink->spans[STACK_DECODER] = layers_span(layers, n_layers, STACK_DECODER);
    sink->spans[STACK_ENCODER] = layers_span(layers, n_layers, STACK_ENCODER);
    Status status = name_files(sink);
    if (status == OK)
        status = notes_text(options, notes, &text);
    if (status == OK)
        status = open_recorder(sink, layers, n_layers, model, text, steps);
    cJSON_free(text);
    if (status != OK) {
        free_sink(sink);
        return status;
    }
    *out = sink;
    return OK;
}

void import_sink_number(ImportSink *sink, uint32_t step)
{
    sink->next_step = step;
}

Status import_sink_request(ImportSink *sink, const TraceRequest *request)
{
    sink->report.requests++;
    return recorder_request(sink->recorder, request);
}

static uint64_t count_dropped(const uint16_t *experts, size_t ids)
{
    uint64_t dropped = 0;
    for (size_t i = 0; i < ids; i++)
        dropped += experts[i] == EXPERT_DROPPED;
    return dropped;
}

static void report_progress(ImportSink *sink)
{
    enum { EVERY = 4096 };
    const ImportOptions *options = sink->options;
    if (options->progress == NULL || sink->report.tokens < sink->progress_at)
        return;
    sink->progress_at = sink->report.tokens + EVERY;
    options->progress(options->progress_argument, sink->report.tokens, 0);
}

Status import_sink_step(ImportSink *sink, TraceStep *step, const ResidencyRecord *residency,
                        size_t n_residency)
{
    const ImportOptions *options = sink->options;
    size_t ids = (size_t)step->tokens * sink->spans[step->stack].top_k;
    if (options->stop != NULL && *options->stop != 0)
        return fail(ERR_INTERRUPTED, "%s: interrupted", options->path);
    if (sink->next_step == UINT32_MAX)
        return fail(ERR_INPUT, "%s: more than %u steps", options->path, UINT32_MAX);
    if (ids > 500000000)
        return fail(ERR_INPUT,
                    "%s: step %llu: %zu expert ids in one step, at most 500000000 fit: choose "
                    "smaller steps",
                    options->path, (unsigned long long)sink->next_step, ids);
    step->step = sink->next_step++;
    TRY(recorder_step(sink->recorder, step, residency, n_residency, NULL, 0));
    sink->report.steps++;
    sink->report.tokens += step->tokens;
    sink->report.ids += ids;
    sink->report.dropped += count_dropped(step->experts, ids);
    report_progress(sink);
    return OK;
}

/* All of it is on the disk before it has a name. */
static Status sync_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    int reason = errno;
    if (fd >= 0)
        close(fd);
    return synced ? OK : fail(ERR_IO, "%s: cannot sync: %s", path, strerror(reason));
}

/* Never over a file that came into being meanwhile; file systems without hard links get a rename.
 */
static Status give_name(const ImportSink *sink)
{
    const char *out = sink->options->out;
    if (link(sink->temporary, out) == 0)
        return OK;
    if (errno == EEXIST)
        return fail(ERR_OUTPUT, "%s: exists already; remove it or choose another name", out);
    if (rename(sink->temporary, out) != 0)
        return fail(ERR_OUTPUT, "%s: cannot rename %s: %s", out, sink->temporary, strerror(errno));
    return OK;
}

Status import_sink_close(ImportSink *sink, ImportReport *report)
{
    Status status = OK;
    if (sink->report.steps == 0) {
        recorder_abandon(sink->recorder);
        status = fail(ERR_INPUT, "%s: holds no token", sink->options->path);
    } else {
        status = recorder_close(sink->recorder);
    }
    if (status == OK)
        status = sync_file(sink->temporary);
    if (status == OK)
        status = give_name(sink);
    if (status == OK)
        *report = sink->report;
    free_sink(sink);
    return status;
}

void import_sink_abandon(ImportSink *sink)
{
    if (sink == NULL)
        return;
    recorder_abandon(sink->recorder);
    free_sink(sink);
}
