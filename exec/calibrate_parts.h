/* What the files of calibration share; nobody else's. */
#ifndef EXEC_CALIBRATE_PARTS_H
#define EXEC_CALIBRATE_PARTS_H

#include <string.h>

#include "base/memory.h"
#include "base/quiet_processor.h"
#include "base/statistics.h"
#include "exec/calibrate.h"
#include "exec/routing_source.h"

/* Elements of an array. */
#define COUNT(array) (sizeof(array) / sizeof *(array))

enum {
    CALIBRATE_REPEATS = 15,        /* of one kind of step at the most */
    CALIBRATE_WARM_UP = 3,         /* a step's shape is noted, then captured, then replayed */
    CALIBRATE_SOURCE_TOKENS = 128, /* of the sources that a decoder looks at */
    CALIBRATE_NAME_BYTES = 130,    /* of a model's name, which stands in shape keys */
};

/* One measured cost, before those of the same place are put together. */
typedef struct {
    uint32_t table;
    double at[COST_AXES];
    double value;
    double spread;
    bool least; /* of its place counts, not the median */
} Sample;

typedef struct {
    Sample *samples; /* [n] */
    uint32_t n;
    size_t room;
} Samples;

/* What a stamp adds to an operation of steps of so many tokens, ascending. */
typedef struct {
    double tokens[8];
    double ns[8];
    uint32_t n;
} QueueStamps;

/* How the device's clock is read; READ is NULL where it is not. */
typedef struct {
    bool asked;
    void *library; /* the driver's */
    void *device;
    int (*read)(void *device, int type, unsigned *mhz);
} DeviceClock;

/* An executor that is open, its requests, and what is measured. */
typedef struct {
    const CalibrateOptions *options;
    Hardware *hardware;
    const char *model;   /* as the profile names it */
    const char *compute; /* "bf16" */
    Checkpoint *checkpoint;
    const ModelConfig *config;
    Executor *executor;
    Plan plan;
    uint32_t max_requests; /* that are measured; as many slots more hold the sources that the
                              decoder of an encoder-decoder model looks at */
    uint32_t max_length;
    uint32_t max_tokens;
    uint32_t *token; /* [max_tokens], as are the next four */
    uint32_t *slot;
    uint32_t *position;
    uint32_t *source;
    uint16_t *forced;   /* per MoE layer [max_tokens][top_k] */
    uint32_t *length;   /* [max_requests] what each has */
    uint16_t *n_coming; /* what routing the next step brings, as in StepInput, ... */
    uint16_t *coming;
    bool *is_coming;        /* [max_experts] */
    uint32_t *request;      /* [max_tokens] ... and whose its tokens are: the first is */
    uint32_t first_request; /* this one */
    unsigned char *other;   /* memory that has nothing to do with steps */
    uint64_t texts;   /* that tokens were taken from before: of another text, a token's weights
                         are in no cache */
    double *op_ns;    /* [CALIBRATE_REPEATS][max_ops] */
    double *issue_ns; /* the same: the host's time, */
    double *wake_ns;  /* ... and of experts what it waited and decided */
    double *decide_ns;
    double *plain_issue_ns; /* these two in steps without stamps */
    double *plain_decide_ns;
    double stamping_ns[CALIBRATE_REPEATS]; /* the mean stamp of a stamped step, on the host */
    double whole_ns[CALIBRATE_REPEATS];    /* of the unstamped steps beside these */
    uint32_t max_ops;
    uint32_t n_ops; /* of the list: operations of a step of STACK ... */
    Stack stack;
    uint32_t *first_of; /* [n_ops] the first with the same name and shape */
    char (*shape)[160]; /* [n_ops] */
    Op *op;             /* [n_ops] */
    Arena arena;
    Samples samples;
    WholeSteps *whole;        /* that are measured */
    RoutingSource *routing;   /* of those whose routing is forced */
    uint32_t first_expert;    /* that forced routing begins with */
    uint32_t host_turn;       /* of sets of experts on the host: a number of no order */
    double cache_bytes;       /* of experts that the host's cache holds */
    double stamp_ns;          /* what a stamp adds to a step that is replayed, */
    QueueStamps queue_stamps; /* ... and to one that is queued */
    double lag_ns;            /* see the table "lag" */
    DeviceClock clock;
    QuietProcessor quiet;
    uint32_t source_length;
    uint32_t max_experts; /* of a layer of the whole model */
    uint32_t queue_round; /* of steps that wait for every event */
    bool counting;        /* nothing is run, only counted in TOTAL */
    uint64_t done;        /* kinds of steps */
    uint64_t total;
    uint64_t few_total;    /* of these, of the model with few layers, */
    uint64_t queue_total;  /* ... and of those that wait for every event, */
    uint64_t static_total; /* ... and of static gating */
    bool knows_ops;        /* the profile that is added to has the model's operations, by shape, */
    bool knows_static;     /* ... those of static gating, */
    bool knows_queue;      /* ... and steps that wait for every event */
} Calibration;

/* One kind of step: REQUESTS requests, from slot 0 on, take TOKENS each. */
typedef struct {
    Stack stack;
    uint32_t requests;
    uint32_t tokens;
    uint32_t context;  /* positions of each before */
    uint32_t prompt;   /* tokens that one more request has, which begins with them; 0: none has */
    bool forced;       /* routing is calibration->forced */
    bool stamped_only; /* whole steps are of no interest */
    bool held;         /* stamped steps are (exec/executor.h) */
} StepKind;

/* Kinds of steps: all combinations of places on the axes. */
typedef struct {
    uint32_t requests[24]; /* zero-terminated, as the others */
    uint32_t tokens[24];
    uint32_t contexts[28]; /* contexts[0] may be 0 */
} StepGrid;

/* Measures steps of KIND, which the open model has room for. */
typedef Status (*StepMeasurer)(Calibration *c, const StepKind *kind);

/* Steps of this length are bound by the device however they are queued, and differ little. */
static const double CALIBRATE_LONG_NS = 1e7;

/* What a step of a kind was measured to be. */
typedef struct {
    double whole_ns; /* without stamps: the median */
    double whole_spread;
    double stamp_ns; /* that a stamp adds */
    uint32_t n_ops;
    const TimingRecord *ops; /* [n_ops] layers and operations, of the last step */
    uint32_t repeats;        /* rows of calibration->op_ns */
} StepMeasured;

/* True where operations run when they are called: nothing is queued, and nobody waits. */
static inline bool calibration_runs_at_once(const Calibration *c)
{
    return strcmp(c->options->device, "cpu") == 0;
}

/* Times of day are beyond 2^60 ns, where a double skips 256: they are subtracted first. */
static inline double ns_between(uint64_t from_ns, uint64_t to_ns)
{
    return (double)(int64_t)(to_ns - from_ns);
}

static inline double at_least_0(double ns)
{
    return ns > 0 ? ns : 0;
}

/* True when an MoE layer of the decoder comes after another one. */
bool calibration_has_next_layer(const ModelConfig *config);
/* True when steps of the open model under its plan can ask the router of the next MoE layer. */
bool calibration_looks_ahead(const Calibration *c);
/* Such a plan: C's own buffer, or one with room for ALL experts, so that in the end nothing waits.
 */
Plan calibration_ahead_plan(const Calibration *c, bool all);
/* The table of the profile that is made, or else of the one that it joins, where it has points;
 * NULL: neither has any. */
const CostTable *calibration_table(const Calibration *c, const char *name, const char *shape);
/* True when either has points of the table. */
bool calibration_knows(const Calibration *c, const char *name, const char *shape);

/* Opens MODEL under PLAN with room for REQUESTS requests of up to LENGTH tokens and steps of
 * TOKENS; lengths that the model or the device does not allow become shorter. C must be zeroed but
 * for options, hardware and model. */
Status calibration_open(Calibration *c, const char *model, const Plan *plan, uint32_t requests,
                        uint32_t length, uint32_t tokens);
/* Gives the decoder's requests sources of LENGTH tokens to look at, which stay; where there is no
 * encoder, nothing. */
Status calibration_encode(Calibration *c, uint32_t length);
/* Keeps the samples. */
void calibration_close(Calibration *c);
void calibration_free(Calibration *c);

/* Moves on to a processor that nobody else disturbs, where steps are queued: calibrate's and
 * validate's host is the same then. Rounds of measuring follow, and after each whether it counts or
 * is to be measured again, for its processor was disturbed (base/quiet_processor.h). */
void calibration_seek_quiet(Calibration *c);
bool calibration_counts(Calibration *c);
/* Before the first: how fast the host is where nobody disturbs it may be known from before. */
void calibration_open_quiet(Calibration *c);
/* After the last: the model of the profile tells how it was. */
void calibration_note_host(Calibration *c);
/* Runs KIND once, its requests brought to their context. */
Status calibration_step(Calibration *c, const StepKind *kind, bool timing, StepOutput *output,
                        double *ns);
/* Runs MEASURE on all kinds of N grids that the open model has room for; an encoder has only those
 * without context. */
Status calibration_grids(Calibration *c, const StepGrid *grids, size_t n, StepMeasurer measure);
extern const StepGrid CALIBRATE_QUICK_GRIDS[3];
/* ... on the kinds of GRID with one of PROMPTS, zero-terminated, beside; of models that have no
 * encoder. */
Status calibration_prompts(Calibration *c, const StepGrid *grid, const uint32_t *prompts,
                           StepMeasurer measure);
/* Gives the first REQUESTS requests CONTEXT positions; those that have more forget the rest. */
Status calibration_fill(Calibration *c, uint32_t requests, uint32_t context);
/* Those who run steps do other things in between: the host comes back to a step with caches that
 * hold little of it. */
void calibration_do_other_things(Calibration *c);
/* Runs KIND for its warm-up, then REPEATS times without and with stamps in turn; fewer times where
 * a step lasts long. */
Status calibration_measure(Calibration *c, const StepKind *kind, uint32_t repeats,
                           StepMeasured *measured);

/* Notes a sample of the table NAME of SHAPE. */
Status calibration_note(Calibration *c, const char *name, const char *shape, CostUnit unit,
                        const char *const *axis, uint32_t n_axes, const double *at, double value,
                        double spread);
/* ... of which the least of those of one place counts, for what others do makes it longer. */
Status calibration_note_least(Calibration *c, const char *name, const char *const *axis,
                              uint32_t n_axes, const double *at, double ns, double spread);
/* ... of step/rest, of steps that are queued. */
Status calibration_note_rest(Calibration *c, const double at[COST_AXES], double ns, double spread);
/* Where OP of a step lies on its axes; the experts' have places of their own. Returns how many. */
uint32_t calibration_place(const Calibration *c, Op op, const StepKind *kind, double at[COST_AXES],
                           const char *axis[COST_AXES]);
/* The host's part of a step: queueing each operation, but for loads, and of experts from the
 * decisions on; and deciding. Both [operations of the step]. */
void calibration_keep_host_times(const HostTimes *host, double *issue_ns, double *decide_ns);
/* Lists the operations of a step of STACK, where the list is not that of the step before. */
void calibration_list(Calibration *c, Stack stack, const StepOutput *output);
/* True when operation number I is the first of the list with its name and shape. */
bool calibration_is_first(const Calibration *c, uint32_t i);
/* Of ROWS [CALIBRATE_REPEATS][max_ops]: the median over repeats of the mean over the operations of
 * the name and shape of number I. */
double calibration_cost(const Calibration *c, const double *rows, const StepMeasured *measured,
                        uint32_t i, double *spread);
/* Notes the operations of a step that was measured, but the experts'. */
Status calibration_note_ops(Calibration *c, const StepKind *kind, const StepMeasured *measured);
/* Notes the experts' operations, whose events were of ACTIVE experts, ROWS rows and a load of LOAD
 * each. */
Status calibration_note_experts(Calibration *c, const StepMeasured *measured, double active,
                                double rows, double load);
/* Notes the router's operations of TOKENS whose routing is forced, which spares them the choice,
 * and embedding, with which that comes to the device. */
Status calibration_note_forced(Calibration *c, const StepMeasured *measured, double tokens);
/* Notes the clock that the device has now, where its driver tells. */
void calibration_note_clock(Calibration *c);
void calibration_close_clock(Calibration *c);
/* Puts the samples into the profile's tables, the median of those of one place. */
Status calibration_settle(Calibration *c);

/* One MoE layer of STACK after the other, in a step of TOKENS whose routing is C->forced:
 *
 *     ForcedLayer at = forced_layers(c, STACK_DECODER, tokens);
 *     while (forced_next(&at)) ... at.experts[at.n_ids] of at.layer ... */
typedef struct {
    const TraceLayer *layer;
    uint16_t *experts; /* [n_ids], [tokens][top_k] */
    size_t n_ids;
    Stack stack;
    uint32_t tokens;
    const TraceLayer *next;
    const TraceLayer *end;
} ForcedLayer;

ForcedLayer forced_layers(const Calibration *c, Stack stack, uint32_t tokens);
/* False after the last. */
bool forced_next(ForcedLayer *at);

/* Forces TOKENS tokens of every MoE layer of STACK on ACTIVE experts each: evenly, or with SKEW, a
 * share of all rows that go to one of them, as far as they can. Returns the mean load of these
 * experts. */
double calibration_force(Calibration *c, Stack stack, uint32_t tokens, uint32_t active,
                         double skew);

/* The same with rows that fall by the rank of an expert, as 1 / rank; returns their
 * cost_unevenness(). */
double calibration_force_zipf(Calibration *c, Stack stack, uint32_t tokens, uint32_t active);

/* Leaves the TOKENS tokens of a step, all forced on the same experts, only ACTIVE of these: fewer
 * than a token wants, as where a call is of those alone that were in place. */
void calibration_drop(Calibration *c, uint32_t tokens, uint32_t active);

/* What a stamp adds to a step of one token. */
Status calibrate_stamp(Calibration *c);
/* The operations of decode, prefill, prompts in chunks, and the encoder's sources. */
Status calibrate_ops(Calibration *c);
/* Such steps as a whole, without stamps, which become C->whole. */
Status calibrate_whole(Calibration *c);
/* Steps of static gating, of an executor that was opened for calibration_static_plan(); and what
 * executors of such plans need of device memory, of one that is open. */
Status calibrate_static(Calibration *c);
Plan calibration_static_plan(void);
Status calibrate_static_memory(Calibration *c);
/* Device memory of C's model and plan, for steps of up to TOKENS of one request. */
Status calibration_memory_for(const Calibration *c, uint32_t tokens, ExecutorMemory *memory);
/* Attention of those that a prompt joins. */
Status calibrate_prompt(Calibration *c);
/* More places of operations by tokens, where their costs jump. */
Status calibrate_refine(Calibration *c);
/* What passes between two steps while requests are served. */
Status calibrate_between(Calibration *c);
/* Steps that wait for every event: C has a buffer with room for all experts of a layer but one. */
Status calibrate_queue(Calibration *c);
/* ... steps that ask the router of the next MoE layer, too, */
Status calibrate_ahead(Calibration *c);
/* ... operations that do not wait for the host, */
Status calibrate_held(Calibration *c);
/* ... decisions that predict, by predictor, */
Status calibrate_decide(Calibration *c);
/* ... operations while prefetches wait for the link, */
Status calibrate_poll(Calibration *c);
/* ... those without stamps while prefetches are copied, */
Status calibrate_beside(Calibration *c);
/* C's plan with fewer slots, which prefetches by PREDICTOR. */
Plan calibration_predicting_plan(const Calibration *c, const char *predictor, uint32_t prefetches);
/* What the events of the next step, of TOKENS whose routing is C->forced, need: C->coming, for
 * predictors that know it. */
void calibration_foretell(Calibration *c, uint32_t tokens);
/* ... events that are unlike those before, */
Status calibrate_varied(Calibration *c);
/* Forces each of TOKENS tokens of every MoE layer of the decoder on experts drawn uniformly. */
void calibration_draw(Calibration *c, uint32_t tokens, uint64_t *random);
/* ... the first operations of steps after such as load much, */
Status calibrate_evicted(Calibration *c);
/* ... steps that come long after the one before, */
Status calibrate_cold(Calibration *c);
/* How long ago a step was queued that was called at START_NS and gave OUTPUT; and waits until that
 * is ELAPSED_NS ago. */
uint64_t calibration_elapsed(uint64_t start_ns, const StepOutput *output);
void calibration_elapse(uint64_t start_ns, const StepOutput *output, uint64_t elapsed_ns);
/* ... and steps that load experts, with a buffer for those of one token. */
Status calibrate_loads(Calibration *c);
/* ... small ones, one at a time. The plan is another one then. */
Status calibrate_turns(Calibration *c);
/* ... small ones of ACTIVE experts of steps of TOKENS, half of them at a time: the call that waits
 * for half as many ends AWAITED_NS after them. The plan is another one then. */
Status calibrate_halves(Calibration *c, uint32_t tokens, uint32_t active, double awaited_ns);
/* ... and large ones of which each waits for the call before it. The plan is another one then. */
Status calibrate_large_turns(Calibration *c);
/* ... events of small experts some of which hit. The plan is another one then. */
Status calibrate_mixed(Calibration *c);
/* The shape key of the experts of the decoder's first MoE layer, by which sim/timing.h looks up
 * what is the same in all; "" and false: it has none. */
bool calibration_experts_shape(const Calibration *c, char shape[160]);
/* Remembers what a stamp adds to an operation that is queued, in steps of TOKENS, more than those
 * that it was told of before, or as many as some; and what it adds by that, linear in between. */
void calibration_keep_stamp(Calibration *c, double tokens, double ns);
double calibration_stamp_ns(const Calibration *c, double tokens);
/* Forces TOKENS on ACTIVE experts, half of all at the most: of even numbers, or the SECOND half. */
void calibration_turn_over(Calibration *c, uint32_t tokens, uint32_t active, bool second);
/* Experts on the host's cores: C's plan computes all that it misses there. */
Status calibrate_host(Calibration *c);
/* What the model needs of device memory. */
Status calibrate_memory(Calibration *c, HardwareModel *model);
/* Experts, by how many there are of how many rows. */
Status calibrate_experts(Calibration *c);
/* Copies, once for all models. */
Status calibrate_copies(Calibration *c);
/* Bytes that rank FROM sends to rank TO before the experts, where rank 0 has SKEW times a rank's
 * mean share of the assignments, 1 to RANKS, and receives BYTES from all others; in whole 16. */
uint64_t calibrate_bytes_between(uint32_t ranks, uint32_t from, uint32_t to, double skew,
                                 uint64_t bytes);
/* At least what a rank then sends or receives, there or back: parts are rounded to the nearest. A
 * multiple of 256. */
size_t calibrate_bytes_room(uint32_t ranks, uint64_t bytes);
/* One kind of step comes now; true: it is only counted. */
bool calibration_only_counts(Calibration *c);

#endif
