/* From measured steps to the profile's tables. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "exec/calibrate_parts.h"

/* Before minutes of measuring what the profile that is added to has no place for. */
static Status check_known(const CalibrateOptions *options, const CostTable *table)
{
    if (options->known == NULL)
        return OK;
    return fail_in(hardware_check_table(options->known, table), "%s", options->known_path);
}

Status calibration_note(Calibration *c, const char *name, const char *shape, CostUnit unit,
                        const char *const *axis, uint32_t n_axes, const double *at, double value,
                        double spread)
{
    Samples *samples = &c->samples;
    CostTable *table;
    TRY(hardware_add_table(c->hardware, name, shape, unit, axis, n_axes, &table));
    TRY(check_known(c->options, table));
    TRY(mem_grow(&samples->samples, &samples->room, samples->n, sizeof *samples->samples,
                 "calibration"));
    Sample *sample = &samples->samples[samples->n++];
    *sample = (Sample){
        .table = (uint32_t)(table - c->hardware->tables), .value = value, .spread = spread};
    for (uint32_t i = 0; i < n_axes; i++)
        sample->at[i] = at[i];
    return OK;
}

Status calibration_note_least(Calibration *c, const char *name, const char *const *axis,
                              uint32_t n_axes, const double *at, double ns, double spread)
{
    TRY(calibration_note(c, name, "", UNIT_NS, axis, n_axes, at, ns, spread));
    c->samples.samples[c->samples.n - 1].least = true;
    return OK;
}

uint32_t calibration_place(const Calibration *c, Op op, const StepKind *kind, double at[COST_AXES],
                           const char *axis[COST_AXES])
{
    uint32_t n_axes = hardware_op_axes(op, axis);
    at[0] = op == OP_HEAD ? kind->requests : (double)kind->requests * kind->tokens;
    if (op == OP_ATTENTION || op == OP_CROSS_ATTENTION) {
        at[0] = kind->requests;
        at[1] = kind->tokens;
        at[2] = op == OP_ATTENTION ? kind->context : c->source_length;
    }
    return n_axes;
}

void calibration_list(Calibration *c, Stack stack, const StepOutput *output)
{
    uint32_t n = (uint32_t)output->n_timing;
    if (c->n_ops == n && c->stack == stack)
        return;
    c->n_ops = n;
    c->stack = stack;
    for (uint32_t i = 0; i < n; i++) {
        const TimingRecord *op = &output->timing[i];
        c->op[i] = op->op;
        calibrate_shape(c->config, op->layer, op->op, c->compute, c->shape[i]);
        uint32_t first = 0;
        while (first < i &&
               (output->timing[first].op != op->op || strcmp(c->shape[first], c->shape[i]) != 0))
            first++;
        c->first_of[i] = first;
    }
}

bool calibration_is_first(const Calibration *c, uint32_t i)
{
    return c->first_of[i] == i;
}

double calibration_cost(const Calibration *c, const double *rows, const StepMeasured *measured,
                        uint32_t i, double *spread)
{
    double means[CALIBRATE_REPEATS] = {0};
    uint32_t n = 0;
    for (uint32_t j = 0; j < measured->n_ops; j++) {
        if (c->first_of[j] != c->first_of[i])
            continue;
        n++;
        for (uint32_t r = 0; r < measured->repeats; r++)
            means[r] += rows[(size_t)r * c->max_ops + j];
    }
    for (uint32_t r = 0; r < measured->repeats; r++)
        means[r] /= n;
    *spread = variation_f64(means, measured->repeats);
    return median_f64(means, measured->repeats);
}

/* ... of its time without its stamp. */
static double cost_of(const Calibration *c, const StepMeasured *measured, uint32_t i,
                      double *spread)
{
    return at_least_0(calibration_cost(c, c->op_ns, measured, i, spread) - c->stamp_ns);
}

Status calibration_note_ops(Calibration *c, const StepKind *kind, const StepMeasured *measured)
{
    for (uint32_t i = 0; i < measured->n_ops; i++) {
        Op op = measured->ops[i].op;
        const char *axis[COST_AXES];
        double at[COST_AXES];
        char name[48];
        double spread;
        if (op == OP_EXPERTS || !calibration_is_first(c, i))
            continue;
        uint32_t n_axes = calibration_place(c, op, kind, at, axis);
        snprintf(name, sizeof name, "gpu/%s", op_name(op));
        double ns = cost_of(c, measured, i, &spread);
        TRY(calibration_note(c, name, c->shape[i], UNIT_NS, axis, n_axes, at, ns, spread));
    }
    return OK;
}

Status calibration_note_rest(Calibration *c, const double at[COST_AXES], double ns, double spread)
{
    static const char *const AXES[] = {"requests", "tokens", "context"};
    char shape[160];
    hardware_rest_shape(c->model, STACK_DECODER, STEP_QUEUED, false, shape);
    return calibration_note(c, "step/rest", shape, UNIT_NS, AXES, 3, at, ns, spread);
}

Status calibration_note_forced(Calibration *c, const StepMeasured *measured, double tokens)
{
    static const char *const AXIS[] = {"tokens"};
    for (uint32_t i = 0; i < measured->n_ops; i++) {
        Op op = measured->ops[i].op;
        char name[48];
        double spread;
        if ((op != OP_ROUTE && op != OP_EMBED) || !calibration_is_first(c, i))
            continue;
        double ns = cost_of(c, measured, i, &spread);
        snprintf(name, sizeof name, "forced/%s", op_name(op));
        TRY(calibration_note(c, name, c->shape[i], UNIT_NS, AXIS, 1, &tokens, ns, spread));
    }
    return OK;
}

Status calibration_note_experts(Calibration *c, const StepMeasured *measured, double active,
                                double rows, double load)
{
    const double at[COST_AXES] = {active, rows, load};
    const char *axis[COST_AXES];
    hardware_op_axes(OP_EXPERTS, axis);
    for (uint32_t i = 0; i < measured->n_ops; i++) {
        double spread;
        if (measured->ops[i].op != OP_EXPERTS || !calibration_is_first(c, i))
            continue;
        double ns = cost_of(c, measured, i, &spread);
        TRY(calibration_note(c, "gpu/experts", c->shape[i], UNIT_NS, axis, 3, at, ns, spread));
    }
    return OK;
}

static int compare_samples(const void *a, const void *b)
{
    const Sample *x = a;
    const Sample *y = b;
    if (x->table != y->table)
        return x->table < y->table ? -1 : 1;
    for (int i = 0; i < COST_AXES; i++)
        if (x->at[i] != y->at[i])
            return x->at[i] < y->at[i] ? -1 : 1;
    return (x->value > y->value) - (x->value < y->value);
}

static bool is_same_place(const Sample *x, const Sample *y)
{
    return x->table == y->table && memcmp(x->at, y->at, sizeof x->at) == 0;
}

/* Of N samples of one place, in the order of their values. */
static double value_of(const Sample *samples, uint32_t n)
{
    if (samples->least)
        return samples->value;
    return n % 2 == 1 ? samples[n / 2].value
                      : (samples[n / 2 - 1].value + samples[n / 2].value) / 2;
}

/* Samples of one place are in the order of their values. */
Status calibration_settle(Calibration *c)
{
    Samples *samples = &c->samples;
    Sample *sample = samples->samples;
    uint32_t n;
    if (samples->n > 0)
        qsort(sample, samples->n, sizeof *sample, compare_samples);
    for (uint32_t i = 0; i < samples->n; i += n) {
        double spread = 0;
        for (n = 0; i + n < samples->n && is_same_place(&sample[i], &sample[i + n]); n++)
            spread = sample[i + n].spread > spread ? sample[i + n].spread : spread;
        TRY(cost_table_put(&c->hardware->tables[sample[i].table], sample[i].at,
                           value_of(&sample[i], n), spread));
    }
    samples->n = 0;
    return OK;
}

void calibration_free(Calibration *c)
{
    calibration_close(c);
    calibration_close_clock(c);
    mem_free(c->samples.samples);
    c->samples = (Samples){0};
}
