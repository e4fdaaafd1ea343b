#include "traces/export_placement.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/files.h"

/* "[3, 0, 1]" */
static void write_row(FILE *stream, const uint32_t *slots, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        fprintf(stream, "%s%" PRIu32, i == 0 ? "[" : ", ", slots[i]);
    fputc(']', stream);
}

/* "[0, 1, 2, 0]" */
static void write_trivial_row(FILE *stream, uint32_t experts, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        fprintf(stream, "%s%" PRIu32, i == 0 ? "[" : ", ", i % experts);
    fputc(']', stream);
}

static Status finish(OutputFile *output, const char *out)
{
    if (!ferror(output->stream))
        return output_commit(output);
    Status status = fail(ERR_IO, "%s: cannot write: %s", out, strerror(errno));
    output_discard(output);
    return status;
}

Status export_sglang(const PlacementSlots *placement, uint32_t experts, uint32_t model_layers,
                     const char *out)
{
    OutputFile output;
    uint32_t last = placement->layer[placement->n_layers - 1];
    uint32_t at = 0;
    if (last >= model_layers)
        return fail(ERR_INPUT, "layer %" PRIu32 " is none of the model's %" PRIu32, last,
                    model_layers);
    TRY(output_open(out, &output));
    fputs("{\"physical_to_logical_map\": [\n", output.stream);
    for (uint32_t layer = 0; layer < model_layers; layer++) {
        if (at < placement->n_layers && placement->layer[at] == layer)
            write_row(output.stream, placement->slots + (size_t)at++ * placement->n_slots,
                      placement->n_slots);
        else
            write_trivial_row(output.stream, experts, placement->n_slots);
        fputs(layer + 1 < model_layers ? ",\n" : "\n", output.stream);
    }
    fputs("]}\n", output.stream);
    return finish(&output, out);
}

Status export_trtllm(const PlacementSlots *placement, uint32_t layer_updates, const char *out)
{
    OutputFile output;
    TRY(output_open(out, &output));
    fprintf(output.stream, "num_slots: %" PRIu32 "\ninitial_global_assignments:\n",
            placement->n_slots);
    for (uint32_t i = 0; i < placement->n_layers; i++) {
        fprintf(output.stream, "  %" PRIu32 ": ", placement->layer[i]);
        write_row(output.stream, placement->slots + (size_t)i * placement->n_slots,
                  placement->n_slots);
        fputc('\n', output.stream);
    }
    fprintf(output.stream, "layer_updates_per_iter: %" PRIu32 "\n", layer_updates);
    return finish(&output, out);
}
