/* What the files of `moebius validate` share: plans that run over the steps of a trace in one
 * executor, each compared with its replay. */
#ifndef CLI_VALIDATE_H
#define CLI_VALIDATE_H

#include "analysis/compare.h"
#include "cli/online.h"
#include "sim/replay.h"
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
    bool json;
} ValidateArguments;

/* What came out under one plan. */
typedef struct {
    const char *name;       /* of the plan, for people */
    ReplayResult predicted; /* the given trace under the plan */
    BufferCounts measured;
    RunTotals totals;
    uint64_t slot_bytes;
    CompareReport report;
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
    uint64_t tokens;     /* of the trace */
    char recording[512]; /* path of the run's trace */
    bool recorded;       /* it is there, and ours */
} Validation;

/* Runs every plan in turn, in one executor, and compares it with its replay. */
Status validation_run(Validation *validation);
/* Prints one JSON document, or tables. */
Status validation_print(const Validation *validation);
/* OK when all agreed, or as compare_status(). */
Status validation_status(const Validation *validation);

#endif
