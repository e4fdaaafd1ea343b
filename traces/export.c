#include "traces/export.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/layers.h"
#include "traces/reader.h"
#include "traces/step_buffer.h"

enum { NPY_HEADER_BYTES = 128, ROW_BYTES = 160 };

typedef struct {
    const ExportOptions *options;
    TraceReader *reader;
    const TraceLayer *layers;
    uint32_t n_layers;
    StackSpan span; /* npy */
    uint32_t top_k; /* npy */
    size_t width;   /* npy: bytes of an id */
    OutputFile output;
    void *row; /* a token's ids */
    size_t row_bytes;
    ExportReport report;
} Export;

static Status write_bytes(Export *export, const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, export->output.stream) == bytes)
        return OK;
    return fail(ERR_IO, "%s: cannot write: %s", export->options->out, strerror(errno));
}

/* One choice as a line; the fields in front are the same for all of its token. */
static Status write_choice(Export *export, const char *front, int front_bytes, uint32_t slot,
                           uint16_t expert, const float *weight, const char *back)
{
    char line[2 * ROW_BYTES];
    char id[8] = "";
    char share[32] = "";
    if (expert != EXPERT_DROPPED)
        snprintf(id, sizeof id, "%u", expert);
    if (expert != EXPERT_DROPPED && weight != NULL)
        snprintf(share, sizeof share, "%.9g", (double)*weight);
    int bytes =
        snprintf(line, sizeof line, "%.*s%u,%s,%s%s", front_bytes, front, slot, id, share, back);
    export->report.ids++;
    return write_bytes(export, line, (size_t)bytes);
}

static Status write_csv_step(Export *export, const TraceStep *step)
{
    StackSpan span = layers_span(export->layers, export->n_layers, step->stack);
    size_t id = 0;
    for (uint32_t i = span.first; i < span.first + span.count; i++)
        for (uint32_t token = 0; token < step->tokens; token++) {
            char front[ROW_BYTES];
            char back[ROW_BYTES];
            int bytes = snprintf(front, sizeof front, "%u,%s,%u,%u,", step->step,
                                 phase_name(step->phase), export->layers[i].layer, token);
            snprintf(back, sizeof back, ",%u,%u\n", step->request[token], step->position[token]);
            for (uint32_t slot = 0; slot < export->layers[i].top_k; slot++, id++)
                TRY(write_choice(export, front, bytes, slot, step->experts[id],
                                 step->weights != NULL ? &step->weights[id] : NULL, back));
        }
    return OK;
}

/* One token's ids, layer by layer. */
static Status write_npy_token(Export *export, const TraceStep *step, uint32_t token)
{
    unsigned char *to = export->row;
    for (uint32_t layer = 0; layer < export->span.count; layer++)
        for (uint32_t slot = 0; slot < export->top_k; slot++, to += export->width) {
            size_t at = ((size_t)layer * step->tokens + token) * export->top_k + slot;
            int32_t id = step->experts[at] == EXPERT_DROPPED ? -1 : step->experts[at];
            memcpy(to, &id, export->width); /* little-endian, as traces/store.h demands */
        }
    return write_bytes(export, export->row, export->row_bytes);
}

static Status write_npy_step(Export *export, const TraceStep *step)
{
    if (step->stack != export->options->stack)
        return OK;
    for (uint32_t token = 0; token < step->tokens; token++)
        TRY(write_npy_token(export, step, token));
    export->report.ids += (uint64_t)step->tokens * export->span.top_k;
    return OK;
}

/* The header, of a size that does not depend on how many tokens there are. */
static Status write_npy_header(Export *export)
{
    char header[NPY_HEADER_BYTES] = {0};
    char dict[NPY_HEADER_BYTES];
    snprintf(dict, sizeof dict,
             "{'descr': '<i%zu', 'fortran_order': False, 'shape': (%" PRIu64 ", %u, %u), }",
             export->width, export->report.tokens, export->span.count, export->top_k);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)(NPY_HEADER_BYTES - 10);
    memset(header + 10, ' ', NPY_HEADER_BYTES - 11);
    memcpy(header + 10, dict, strlen(dict));
    header[NPY_HEADER_BYTES - 1] = '\n';
    if (fseek(export->output.stream, 0, SEEK_SET) != 0)
        return fail(ERR_IO, "%s: cannot write: %s", export->options->out, strerror(errno));
    return write_bytes(export, header, NPY_HEADER_BYTES);
}

static Status prepare_npy(Export *export)
{
    const ExportOptions *options = export->options;
    export->span = layers_span(export->layers, export->n_layers, options->stack);
    if (export->span.count == 0)
        return fail(ERR_INPUT, "%s: no MoE layer in the %s", options->trace,
                    stack_name(options->stack));
    const TraceLayer *first = &export->layers[export->span.first];
    export->top_k = first->top_k;
    for (uint32_t i = 1; i < export->span.count; i++)
        if (first[i].top_k != first->top_k)
            return fail(ERR_INPUT, "%s: layer %u: top_k %u, layer %u has %u: npy needs them equal",
                        options->trace, first[i].layer, first[i].top_k, first->layer, first->top_k);
    export->width = layers_max_experts(export->layers, export->n_layers) <= 32768 ? 2 : 4;
    export->row_bytes = (size_t) export->span.count * export->top_k * export->width;
    TRY(mem_new(&export->row, export->row_bytes, 1, "export"));
    return write_npy_header(export);
}

static Status write_front(Export *export)
{
    static const char COLUMNS[] = "step,phase,layer,token,slot,expert,weight,request,position\n";
    if (export->options->to == EXPORT_NPY)
        return prepare_npy(export);
    return write_bytes(export, COLUMNS, strlen(COLUMNS));
}

static Status write_steps(Export *export)
{
    const ExportOptions *options = export->options;
    for (;;) {
        TraceStep step;
        Status status = trace_reader_next_step(export->reader, &step);
        if (status != OK)
            return status == STATUS_END ? OK : status;
        if (options->stop != NULL && *options->stop != 0)
            return fail(ERR_INTERRUPTED, "%s: interrupted", options->trace);
        TRY(options->to == EXPORT_NPY ? write_npy_step(export, &step)
                                      : write_csv_step(export, &step));
        if (options->to == EXPORT_NPY && step.stack != options->stack)
            continue;
        export->report.steps++;
        export->report.tokens += step.tokens;
    }
}

static Status write_all(Export *export)
{
    TRY(write_front(export));
    TRY(write_steps(export));
    if (export->options->to == EXPORT_CSV)
        return OK;
    if (export->report.tokens == 0)
        return fail(ERR_INPUT, "%s: no step of the %s", export->options->trace,
                    stack_name(export->options->stack));
    return write_npy_header(export); /* again, now that the number of tokens is known */
}

Status trace_export(const ExportOptions *options, ExportReport *report)
{
    Export export = {.options = options};
    TRY(trace_reader_open(options->trace, &export.reader));
    export.layers = trace_reader_layers(export.reader, &export.n_layers);
    Status status = output_open(options->out, &export.output);
    if (status == OK) {
        status = write_all(&export);
        if (status == OK)
            status = output_commit(&export.output);
        else
            output_discard(&export.output);
    }
    trace_reader_close(export.reader);
    mem_free(export.row);
    if (status == OK)
        *report = export.report;
    return status;
}
