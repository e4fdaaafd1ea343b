/* A made-up machine of several ranks without a buffer, and cases drawn at random: placements with
 * copies of experts, steps and their routing. */
#ifndef TESTS_PORTS_MACHINE_H
#define TESTS_PORTS_MACHINE_H

#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "sim/timing.h"
#include "tests/plan_maker.h"

enum { LAYERS = 4, EXPERTS = 12, MOST_RANKS = 4, MOST_TOKENS = 60, D_MODEL = 48, STEPS = 3 };
enum { ACTIVE_NS = 1000, ROW_NS = 7, OPS_OF_LAYER = 3 };

/* ---- the machine: a layer has a dense part, a router, experts and their sum ---- */

static const Op PLAYED[OPS_OF_LAYER] = {OP_DENSE_FFN, OP_ROUTE, OP_COMBINE};

typedef struct {
    Hardware hardware;
    uint64_t op_ns[OPS][MOST_TOKENS + 1]; /* by the tokens of a rank */
} Machine;

static void put_op(HardwareModel *model, uint32_t layer, Op op)
{
    model->ops[STACK_DECODER][model->n_ops[STACK_DECODER]++] =
        (HardwareOp){.layer = layer, .op = op};
}

/* More tokens take as long or longer, if ASCENDING. */
static void put_costs(Machine *machine, uint64_t *random, Op op, bool ascending)
{
    static const char *const TOKENS[] = {"tokens"};
    char name[64];
    CostTable *table;
    snprintf(name, sizeof name, "gpu/%s", op_name(op));
    assert_ok(hardware_add_table(&machine->hardware, name, "", UNIT_NS, TOKENS, 1, &table));
    for (uint32_t i = 1; i <= MOST_TOKENS; i++) {
        machine->op_ns[op][i] = ascending ? machine->op_ns[op][i - 1] + random_below(random, 90)
                                          : random_below(random, 5000);
        assert_ok(cost_table_put(table, (const double[]){i}, (double)machine->op_ns[op][i], 0));
    }
}

static void put_experts(Machine *machine)
{
    static const char *const AXES_OF_EXPERTS[] = {"active", "rows"};
    CostTable *table;
    assert_ok(hardware_add_table(&machine->hardware, "gpu/experts", "", UNIT_NS, AXES_OF_EXPERTS, 2,
                                 &table));
    for (uint32_t active = 1; active <= EXPERTS; active++)
        for (uint32_t rows = 1; rows <= 1025; rows += 1024)
            assert_ok(cost_table_put(table, (const double[]){active, rows},
                                     active * (double)(ACTIVE_NS + ROW_NS * rows), 0));
}

static void put_exchanges(Machine *machine)
{
    static const char *const BYTES[] = {"bytes"};
    char shape[160];
    CostTable *table;
    for (uint32_t ranks = 2; ranks <= MOST_RANKS; ranks++) {
        hardware_ranks_shape(ranks, ranks, shape);
        assert_ok(
            hardware_add_table(&machine->hardware, "all-to-all", shape, UNIT_NS, BYTES, 1, &table));
        assert_ok(cost_table_put(table, (const double[]){0}, 5000, 0));
        assert_ok(cost_table_put(table, (const double[]){1 << 20}, 5000 + (1 << 20), 0));
    }
}

static void make_machine(uint64_t *random, bool ascending, Machine *machine)
{
    HardwareModel *model;
    *machine = (Machine){.hardware = {.backend = "cuda", .device = "cuda: made up"}};
    assert_ok(hardware_add_model(&machine->hardware, "model", &model));
    snprintf(model->compute, sizeof model->compute, "bf16");
    assert_ok(mem_new(&model->ops[STACK_DECODER], 2 + 4 * LAYERS, sizeof(HardwareOp), "ops"));
    put_op(model, 0, OP_EMBED);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        put_op(model, layer, OP_DENSE_FFN);
        put_op(model, layer, OP_ROUTE);
        put_op(model, layer, OP_EXPERTS);
        put_op(model, layer, OP_COMBINE);
    }
    put_costs(machine, random, OP_EMBED, ascending);
    for (int i = 0; i < OPS_OF_LAYER; i++)
        put_costs(machine, random, PLAYED[i], ascending);
    put_experts(machine);
    put_exchanges(machine);
}

/* ---- a case ---- */

typedef struct {
    uint32_t ranks;
    uint32_t replicas;
    bool on[LAYERS][EXPERTS][MOST_RANKS];
    StepFeatures step[STEPS];
    uint32_t rows[STEPS][LAYERS][EXPERTS];
} Case;

static void draw_placement(uint64_t *random, Case *drawn)
{
    drawn->ranks = 2 + random_below(random, MOST_RANKS - 1);
    drawn->replicas = random_below(random, 4);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        for (uint32_t e = 0; e < EXPERTS; e++)
            drawn->on[layer][e][random_below(random, drawn->ranks)] = true;
        for (uint32_t left = drawn->replicas; left > 0;) {
            bool *on =
                &drawn
                     ->on[layer][random_below(random, EXPERTS)][random_below(random, drawn->ranks)];
            left -= !*on;
            *on = true;
        }
    }
}

/* As many requests with a token each, or several, as SINGLE says; or both. */
static StepFeatures draw_step(uint64_t *random, bool single)
{
    uint32_t one = 1 + random_below(random, 20);
    uint32_t several = single ? 0 : random_below(random, 4);
    uint32_t tokens = several > 0 ? several + random_below(random, MOST_TOKENS - one - several) : 0;
    return (StepFeatures){.phase = single ? PHASE_DECODE : PHASE_MIXED,
                          .tokens = one + tokens,
                          .requests = one + several,
                          .groups = {[SPANS_ONE] = {.requests = one, .tokens = one},
                                     [SPANS_SEVERAL] = {.requests = several, .tokens = tokens}}};
}

static Case draw_case(uint64_t *random, bool single)
{
    Case drawn = {0};
    draw_placement(random, &drawn);
    for (uint32_t i = 0; i < STEPS; i++) {
        drawn.step[i] = draw_step(random, single);
        for (uint32_t layer = 0; layer < LAYERS; layer++)
            for (uint32_t e = 0; e < EXPERTS; e++)
                drawn.rows[i][layer][e] =
                    random_below(random, 3) > 0 ? 0 : random_below(random, 90);
    }
    return drawn;
}

static Plan plan_of(const Case *drawn)
{
    char text[8192];
    char replicas[16] = "null";
    if (drawn->replicas > 0)
        snprintf(replicas, sizeof replicas, "%u", drawn->replicas);
    int n = snprintf(text, sizeof text,
                     "{\"moebius_plan\": 1, \"placement\": {\"ranks\": %u, \"method\": \"given\", "
                     "\"replicas\": %s, \"map\": {",
                     drawn->ranks, replicas);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        n += snprintf(text + n, sizeof text - (size_t)n, "%s\"%u\": [", layer ? ", " : "", layer);
        for (uint32_t e = 0; e < EXPERTS; e++) {
            const char *before = e > 0 ? ", [" : "[";
            for (uint32_t rank = 0; rank < drawn->ranks; rank++)
                if (drawn->on[layer][e][rank]) {
                    n += snprintf(text + n, sizeof text - (size_t)n, "%s%u", before, rank);
                    before = ", ";
                }
            n += snprintf(text + n, sizeof text - (size_t)n, "]");
        }
        n += snprintf(text + n, sizeof text - (size_t)n, "]");
    }
    snprintf(text + n, sizeof text - (size_t)n, "}}}");
    return good_plan(text);
}

#endif
