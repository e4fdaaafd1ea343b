#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "traces/import_counts.h"
#include "traces/import_sink.h"
#include "traces/step_buffer.h"

struct CountsWriter {
    const ImportOptions *options;
    ImportSink *sink;
    uint32_t n_layers;
    uint32_t experts;
    TraceLayer *layers; /* [n_layers] */
    StepBuffer arrays;
};

static Status add_notes(cJSON *notes)
{
    TRY(json_add_bool(notes, "counts_only", true));
    return json_add_text(notes, "tokens",
                         "each is one assignment; which token took which experts is not known");
}

static Status fill_layers(CountsWriter *writer, const uint32_t *layers)
{
    const ImportOptions *options = writer->options;
    TRY(mem_new(&writer->layers, writer->n_layers, sizeof *writer->layers, "import"));
    for (uint32_t i = 0; i < writer->n_layers; i++) {
        TraceLayer *layer = &writer->layers[i];
        layer->layer = layers != NULL ? layers[i] : options->first_layer + i;
        layer->experts = writer->experts;
        layer->top_k = 1;
        layer->expert_bytes = options->expert_bytes;
        snprintf(layer->name, sizeof layer->name, "layer %u", layer->layer);
    }
    return OK;
}

static void free_writer(CountsWriter *writer)
{
    step_buffer_free(&writer->arrays);
    mem_free(writer->layers);
    mem_free(writer);
}

Status counts_writer_open(const ImportOptions *options, const uint32_t *layers, uint32_t n_layers,
                          uint32_t experts, cJSON *notes, CountsWriter **out)
{
    enum { USUAL_STEP_BYTES = 1 << 20 };
    CountsWriter *writer;
    TRY(mem_new(&writer, 1, sizeof *writer, "import"));
    writer->options = options;
    writer->n_layers = n_layers;
    writer->experts = experts;
    Status status = add_notes(notes);
    if (status == OK)
        status = fill_layers(writer, layers);
    if (status == OK)
        status = import_sink_open(options, writer->layers, n_layers, NULL, notes,
                                  &(ImportSteps){.bytes = USUAL_STEP_BYTES}, &writer->sink);
    if (status == OK)
        status = import_sink_request(writer->sink, &(TraceRequest){0});
    if (status != OK) {
        counts_writer_abandon(writer);
        return status;
    }
    *out = writer;
    return OK;
}

/* Assignments of the busiest layer. */
static Status step_length(const CountsWriter *writer, uint32_t step, const uint64_t *counts,
                          uint32_t *longest)
{
    *longest = 0;
    for (uint32_t layer = 0; layer < writer->n_layers; layer++) {
        uint64_t sum = 0;
        for (uint32_t expert = 0; expert < writer->experts; expert++)
            if (__builtin_add_overflow(sum, counts[(size_t)layer * writer->experts + expert], &sum))
                sum = UINT64_MAX;
        if (sum > TRACE_MAX_TOKENS)
            return fail(ERR_INPUT,
                        "%s: step %u: layer %u: %" PRIu64 " assignments, a step has at most %d: "
                        "this is the sum of many steps, and a trace needs them one by one",
                        writer->options->path, step, writer->layers[layer].layer, sum,
                        TRACE_MAX_TOKENS);
        *longest = sum > *longest ? (uint32_t)sum : *longest;
    }
    return OK;
}

static void lay_out(CountsWriter *writer, const uint64_t *counts, uint32_t longest)
{
    uint16_t *to = writer->arrays.experts;
    memset(to, 0xFF, (size_t)longest * writer->n_layers * sizeof *to);
    for (uint32_t layer = 0; layer < writer->n_layers; layer++) {
        uint16_t *at = to + (size_t)layer * longest;
        for (uint32_t expert = 0; expert < writer->experts; expert++)
            for (uint64_t i = counts[(size_t)layer * writer->experts + expert]; i > 0; i--)
                *at++ = (uint16_t)expert;
    }
    for (uint32_t i = 0; i < longest; i++)
        writer->arrays.position[i] = i;
}

Status counts_writer_step(CountsWriter *writer, uint32_t number, const uint64_t *counts)
{
    uint32_t longest;
    TRY(step_length(writer, number, counts, &longest));
    if (longest == 0)
        return OK;
    TRY(step_buffer_fit(&writer->arrays, longest, (size_t)longest * writer->n_layers, 0));
    memset(writer->arrays.request, 0, longest * sizeof *writer->arrays.request);
    lay_out(writer, counts, longest);
    TraceStep step = {.phase = PHASE_MIXED,
                      .tokens = longest,
                      .request = writer->arrays.request,
                      .position = writer->arrays.position,
                      .experts = writer->arrays.experts};
    import_sink_number(writer->sink, number);
    return import_sink_step(writer->sink, &step, NULL, 0);
}

Status counts_writer_close(CountsWriter *writer, ImportReport *report)
{
    Status status = import_sink_close(writer->sink, report);
    free_writer(writer);
    return status;
}

void counts_writer_abandon(CountsWriter *writer)
{
    if (writer == NULL)
        return;
    import_sink_abandon(writer->sink);
    free_writer(writer);
}
