#include "analysis/accuracy.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/statistics.h"

/* A growing row of numbers. */
typedef struct {
    double *items;
    size_t n;
    size_t room;
} Numbers;

/* Columns of one sort of unit: the predicted value, then one of each run. */
typedef struct {
    Numbers predicted;
    Numbers *measured; /* [runs] */
} Units;

struct Accuracy {
    uint32_t runs;
    Numbers phase;  /* of each step */
    Numbers tokens; /* of each step */
    Units steps;
    /* Of stamped steps, cells of ACCURACY_KINDS kinds, then of n_layers layers; a step is one row.
     * -1: the step has none. */
    Units cells;
    uint32_t n_layers; /* the most of any step */
    Numbers row;       /* where each step's cells begin */
    Numbers width;     /* how many layers it has */
    size_t *next_row;  /* [runs] */
};

static Status push(Numbers *numbers, double value)
{
    TRY(mem_grow(&numbers->items, &numbers->room, numbers->n, sizeof *numbers->items,
                 "measured times"));
    numbers->items[numbers->n++] = value;
    return OK;
}

static void free_units(Units *units, uint32_t runs)
{
    mem_free(units->predicted.items);
    for (uint32_t i = 0; units->measured != NULL && i < runs; i++)
        mem_free(units->measured[i].items);
    mem_free(units->measured);
}

Status accuracy_new(uint32_t runs, Accuracy **out)
{
    Accuracy *accuracy;
    TRY(mem_new(&accuracy, 1, sizeof *accuracy, "accuracy"));
    accuracy->runs = runs;
    Status status =
        mem_new(&accuracy->steps.measured, runs, sizeof *accuracy->steps.measured, "accuracy");
    if (status == OK)
        status =
            mem_new(&accuracy->cells.measured, runs, sizeof *accuracy->cells.measured, "accuracy");
    if (status == OK)
        status = mem_new(&accuracy->next_row, runs, sizeof *accuracy->next_row, "accuracy");
    if (status != OK) {
        accuracy_free(accuracy);
        return status;
    }
    *out = accuracy;
    return OK;
}

void accuracy_free(Accuracy *accuracy)
{
    if (accuracy == NULL)
        return;
    mem_free(accuracy->phase.items);
    mem_free(accuracy->tokens.items);
    mem_free(accuracy->row.items);
    mem_free(accuracy->width.items);
    mem_free(accuracy->next_row);
    free_units(&accuracy->steps, accuracy->runs);
    free_units(&accuracy->cells, accuracy->runs);
    mem_free(accuracy);
}

Status accuracy_predict(Accuracy *accuracy, Phase phase, uint32_t tokens, uint64_t ns)
{
    TRY(push(&accuracy->phase, phase));
    TRY(push(&accuracy->tokens, tokens));
    return push(&accuracy->steps.predicted, (double)ns);
}

Status accuracy_measure(Accuracy *accuracy, uint32_t run, uint64_t ns)
{
    return push(&accuracy->steps.measured[run], (double)ns);
}

/* ---- cells of stamped steps ---- */

static uint32_t layers_of(const TimingRecord *ops, size_t n_ops)
{
    uint32_t layers = 0;
    for (size_t i = 0; i < n_ops; i++)
        layers = ops[i].layer >= layers ? ops[i].layer + 1 : layers;
    return layers;
}

static void add_to(double *cell, uint64_t ns)
{
    *cell = (*cell < 0 ? 0 : *cell) + (double)ns;
}

/* Writes the sums to CELLS [ACCURACY_KINDS + layers]. */
static void sum_up(const TimingRecord *ops, size_t n_ops, const ResidencyRecord *residency,
                   size_t n_residency, double *cells, uint32_t layers)
{
    for (uint32_t i = 0; i < ACCURACY_KINDS + layers; i++)
        cells[i] = -1;
    for (size_t i = 0; i < n_ops; i++) {
        if (ops[i].op >= OPS || ops[i].layer >= layers)
            continue;
        add_to(&cells[ops[i].op], ops[i].duration_ns);
        add_to(&cells[ACCURACY_KINDS + ops[i].layer], ops[i].duration_ns);
    }
    for (size_t i = 0; i < n_residency; i++)
        if (residency[i].bytes > 0)
            add_to(&cells[ACCURACY_LOADS], residency[i].duration_ns);
}

static Status push_row(Numbers *numbers, const TimingRecord *ops, size_t n_ops,
                       const ResidencyRecord *residency, size_t n_residency, uint32_t layers)
{
    size_t first = numbers->n;
    for (uint32_t i = 0; i < ACCURACY_KINDS + layers; i++)
        TRY(push(numbers, 0));
    sum_up(ops, n_ops, residency, n_residency, numbers->items + first, layers);
    return OK;
}

Status accuracy_predict_ops(Accuracy *accuracy, const TimingRecord *ops, size_t n_ops,
                            const ResidencyRecord *residency, size_t n_residency)
{
    uint32_t layers = layers_of(ops, n_ops);
    TRY(push(&accuracy->row, (double)accuracy->cells.predicted.n));
    TRY(push(&accuracy->width, layers));
    accuracy->n_layers = layers > accuracy->n_layers ? layers : accuracy->n_layers;
    return push_row(&accuracy->cells.predicted, ops, n_ops, residency, n_residency, layers);
}

Status accuracy_measure_ops(Accuracy *accuracy, uint32_t run, const TimingRecord *ops, size_t n_ops,
                            const ResidencyRecord *residency, size_t n_residency)
{
    size_t row = accuracy->next_row[run]++;
    uint32_t layers = layers_of(ops, n_ops);
    if (row >= accuracy->row.n)
        return fail(ERR_MISMATCH, "timing: more steps were measured than were predicted");
    if (layers != (uint32_t)accuracy->width.items[row])
        return fail(ERR_MISMATCH, "timing: step %zu: %u layers were measured, %u predicted", row,
                    layers, (uint32_t)accuracy->width.items[row]);
    return push_row(&accuracy->cells.measured[run], ops, n_ops, residency, n_residency, layers);
}

void accuracy_forget_steps(Accuracy *accuracy, uint32_t run)
{
    accuracy->steps.measured[run].n = 0;
}

void accuracy_forget_ops(Accuracy *accuracy, uint32_t run)
{
    accuracy->cells.measured[run].n = 0;
    accuracy->next_row[run] = 0;
}

/* ---- statistics ---- */

/* Errors that are put together to a row of statistics. */
typedef struct {
    Numbers absolute;
    ErrorStats stats;
    double *runs; /* [runs] scratch */
} Gathering;

/* How much RUNS differ; of one it is not known. */
static double noise_of(const double *ns, uint32_t runs)
{
    return runs > 1 ? variation_f64(ns, runs) : -1;
}

/* Takes unit INDEX; one that was predicted or measured to be no time is left out. */
static Status gather(const Accuracy *accuracy, const Units *units, size_t index,
                     Gathering *gathering)
{
    double predicted = units->predicted.items[index];
    for (uint32_t run = 0; run < accuracy->runs; run++) {
        if (index >= units->measured[run].n)
            return fail(ERR_MISMATCH, "timing: fewer steps were measured than were predicted");
        gathering->runs[run] = units->measured[run].items[index];
    }
    double noise = noise_of(gathering->runs, accuracy->runs);
    double truth = median_f64(gathering->runs, accuracy->runs);
    if (predicted < 0 || truth <= 0)
        return OK;
    double error = (predicted - truth) / truth;
    gathering->stats.n++;
    gathering->stats.bias += error;
    gathering->stats.noise += noise;
    gathering->stats.predicted_ns += predicted;
    gathering->stats.measured_ns += truth;
    return push(&gathering->absolute, fabs(error));
}

/* Ends a row, and empties GATHERING for the next one. */
static ErrorStats settle(Gathering *gathering)
{
    ErrorStats stats = gathering->stats;
    Numbers *absolute = &gathering->absolute;
    double n = (double)stats.n;
    gathering->stats = (ErrorStats){0};
    if (stats.n == 0)
        return stats;
    for (size_t i = 0; i < absolute->n; i++)
        stats.mean += absolute->items[i] / n;
    stats.bias /= n;
    stats.noise /= n;
    stats.median = median_f64(absolute->items, absolute->n);
    size_t at = (size_t)ceil(0.95 * n);
    stats.p95 = absolute->items[at > 0 ? at - 1 : 0];
    stats.worst = absolute->items[absolute->n - 1];
    absolute->n = 0;
    return stats;
}

static Status report_steps(const Accuracy *accuracy, Gathering *gathering, AccuracyReport *report)
{
    for (size_t i = 0; i < accuracy->phase.n; i++)
        TRY(gather(accuracy, &accuracy->steps, i, gathering));
    report->steps = settle(gathering);
    for (Phase phase = PHASE_PREFILL; phase <= PHASE_MIXED; phase++) {
        for (size_t i = 0; i < accuracy->phase.n; i++)
            if (accuracy->phase.items[i] == phase)
                TRY(gather(accuracy, &accuracy->steps, i, gathering));
        report->phases[phase] = settle(gathering);
    }
    return OK;
}

/* Column KIND of the rows that are wide enough. */
static Status report_column(const Accuracy *accuracy, uint32_t column, Gathering *gathering,
                            ErrorStats *stats)
{
    for (size_t i = 0; i < accuracy->row.n; i++)
        if (column < ACCURACY_KINDS + (uint32_t)accuracy->width.items[i])
            TRY(gather(accuracy, &accuracy->cells, (size_t)accuracy->row.items[i] + column,
                       gathering));
    *stats = settle(gathering);
    return OK;
}

static Status report_cells(const Accuracy *accuracy, Gathering *gathering, AccuracyReport *report)
{
    report->n_layers = accuracy->n_layers;
    TRY(mem_new(&report->layers, (size_t)report->n_layers + 1, sizeof *report->layers, "accuracy"));
    for (uint32_t kind = 0; kind < ACCURACY_KINDS; kind++)
        TRY(report_column(accuracy, kind, gathering, &report->kinds[kind]));
    for (uint32_t layer = 0; layer < report->n_layers; layer++)
        TRY(report_column(accuracy, ACCURACY_KINDS + layer, gathering, &report->layers[layer]));
    return OK;
}

/* Sums over the steps of PHASE, or over all when it is past the last. */
static void sum_phase(const Accuracy *accuracy, Phase phase, double *runs, double *predicted,
                      uint64_t *tokens, uint64_t *steps)
{
    memset(runs, 0, accuracy->runs * sizeof *runs);
    for (size_t i = 0; i < accuracy->phase.n; i++) {
        if (phase <= PHASE_MIXED && accuracy->phase.items[i] != phase)
            continue;
        *predicted += accuracy->steps.predicted.items[i];
        *tokens += (uint64_t)accuracy->tokens.items[i];
        ++*steps;
        for (uint32_t run = 0; run < accuracy->runs; run++)
            runs[run] += accuracy->steps.measured[run].items[i];
    }
}

static void report_sums(const Accuracy *accuracy, double *runs, AccuracyReport *report)
{
    for (Phase phase = PHASE_PREFILL; phase <= PHASE_MIXED + 1; phase++) {
        EndToEnd *sum = phase <= PHASE_MIXED ? &report->phase[phase] : &report->all;
        sum_phase(accuracy, phase, runs, &sum->predicted_ns, &sum->tokens, &sum->steps);
        sum->noise = noise_of(runs, accuracy->runs);
        sum->measured_ns = median_f64(runs, accuracy->runs);
    }
}

/* Loads run beside the operations that wait for them, so that only operations are blamed. */
static void blame(AccuracyReport *report)
{
    double sum = 0;
    report->blamed = ACCURACY_KINDS;
    for (uint32_t kind = 0; kind < OPS; kind++) {
        double off = report->kinds[kind].predicted_ns - report->kinds[kind].measured_ns;
        sum += fabs(off);
        if (off == 0 || fabs(off) <= fabs(report->blamed_ns))
            continue;
        report->blamed = kind;
        report->blamed_ns = off;
    }
    report->blamed_share = sum > 0 ? fabs(report->blamed_ns) / sum : 0;
}

Status accuracy_report(const Accuracy *accuracy, AccuracyReport *report)
{
    Gathering gathering = {0};
    *report = (AccuracyReport){0};
    Status status = mem_new(&gathering.runs, accuracy->runs, sizeof *gathering.runs, "accuracy");
    if (status == OK)
        status = report_steps(accuracy, &gathering, report);
    if (status == OK)
        status = report_cells(accuracy, &gathering, report);
    if (status == OK) {
        report_sums(accuracy, gathering.runs, report);
        blame(report);
    }
    mem_free(gathering.absolute.items);
    mem_free(gathering.runs);
    if (status != OK)
        accuracy_report_free(report);
    return status;
}

void accuracy_report_free(AccuracyReport *report)
{
    mem_free(report->layers);
    *report = (AccuracyReport){0};
}

const char *accuracy_kind_name(uint32_t kind)
{
    return kind == ACCURACY_LOADS ? "loads" : op_name((Op)kind);
}

/* ---- plans against one another ---- */

double accuracy_kendall(const double *left, const double *right, size_t n)
{
    double agree = 0;
    double left_pairs = 0;
    double right_pairs = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) {
            int a = (left[i] > left[j]) - (left[i] < left[j]);
            int b = (right[i] > right[j]) - (right[i] < right[j]);
            agree += a * b;
            left_pairs += a != 0;
            right_pairs += b != 0;
        }
    return left_pairs > 0 && right_pairs > 0 ? agree / sqrt(left_pairs * right_pairs) : 1;
}

DistinctRanking accuracy_rank_distinct(const double *predicted, const double *measured,
                                       const double *deviation, size_t n)
{
    DistinctRanking ranking = {.tau = 1, .pairs = n * (n - (n > 0)) / 2};
    double agree = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) {
            if (fabs(measured[i] - measured[j]) <= deviation[i] + deviation[j])
                continue;
            int told = (predicted[i] > predicted[j]) - (predicted[i] < predicted[j]);
            agree += measured[i] > measured[j] ? told : -told;
            ranking.distinct++;
        }
    if (ranking.distinct > 0)
        ranking.tau = agree / (double)ranking.distinct;
    return ranking;
}

double accuracy_regret(const double *predicted, const double *measured, size_t n)
{
    size_t picked = 0;
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        picked = predicted[i] < predicted[picked] ? i : picked;
        best = measured[i] < measured[best] ? i : best;
    }
    return n > 0 && measured[best] > 0 ? measured[picked] / measured[best] - 1 : 0;
}
