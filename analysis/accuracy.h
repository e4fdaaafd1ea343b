/* How well simulated times meet measured ones: errors by operation, layer and step and end to end,
 * beside the noise of the measurement itself.
 *
 * Steps are run several times, without stamps (times of whole steps) and with them (times of
 * operations, which are held then, so that they do not wait for the host: exec/executor.h). The
 * truth is the median over runs, the noise their coefficient of variation. An error is (predicted -
 * truth) / truth; its unit is the step: the sum of an operation over the layers of one step, of a
 * layer's operations in one step, a step. */
#ifndef ANALYSIS_ACCURACY_H
#define ANALYSIS_ACCURACY_H

#include "base/json.h"
#include "traces/ops.h"
#include "traces/trace.h"

typedef struct {
    uint64_t n;  /* units */
    double mean; /* of absolute errors, as are the next three */
    double median;
    double p95;
    double worst;
    double bias;         /* mean of signed errors */
    double noise;        /* mean coefficient of variation of the runs; below 0: of one, not known */
    double predicted_ns; /* sum over units */
    double measured_ns;
} ErrorStats;

/* Sums over all steps of a phase: of prefill the time to first token, of decode, over its steps,
 * the time of an output token. */
typedef struct {
    uint64_t steps;
    uint64_t tokens;
    double predicted_ns;
    double measured_ns; /* median over runs */
    double noise;       /* as above */
} EndToEnd;

static inline double end_to_end_error(const EndToEnd *sum)
{
    return sum->measured_ns > 0 ? (sum->predicted_ns - sum->measured_ns) / sum->measured_ns : 0;
}

/* Loads stand after the operations: the time that the link was busy in a step. */
enum { ACCURACY_LOADS = OPS, ACCURACY_KINDS };

typedef struct {
    ErrorStats steps;
    ErrorStats phases[PHASE_MIXED + 1]; /* steps of each */
    ErrorStats kinds[ACCURACY_KINDS];   /* n is 0 where there are none */
    ErrorStats *layers;                 /* [n_layers] of the model */
    uint32_t n_layers;
    EndToEnd phase[PHASE_MIXED + 1];
    EndToEnd all;
    uint32_t blamed;     /* the kind whose sum is off by most ns; ACCURACY_KINDS: none */
    double blamed_ns;    /* predicted - measured, of stamped steps */
    double blamed_share; /* of the sum over kinds of absolute differences */
} AccuracyReport;

typedef struct Accuracy Accuracy;

/* RUNS of each sort. */
Status accuracy_new(uint32_t runs, Accuracy **accuracy);
void accuracy_free(Accuracy *accuracy);

/* Steps come in order, predictions before measurements. */
Status accuracy_predict(Accuracy *accuracy, Phase phase, uint32_t tokens, uint64_t ns);
Status accuracy_measure(Accuracy *accuracy, uint32_t run, uint64_t ns);
/* ... and the operations and loads of stamped ones. Fails with ERR_MISMATCH when a measured step
 * does not have the predicted operations. */
Status accuracy_predict_ops(Accuracy *accuracy, const TimingRecord *ops, size_t n_ops,
                            const ResidencyRecord *residency, size_t n_residency);
Status accuracy_measure_ops(Accuracy *accuracy, uint32_t run, const TimingRecord *ops, size_t n_ops,
                            const ResidencyRecord *residency, size_t n_residency);

/* RUN is measured again, without stamps or with them. */
void accuracy_forget_steps(Accuracy *accuracy, uint32_t run);
void accuracy_forget_ops(Accuracy *accuracy, uint32_t run);

/* Freed with accuracy_report_free(). */
Status accuracy_report(const Accuracy *accuracy, AccuracyReport *report);
void accuracy_report_free(AccuracyReport *report);
/* "experts", or "loads" */
const char *accuracy_kind_name(uint32_t kind);
Status accuracy_json(const AccuracyReport *report, cJSON **json);

/* Kendall's tau-b of N pairs; 1 for fewer than two, or when either side is constant. */
double accuracy_kendall(const double *left, const double *right, size_t n);
/* ... of plans that the runs can tell apart. */
typedef struct {
    double tau;      /* pairs in the order that was predicted less those in the other, as a share of
                        DISTINCT; 1 when there are none */
    size_t pairs;    /* of plans */
    size_t distinct; /* whose measured times differ by more than their noise, one's and the other's
                        standard deviation added */
} DistinctRanking;
/* DEVIATION [n] of MEASURED. */
DistinctRanking accuracy_rank_distinct(const double *predicted, const double *measured,
                                       const double *deviation, size_t n);
/* How much longer than the best MEASURED that with the least PREDICTED takes, as a share. */
double accuracy_regret(const double *predicted, const double *measured, size_t n);

#endif
