/* A made-up machine and model for tests of simulated time, and plans drawn at random. */
#ifndef TESTS_TIMING_MACHINE_H
#define TESTS_TIMING_MACHINE_H

#include "tests/small_layers.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "policies/link.h"
#include "sim/timing.h"

enum { LAYERS = 1 + MOE_LAYERS, MOST_OPS = 64 };

/* ---- the model: layer 0 is dense, the others are of experts ---- */

static void put_table(Hardware *hardware, const char *name, const char *shape, const char *axis,
                      double base, double slope)
{
    CostTable *table;
    assert_ok(hardware_add_table(hardware, name, shape, UNIT_NS, &axis, axis != NULL, &table));
    for (uint32_t i = 1; i <= (axis != NULL ? 64 : 1); i++)
        assert_ok(cost_table_put(table, (double[]){i}, base + slope * i, 0));
}

static void put_op(HardwareModel *model, uint32_t layer, Op op)
{
    HardwareOp *out = &model->ops[STACK_DECODER][model->n_ops[STACK_DECODER]++];
    *out = (HardwareOp){.layer = layer, .op = op};
    snprintf(out->shape, sizeof out->shape, "shape");
}

static void put_ops(HardwareModel *model)
{
    assert_ok(mem_new(&model->ops[STACK_DECODER], MOST_OPS, sizeof(HardwareOp), "ops"));
    put_op(model, 0, OP_EMBED);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        put_op(model, layer, OP_ATTENTION);
        if (layer == 0) {
            put_op(model, layer, OP_DENSE_FFN);
            continue;
        }
        put_op(model, layer, OP_ROUTE);
        put_op(model, layer, OP_EXPERTS);
        put_op(model, layer, OP_COMBINE);
    }
    put_op(model, LAYERS - 1, OP_HEAD);
}

static void put_op_tables(Hardware *hardware, uint64_t *random)
{
    static const Op SIMPLE[] = {OP_EMBED, OP_DENSE_FFN, OP_ROUTE, OP_COMBINE, OP_HEAD};
    char name[64];
    for (size_t i = 0; i < sizeof SIMPLE / sizeof *SIMPLE; i++) {
        snprintf(name, sizeof name, "gpu/%s", op_name(SIMPLE[i]));
        put_table(hardware, name, "shape", SIMPLE[i] == OP_HEAD ? "rows" : "tokens",
                  random_below(random, 3000), random_below(random, 50));
    }
    put_table(hardware, "gpu/attention", "shape", "requests", random_below(random, 3000), 7);
    put_table(hardware, "gpu/experts", "shape", "active", random_below(random, 3000), 900);
    put_table(hardware, "queued/experts", "shape", "active", random_below(random, 4000), 1100);
    for (Op op = 0; op < OPS; op++) {
        snprintf(name, sizeof name, "issue/%s", op_name(op));
        put_table(hardware, name, "", NULL, random_below(random, 4000), 0);
    }
}

/* Experts take SLOT_BYTES. */
static void make_machine(uint64_t *random, uint64_t slot_bytes, Hardware *hardware)
{
    HardwareModel *model;
    *hardware = (Hardware){.backend = "cuda", .device = "cuda: made up"};
    assert_ok(hardware_add_model(hardware, "model", &model));
    put_ops(model);
    assert_ok(mem_new(&model->slots, MOE_LAYERS, sizeof *model->slots, "slots"));
    for (uint32_t i = 0; i < MOE_LAYERS; i++)
        model->slots[model->n_slots++] =
            (HardwareSlots){.layer = 1 + i, .experts = EXPERTS, .slot_bytes = slot_bytes};
    put_op_tables(hardware, random);
    put_table(hardware, "issue/load", "", NULL, random_below(random, 2000), 0);
    put_table(hardware, "issue/together", "", NULL, random_below(random, 2000), 0);
    put_table(hardware, "issue/loads", "shape", "loads", random_below(random, 2000), 20);
    put_table(hardware, "copy/ahead", "", "loads", random_below(random, 9000), 2000);
    put_table(hardware, "issue/ahead", "", "loads", random_below(random, 2000), 500);
    put_table(hardware, "decide/load", "shape", "active", random_below(random, 500), 40);
    put_table(hardware, "carry", "shape", "active", random_below(random, 900), 20);
    put_table(hardware, "turn", "shape", "rows", random_below(random, 9000), 100);
    put_table(hardware, "issue/await", "", NULL, random_below(random, 800), 0);
    put_table(hardware, "issue/again", "shape", NULL, random_below(random, 4000), 0);
    if (random_below(random, 2))
        put_table(hardware, "issue/turn", "shape", NULL, random_below(random, 8000), 0);
    put_table(hardware, "sync", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "sync/together", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "start/together", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "lag", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "copy/gap", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "end/load", "", NULL, 0, 0);
    put_table(hardware, "throttle/least", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "issue/throttle", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "after/load", "", NULL, random_below(random, 9000), 0);
    put_table(hardware, "throttle", "", NULL, random_below(random, 3000), 0);
    put_table(hardware, "decide", "", "active", random_below(random, 500), 30);
    put_table(hardware, "decide/previous-step", "", "active", 400, 60);
    put_table(hardware, "wake", "", NULL, random_below(random, 9000), 0);
    put_table(hardware, "step/rest", "model graph", "tokens", random_below(random, 9000), 1);
    CostTable *copy;
    const char *axis = "bytes";
    assert_ok(hardware_add_table(hardware, "copy/h2d", "", UNIT_NS, &axis, 1, &copy));
    assert_ok(cost_table_put(copy, (double[]){slot_bytes}, 1000 + random_below(random, 20000), 0));
    if (link_parts(slot_bytes) > 1)
        assert_ok(cost_table_put(copy, (double[]){(double)slot_bytes / link_parts(slot_bytes)},
                                 1000 + random_below(random, 8000), 0));
    assert_ok(hardware_add_table(hardware, "copy/together", "", UNIT_NS, &axis, 1, &copy));
    for (uint32_t n = 1; n <= EXPERTS; n++)
        assert_ok(cost_table_put(copy, (double[]){n * slot_bytes}, 1000 + n * 300, 0));
    assert_ok(hardware_add_table(hardware, "load/together", "", UNIT_NS, &axis, 1, &copy));
    for (uint32_t n = 1; n <= EXPERTS; n++)
        assert_ok(cost_table_put(copy, (double[]){n * slot_bytes}, random_below(random, 9000), 0));
}

static inline Plan random_plan(uint64_t *random)
{
    static const char *const EVICT[] = {"lru", "lifo", "belady-admit", "random", "fifo"};
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.scope = random_below(random, 2) ? SCOPE_LAYER : SCOPE_DEVICE;
    plan.buffer.slots = plan.buffer.scope == SCOPE_LAYER
                            ? 1 + random_below(random, EXPERTS)
                            : 1 + random_below(random, MOE_LAYERS * EXPERTS);
    plan.buffer.order = random_below(random, 2) ? ORDER_BATCH : ORDER_SERIAL;
    const char *evict = EVICT[random_below(random, 5)];
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s",
             strcmp(evict, "belady-admit") == 0 ? "lru" : evict);
    if (random_below(random, 2)) {
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "previous-step");
        plan.prefetch.distance = 1;
        plan.prefetch.max_inflight = 1 + random_below(random, 4);
    }
    plan.link.h2d_gb_per_s = random_below(random, 3) ? 0 : 1.0 / (1 + random_below(random, 30));
    return plan;
}

#endif
