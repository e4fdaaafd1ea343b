/* What the files of `moebius record` share: what was asked for, and one recording. */
#ifndef CLI_RECORD_H
#define CLI_RECORD_H

#include "cli/command.h"
#include "cli/decoder_input.h"
#include "cli/generated.h"
#include "cli/online.h"
#include "cli/service_goals.h"

typedef struct {
    ModelInput model;
    TokenInput tokens;
    DecoderInput decoder;
    const char *out;
    const char *output; /* generated tokens, or NULL */
    DeviceInput device;
    const char *plan;
    OptionList sets;
    uint32_t batch; /* 0: not given */
    uint32_t generate;
    uint32_t beams;
    double length_penalty;
    bool ignore_eos;
    bool print_text;
    bool timing;
    const char *routing;
    const char *trace;  /* of --routing trace:FILE, whose steps run again; or NULL */
    const char *source; /* of --routing: where the requests' tokens go; or NULL */
    const char *scores_text;
    uint32_t scores;
    uint32_t predictions; /* 0: not given */
    ServiceGoals goals;
    bool json;
} RecordArguments;

/* One recording. */
typedef struct {
    const RecordArguments *arguments;
    Plan plan;
    Checkpoint *checkpoint;
    TokenSet set;
    TokenSet targets;
    bool has_targets;
    uint64_t left_out;
    uint32_t *generate_each; /* [requests], or NULL: the file of tokens does not say */
    uint64_t *arrival_ns;    /* the same */
    Executor *executor;
    Recorder *recorder;
    RunWatch watch;
    RunTotals totals;
    RoutingSource *routing; /* or NULL */
    Generated generated;    /* only filled to be shown */
    OutputFile output;
} Recording;

/* Opens what RECORDING->arguments and its plan name, runs it, and ends its trace; what was
 * generated is written. What was opened stays open, also after a failure. */
Status recording_run(Recording *recording);
/* Prints what came out, as a JSON document or for people. Fails with ERR_INTERRUPTED where the run
 * was stopped. */
Status recording_report(const Recording *recording);

#endif
