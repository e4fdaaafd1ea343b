/* What the files of `moebius validate` share: plans that run over the steps of a trace in one
 * executor, each compared with its replay. */
#ifndef CLI_VALIDATE_H
#define CLI_VALIDATE_H

#include "analysis/accuracy.h"
#include "analysis/compare.h"
#include "analysis/served_runs.h"
#include "analysis/timeline.h"
#include "base/quiet_processor.h"
#include "base/scratch.h"
#include "cli/online.h"
#include "cli/service_goals.h"
#include "sim/timed_replay.h"
#include "traces/reader.h"

typedef struct {
    const char *trace;
    ModelInput model;  /* name NULL: the trace's */
    TokenInput tokens; /* file NULL: the trace's */
    OptionList plans;
    OptionList sets;   /* of each plan */
    const char *train; /* NULL: the plans leave nothing to learn */
    const char *routing;
    const char *forced; /* of --routing trace:FILE, or NULL */
    const char *out;    /* keeps the run's trace; NULL: it is removed */
    DeviceInput device;
    const char *hardware; /* a profile: times are predicted and measured as well; NULL: not */
    uint32_t runs;        /* that are measured, with stamps and as many without; of requests that
                             arrive, without */
    ServiceGoals goals;   /* of requests that arrive */
    const char *timeline; /* of the first plan, predicted and measured; NULL: none */
    bool json;
} ValidateArguments;

/* How fast the host's cores were beside the runs: the memory and the cores of a virtual machine are
 * shared with others, and what is left of them changes by a third from minute to minute. This is
 * told beside the errors; predictions are the profile's, whatever it is. */
typedef struct {
    uint64_t known_ns; /* what the profile has of executor_time_host(); 0: nothing is to be asked */
    uint64_t *ns;      /* [n] what it said before and after each run */
    uint32_t n;
    double slow; /* the median as a multiple of KNOWN_NS; 0: not known */
} HostSpeed;

/* How far others disturbed the host's thread during the runs of a plan beside a device, by the loop
 * of base/quiet_processor.h. */
typedef struct {
    uint64_t runs;      /* that count; 0: it was not asked */
    uint64_t disturbed; /* of these, on a processor that was disturbed all the same */
    uint64_t again;     /* runs that were measured again for that */
    double loop_ns;     /* sum over the runs that count */
} QuietRuns;

/* Predicted and measured times and memory of one plan. */
typedef struct {
    QuietRuns quiet;
    HostSpeed host;
    Accuracy *accuracy; /* until the report is made */
    AccuracyReport report;
    TimingTotals predicted; /* without stamps; its layers are gone */
    TimingMemory memory;
    uint64_t device_bytes; /* of an executor that is opened for this plan alone */
} ValidatedTime;

/* What requests experienced. */
typedef struct {
    ServingReport predicted; /* the median where requests come a little closer or farther apart, */
    ServingNoise varies;     /* ... by which it differs so much, */
    ServingReport played;    /* ... and where they come as they did */
    ServingReport *runs;     /* [arguments.runs] */
    ServingReport middle;
    ServingNoise noise;
    uint64_t between_ns; /* two steps, on average over all runs */
} ServedRuns;

/* What came out under one plan. */
typedef struct {
    const char *name;       /* of the plan, for people */
    ReplayResult predicted; /* the given trace under the plan */
    BufferCounts measured;
    PrefetchFates fates; /* of the run */
    RunTotals totals;
    uint64_t slot_bytes;
    CompareReport report;
    ValidatedTime time; /* with a hardware profile */
    ServedRuns served;  /* ... and continuous batching */
} ValidatedPlan;

typedef struct {
    const ValidateArguments *arguments;
    Plan *plans; /* [n_plans] with what they learnt, as is ... */
    ValidatedPlan *results;
    size_t n_plans;
    char *model;
    bool forced;
    Checkpoint *checkpoint;
    TokenSet set;
    Executor *executor;
    bool serves; /* plans of continuous batching: requests arrive again, in place of steps */
    Hardware hardware;
    Timeline *timeline;
    QuietProcessor quiet; /* for runs that are measured */
    uint64_t tokens;      /* of the trace */
    ScratchFolder folder; /* of it, unless it is kept */
    char recording[512];  /* path of the run's trace */
    bool recorded;        /* it is there, and ours */
} Validation;

/* How the steps of the trace are run under PLAN. */
RunTraceOptions validation_run_options(const Validation *validation, const Plan *plan);
/* Opens the recorder of a run under PLAN, which VALIDATION->recorded then notes. */
Status validation_open_recorder(Validation *validation, const Plan *plan, Recorder **recorder);
void validation_remove_recording(Validation *validation);
/* ... and the one in PATH, if there is any. */
void validation_remove_trace(const char *path);
/* Closes it, with how the run went. */
Status validation_end_run(const Validation *validation, const RunTotals *totals, Recorder *recorder,
                          Status status);
/* Compares the run's residency with the replay of its routing under PLAN. */
Status validation_compare_run(const Validation *validation, const Plan *plan,
                              CompareReport *report);
/* Plans of continuous batching: the requests of the trace arrive again, in real time; with a
 * profile once with all decisions recorded and then as often as is measured. */
Status validation_serve(Validation *validation);
/* What passed between two steps of such a run, on average; ns. */
uint64_t validation_between(const RunTotals *totals);
/* Latencies and throughput, predicted and measured. */
Status validation_print_serving(const Validation *validation);
Status validation_add_serving(cJSON *json, const Validation *validation,
                              const ValidatedPlan *result);
/* Loads the profile; fails when it is of another backend. */
Status validation_open_time(Validation *validation);
/* The executor is open: fails with ERR_INPUT, and both names, when the profile is of another
 * device.
 */
Status validation_check_device(const Validation *validation);
/* True when the profile was made with another driver than THIS one. */
bool validation_driver_differs(const Validation *validation, char this[64]);
/* Whether the runs of plan I, which is to be measured so often, show how fast the host's cores are.
 */
Status validation_open_speed(Validation *validation, size_t i, uint32_t runs);
/* Before and after a run of it; one that does not count is forgotten. */
Status validation_note_speed(Validation *validation, size_t i);
/* After the last one. */
void validation_settle_speed(HostSpeed *speed);
/* A run that is measured begins on a processor that nobody else disturbs, beside a device. */
void validation_seek_quiet(Validation *validation);
/* ... and is watched between its steps. */
void validation_watch_quiet(Validation *validation);
/* It was of RUNS' plan: false when it does not count, for its processor became disturbed, and is to
 * be measured again. */
bool validation_run_counts(Validation *validation, QuietRuns *runs);
/* Tells of it, and how fast the host was beside what it was when the model was calibrated. */
void validation_print_quiet(const Validation *validation, const QuietRuns *runs);
Status validation_add_quiet(cJSON *json, const Validation *validation, const QuietRuns *runs);
/* Predicts the times of the run that was recorded, which was under plan I. */
Status validation_predict(Validation *validation, size_t i);
/* Measures them, of all plans: in every round each plan has its turn, so that what changes as time
 * passes is noise of each of them, and no difference between them. */
Status validation_measure(Validation *validation);
/* Sets the times of the steps of the run that was recorded, which were AS_RUN, beside those
 * predicted of the same steps, those that come for the first time among them: more steps of the
 * first run of ACCURACY. */
Status validation_compare_steps(Validation *validation, const Plan *as_run, Accuracy *accuracy);
/* Prints the errors of steps, operations and layers, as far as there are any. */
Status validation_print_report(const AccuracyReport *report);
/* Frees what is left of them. */
void validation_free_time(ValidatedTime *time);
/* Tables of times. */
Status validation_print_time(const Validation *validation);
Status validation_add_time(cJSON *json, const Validation *validation, const ValidatedTime *time);
/* What several plans say together. */
Status validation_add_ranking(cJSON *json, const Validation *validation);

/* Runs every plan in turn, in one executor, and compares it with its replay. */
Status validation_run(Validation *validation);
/* Prints one JSON document, or tables. */
Status validation_print(const Validation *validation);
/* OK when all agreed, or as compare_status(). */
Status validation_status(const Validation *validation);

#endif
