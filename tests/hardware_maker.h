/* Made-up hardware profiles of the machine that recorded a trace, on which every step takes the
 * same time, and a missing expert as long as its load. */
#ifndef TESTS_HARDWARE_MAKER_H
#define TESTS_HARDWARE_MAKER_H

#include "base/status.h" /* before cmocka, which has a macro called fail */
#include "tests/support.h"

#include <stdio.h>

#include "base/memory.h"
#include "policies/hardware.h"
#include "traces/reader.h"

static inline void put_constant(Hardware *hardware, const char *name, double ns)
{
    CostTable *table;
    assert_ok(hardware_add_table(hardware, name, "", UNIT_NS, NULL, 0, &table));
    assert_ok(cost_table_put(table, (const double[1]){0}, ns, 0));
}

/* Of the model that the trace in PATH names, whose embedding takes STEP_NS and nothing else takes
 * any time; saved as OUT. */
static inline void make_hardware(const char *path, double step_ns, double load_ns, const char *out)
{
    Hardware hardware = {.backend = "cpu", .host_threads = 1};
    HardwareModel *model;
    TraceReader *reader;
    uint32_t n_layers;
    assert_ok(trace_reader_open(path, &reader));
    snprintf(hardware.device, sizeof hardware.device, "%s", trace_reader_run(reader)->device);
    const TraceLayer *layers = trace_reader_layers(reader, &n_layers);
    assert_ok(hardware_add_model(&hardware, trace_reader_run(reader)->model, &model));
    assert_ok(mem_new(&model->ops[STACK_DECODER], n_layers + 1, sizeof(HardwareOp), "ops"));
    model->ops[STACK_DECODER][model->n_ops[STACK_DECODER]++] = (HardwareOp){.op = OP_EMBED};
    for (uint32_t i = 0; i < n_layers; i++)
        model->ops[STACK_DECODER][model->n_ops[STACK_DECODER]++] =
            (HardwareOp){.layer = layers[i].layer, .op = OP_EXPERTS};
    snprintf(model->compute, sizeof model->compute, "f32");
    model->measured_layers = 1;
    model->memory.weights_bytes = 1000000;
    model->memory.position_bytes = 10;
    put_constant(&hardware, "gpu/embed", step_ns);
    put_constant(&hardware, "gpu/experts", 0);
    put_constant(&hardware, "decide", 0);
    put_constant(&hardware, "end/load", 0);
    put_constant(&hardware, "copy/h2d", load_ns);
    assert_ok(hardware_save(&hardware, out));
    hardware_free(&hardware);
    trace_reader_close(reader);
}

#endif
