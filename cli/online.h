/* What the commands that run a model have in common: their tokens, the executor's sizes, where the
 * routing comes from, and how the work is shown. */
#ifndef CLI_ONLINE_H
#define CLI_ONLINE_H

#include "base/progress.h"
#include "cli/options.h"
#include "exec/run.h"
#include "policies/buffer.h"

enum { MAX_BATCH = 65536, MAX_THREADS = 1024 };

/* Which model. */
typedef struct {
    const char *name; /* a directory, or "shape:NAME" */
    uint32_t layers;  /* of a shape; 0: all, or as NAME says */
    char text[512];   /* what model_input_check() makes of the two */
} ModelInput;

/* The options, for a command's table. */
#define MODEL_OPTIONS(input, is_required)                                                          \
    TEXT_OPTION("model", "DIR|shape:NAME",                                                         \
                "a checkpoint, or random weights in a published model's shape (`moebius models`)", \
                &(input)->name, .required = (is_required)),                                        \
        U32_OPTION("layers", "N", "of a shape: only the first N of each stack", 1,                 \
                   TRACE_MAX_LAYERS, &(input)->layers)

/* Makes INPUT->name the model's whole name, its number of layers included. */
Status model_input_check(const OptionTable *table, ModelInput *input);

/* Which tokens of which file. */
typedef struct {
    const char *file;       /* of tokens, or "random:REQUESTSxLENGTH"; or */
    const char *text;       /* of text, through the tokenizer of the checkpoint */
    bool lines;             /* of the text are requests */
    const char *key;        /* NULL: all */
    bool can_cut;           /* the command has --prompt-length: */
    uint32_t prompt_length; /* 0: as they are; else longer streams are cut into requests */
    uint32_t requests;      /* the first of each stream, or of all when they are not cut; 0: all */
} TokenInput;

/* The file that was given, or NULL. */
const char *token_input_path(const TokenInput *input);
/* Fails with ERR_USAGE for options that do not go together. */
Status token_input_check(const OptionTable *table, const TokenInput *input);
/* Loads and cuts; MODEL is the checkpoint's folder. *LEFT_OUT tokens are in no request. Fails with
 * ERR_INPUT, too, when a request and GENERATE tokens after it have no room in the model. */
Status token_input_load(const TokenInput *input, const char *model, const ModelConfig *config,
                        uint32_t generate, TokenSet *set, uint64_t *left_out);

/* What runs the model. */
typedef struct {
    const char *name;    /* of the backend */
    const char *compute; /* NULL: the backend's own */
    uint32_t threads;    /* of the host; 0: all processors, or but one with cuda */
} DeviceInput;

/* The options, for a command's table. */
#define DEVICE_OPTIONS(input)                                                                      \
    TEXT_OPTION("device", "NAME", "backend: cpu, or cuda where it was built in (default cpu)",     \
                &(input)->name),                                                                   \
        TEXT_OPTION("compute", "TYPE",                                                             \
                    "of matrix products: f32, or bf16 on cuda (default: the device's, cuda bf16)", \
                    &(input)->compute),                                                            \
        U32_OPTION("threads", "N", "of the host (default: all processors; cuda: but one)", 1,      \
                   MAX_THREADS, &(input)->threads)

/* Puts INPUT into OPTIONS. Fails with ERR_USAGE as executor_find_compute(). */
Status device_input_apply(const DeviceInput *input, ExecutorOptions *options);

/* Threads of the host that INPUT asks for; without a number all there are. */
uint32_t device_input_threads(const DeviceInput *input);

/* TEXT is "gate" or NULL (*TRACE becomes NULL), or "trace:FILE" (*TRACE points to FILE); for
 * any other, the error says that what the command takes is ALLOWED. */
Status routing_input(const OptionTable *table, const char *text, const char *allowed,
                     const char **trace);

/* Opens an executor just large enough to run SET in batches of RUN->batch, which generate
 * RUN->generate tokens. RUN->max_tokens is lowered to the largest step there can be. The texts and
 * the plan of OPTIONS are used, its sizes are filled in. */
Status executor_for_requests(const Checkpoint *checkpoint, const TokenSet *set, RunOptions *run,
                             ExecutorOptions *options, Executor **executor);
/* The same for the steps of a trace, which must not be larger than the plan's batching.max_tokens.
 */
Status executor_for_trace(const Checkpoint *checkpoint, const RunTraceOptions *run,
                          ExecutorOptions *options, RunTraceShape *shape, Executor **executor);

/* What became of prefetches that other loads overtook (policies/link.h). */
typedef struct {
    uint64_t cancelled; /* before they began */
    uint64_t late;      /* hits whose expert had to be loaded then */
} PrefetchFates;

/* Follows a run. */
typedef struct {
    Progress progress;
    uint64_t tokens;
    BufferCounts counts; /* of the residency records; evicted_newest stays 0 */
    PrefetchFates fates;
} RunWatch;

/* An observer (RunObserver) that takes a RunWatch, whose progress must have been started. */
Status run_watch(void *argument, const TraceStep *step, const StepInput *input,
                 const StepOutput *output);

/* Adds "prefetches_cancelled" and "late_loads". */
Status prefetch_fates_json(const PrefetchFates *fates, cJSON *json);

/* Tokens per second, 0 when there was no time. */
double per_second(uint64_t count, uint64_t duration_ns);

#endif
