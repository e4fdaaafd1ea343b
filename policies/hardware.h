/* The hardware profile: what one machine was measured to need, as one JSON file that `moebius
 * calibrate` writes and the simulator reads.
 *
 * A profile has cost tables and models. A table has a name ("gpu/attention") and a shape key, which
 * is the same for equal layers of different models ("" where the cost depends on no shape). A model
 * lists the operations of its step and the shape key of each, and the coefficients of its memory.
 *
 * Names of tables, with their axes; times are nanoseconds:
 *
 *   gpu/OP             on the compute stream, back to back, without the cost of stamps. OP is an
 *                      op_name(). Axes by operation: see hardware_op_axes().
 *   mixed/attention    of a step that takes a prompt from its beginning, of so many "tokens",
 *                      beside a token of each of "requests" that have a "context"
 *   forced/route       of routing that is laid on the model in place of its router's choice;
 *   forced/embed       embedding, with which that comes to the device
 *   queued/experts     of a call that is given a list of experts, as where a buffer is: from the
 *                      end of queueing it to its end
 *   limited/route      with the limit of static gating, by "tokens"; padded/experts, mask/experts:
 *                      the experts of static gating, combining included, by "tokens" and "share",
 *                      an expert's capacity as a share of them
 *   gpu/predict        the router of a layer further on, asked before this layer's experts run
 *   uneven/experts     what is added to evenly shared rows where a few of the experts have most of
 *                      them, by "active" and "rows"; unevenness: cost_unevenness() then
 *   host/experts       of experts that the host's cores compute together, with weights from
 *                      memory, by "rows" of each and how many are "active"
 *   host/warm          the same where the caches hold the weights
 *   host/probe         what executor_time_host() said then: how fast memory and cores were;
 *                      nothing is predicted from it
 *   host/beside        a factor: they take so many times as long beside loads; copy/beside: and
 *                      loads beside them
 *   host/rested        what they take longer, by how many are "active" and the time "elapsed" since
 *                      the host last computed any
 *   host/aged          what small experts take longer than host/experts has, by how many are
 *                      "active" and the time "elapsed" since each was computed last, for other
 *                      things take its place in the caches; may be negative
 *   host/reuse         from 0, as host/warm, to 1, as host/experts, by the bytes of experts that
 *                      were read since an expert was, its own included; without that table, 0
 *   host/offer         from the end of the router to the host's going on, beyond wake, where the
 *                      host may compute, by "tokens"
 *   host/fetch         from the host's having computed to the end of the event, by "rows";
 *                      issue/fetch: what queueing that takes the host
 *   held/OP            what OP takes, with its stamp, beyond gpu/OP or forced/OP where the host
 *                      queues it, but nothing waits for the host (exec/executor.h), by "tokens";
 *                      may be negative
 *   beside             what an operation without a stamp takes longer while prefetches are copied,
 *                      by "tokens" (of the experts' shape)
 *   issue/OP           host time to queue OP where no graph is replayed
 *   cold/OP            ... longer as the first of its sort in a step, by "tokens" and the "bytes"
 *                      that an event of the step before loaded: as they go through the host's
 *                      caches these lose what queues it
 *   issue/again        ... to queue a call of experts that follows another one in its event, by
 *                      "tokens", where loads are small; or issue/turn: that and what goes before
 *                      it, beginning one small load and waiting for it
 *   issue/load         ... to begin one load; issue/together: all small ones of an event
 *                      (policies/link.h); issue/await: to make the queue wait for those of a call;
 *                      end/load: to learn a load's time when the step is over, which small
 *                      ones that are copied together have in common; end/loads: in a
 *                      step that has any (of the experts' shape). load, await and end/load are by
 *                      the "bytes" of an expert, as is lag
 *   issue/poll         ... to queue any operation more while prefetches wait for the link
 *   copy/gap           from the end of a load to the start of the next, which waits for it
 *   copy/together      of small loads that are copied together, by the bytes of all, where the
 *                      host has begun them long before; load/together: ... where it is still
 *                      beginning them, or start/together: what passes before, from their start on
 *   copy/ahead         of an event's small prefetches, by the "bytes" of an expert and how many
 *                      "loads" they are; issue/ahead: what the host needs to begin them;
 *                      wait/ahead: from there on the time before which it does not learn of the
 *                      next event, by how many "loads" they are (of the experts' shape). Without
 *                      copy/ahead each takes what a load by itself of as many bytes does
 *   turn               from the end of a load to the start of the next, which waits for the call of
 *                      the one expert that the first brings, by the "tokens" of the step and the
 *                      "rows" of that expert (of the experts' shape)
 *   lag                from the host's beginning to queue something to its start, where the stream
 *                      is free, as the host's clock is told of the device's
 *   after/load         from the end of an event's last load, or of queueing where that is later, to
 *                      the end of the call that awaits it, by the "active" experts of that call,
 *                      beyond what such a call takes from the end of queueing it; may be negative
 *   after/tokens       ... beyond which steps of more "tokens" take longer from it on
 *   sync               from the end of a load to what awaits it, and from the end of what is queued
 *                      to a load that comes after it; sync/together: ... to small ones, by the
 *                      "tokens" of the step
 *   throttle           what a load over a slow link takes longer than the link is said to;
 *                      throttle/least: what it takes longer than its copy, at the least;
 *                      issue/throttle: what the host needs to begin it more; of small experts as
 *                      steps load them, of their shape, which else are as on a bare device
 *   decide             host time of the decisions on one event, by "active"
 *   decide/none        ... where they are others than those of the event before; decide/load:
 *                      ... and some small ones are loaded; carry: from there to beginning these;
 *                      issue/varied: what queueing them takes longer then, by "tokens"
 *   decide/PREDICTOR   ... that predicts a layer further on: hardware_decide_table()
 *   wake               from the end of a stamp behind the router, before which the host is told, to
 *                      its going on; from the end of a step to its having learnt that (of the
 *                      experts' shape, as is decide)
 *   graph/launch       from the call to the first operation of a step, by "tokens"; part of
 *                      step/rest, so that nothing is predicted from it
 *   step/rest          what an unstamped step takes beyond what sim/timing.h makes of the other
 *                      tables, launch and wake included, by the axes of attention; the shape is
 *                      hardware_rest_shape()
 *   step/cold          what a queued step takes longer where the one before was queued long ago, by
 *                      the time since then ("elapsed"): meanwhile the host's caches lose what
 *                      queues steps; the shape is the model's name
 *   between            what passes between two steps while requests are served: from the end of
 *                      one to the start of the next where all is at hand, by "tokens" of both,
 *                      with recording; the shape is the model's name, and " forced" where routing
 *                      is laid on it
 *   stamp              what one stamp adds to a step that is replayed; issue/stamp: what it takes
 *                      the host in one that is queued (of the experts' shape)
 *   stamp/queued       what it adds to an operation of one that is queued and waits for loads, by
 *                      "tokens" (of the experts' shape): from the end of loads to the next router
 *                      what held/OP make of it beyond what passes without stamps;
 *                      stamp/beside: what it adds beside copies besides
 *   copy/h2d, copy/d2h, host/copy      by "bytes"; of large experts as steps load them, with what
 *                      others leave of the link
 *   copy/h2d-busy      the same beside computation
 *   slowdown           factor of computation's time beside copies
 *   all-to-all         what ranks send one another before or after the experts of an event, back to
 *                      back: from when all of them have come to it to when the last has what it
 *                      waits for. By "skew", the assignments of the fullest rank over the mean of
 *                      all, and "bytes", which that rank receives from the others (or sends, after
 *                      the experts); what stays on its rank is not moved. The shape is
 *                      hardware_ranks_shape()
 *   issue/all-to-all   host time to queue one
 *   all-to-all/busy    evenly shared ones beside computation, by "bytes"
 *   slowdown/all-to-all
 *                      factor of computation's time beside them, by "tokens" of a product */
#ifndef POLICIES_HARDWARE_H
#define POLICIES_HARDWARE_H

#include <stdbool.h>

#include "base/json.h"
#include "traces/ops.h"
#include "traces/trace.h"

enum {
    HARDWARE_VERSION = 1,
    HARDWARE_BYTES = 64 << 20, /* of a file at the most */
    COST_AXES = 3,
    COST_NEXT_TO =
        64, /* places that differ by at most such a part, or by 1, are next to each other */
    COST_LOAD_ROWS = 192 /* rows of one expert from which on they count more than its weights */
};

typedef enum { UNIT_NS, UNIT_BYTES, UNIT_FACTOR, COST_UNITS } CostUnit;
extern const char *const COST_UNIT_NAMES[COST_UNITS + 1]; /* as in files, then NULL */

/* Points in lexicographic order of their places, each place once: nested lines, where each value of
 * axis 0 may have values of axis 1 of its own. */
typedef struct {
    char name[48];
    char shape[160];
    CostUnit unit;
    uint32_t n_axes; /* 0: one point, the same everywhere */
    char axis[COST_AXES][16];
    uint32_t n_points;
    double *at;     /* [n_points][n_axes], at least 0 */
    double *value;  /* [n_points] median */
    double *spread; /* [n_points] coefficient of variation of what the median is of */
} CostTable;

/* One operation of a model's step. */
typedef struct {
    uint32_t layer;
    Op op;
    char shape[160];
} HardwareOp;

typedef struct {
    uint32_t layer; /* the model's layer number */
    uint32_t experts;
    uint64_t slot_bytes; /* device memory of a slot; a load copies as many */
} HardwareSlots;

/* Device memory of an executor is the sum of
 *   weights_bytes, slots of each MoE layer,
 *   position_bytes * requests * length (caches), request_bytes * requests, length_bytes * length,
 *   and the table "memory/activations" of shape MODEL, by "tokens" of the largest step; with static
 *   gating "memory/padded" or "memory/mask" in its place, by "tokens" and "share". */
typedef struct {
    uint64_t weights_bytes;
    double position_bytes;
    double request_bytes;
    double length_bytes;
} HardwareMemory;

/* How far others disturbed the thread of the host while a model was measured, by the loop of
 * base/quiet_processor.h, in rounds of measuring. */
typedef struct {
    uint64_t best_ns;   /* of the loop where nobody did */
    double mean_ns;     /* ... in the rounds that count */
    uint64_t rounds;    /* that count; 0: nothing is known of all this */
    uint64_t disturbed; /* of these, on a processor that was disturbed all the same */
    uint64_t again;     /* rounds that were measured again for that */
    uint64_t waited_ns; /* for a processor to become quiet */
} HardwareHost;

typedef struct {
    char name[256];           /* as in the trace's run.model */
    char compute[16];         /* "bf16" */
    uint32_t measured_layers; /* that ran when it was measured */
    HardwareOp *ops[2];       /* by Stack: of a step with logits, in order */
    uint32_t n_ops[2];
    HardwareSlots *slots; /* [n_slots] MoE layers ascending */
    uint32_t n_slots;
    HardwareMemory memory;
    HardwareHost host;
} HardwareModel;

typedef struct {
    char device[256]; /* as executor_device() */
    char backend[16]; /* "cuda" */
    char driver[64];  /* "": none */
    char created[24]; /* "2026-11-23T09:00:00Z" */
    char version[32];
    char commit[64];
    char command[4096];
    uint32_t host_threads;
    /* Of the processor cores of the device while it computed, MHz; 0: not known. */
    uint32_t least_clock_mhz;
    uint32_t most_clock_mhz;
    CostTable *tables;
    uint32_t n_tables;
    HardwareModel *models;
    uint32_t n_models;
} Hardware;

/* Fails with ERR_INPUT, naming the key's path. On failure nothing is held. */
Status hardware_load(const char *path, Hardware *hardware);
/* The same of TEXT[bytes], behind which there is a 0, and which is overwritten. */
Status hardware_parse(char *text, size_t bytes, const char *file, Hardware *hardware);
Status hardware_save(const Hardware *hardware, const char *path);
/* Freed with cJSON_Delete. */
Status hardware_to_json(const Hardware *hardware, cJSON **json);
/* Adds what it says of the host to OBJECT. */
Status hardware_add_host(cJSON *object, const HardwareHost *host);
/* A checksum over all that it says: CRC-32C. */
uint32_t hardware_crc(const Hardware *hardware);
/* HARDWARE may be zeroed. */
void hardware_free(Hardware *hardware);

/* The table, or NULL. */
const CostTable *hardware_table(const Hardware *hardware, const char *name, const char *shape);
/* The model that a trace or the command line calls NAME, or NULL: directories are the same when
 * their last components are. */
const HardwareModel *hardware_model(const Hardware *hardware, const char *name);
/* The best time of the loop by all its models, or 0. */
uint64_t hardware_best_loop(const Hardware *hardware);

/* The axes of gpu/OP: writes their names, returns how many.
 *   attention        "requests" (spans of the step), "tokens" (mean of a request), "context" (mean
 *                    of positions that a request had before)
 *   cross attention  the same; "context" is the mean length of the sources
 *   experts          "active" (experts of the call), "rows" (mean of one: (token, slot) pairs),
 *                    "load" (mean of one: cost_load_of() its rows), which tells skew
 *   head             "rows" of logits
 *   all others       "tokens" of the step */
uint32_t hardware_op_axes(Op op, const char *axis[COST_AXES]);

static inline double cost_load_of(uint32_t rows)
{
    return rows > COST_LOAD_ROWS ? (double)rows / COST_LOAD_ROWS : 1;
}

/* How unevenly ROWS fall on ACTIVE experts, the sum of whose squares is SQUARES: the variance over
 * the square of the mean; 0: evenly. */
static inline double cost_unevenness(uint32_t active, uint32_t rows, double squares)
{
    return active * squares / ((double)rows * rows) - 1;
}

/* How a step runs: the first of its shape is queued without a graph, of the second a graph is made,
 * which the third launches for the first time and the others repeat; or the host waits for every
 * event. */
typedef enum {
    STEP_FIRST,
    STEP_CAPTURED,
    STEP_LAUNCHED,
    STEP_REPEATED,
    STEP_QUEUED,
    STEP_MODES
} StepMode;

/* The shape key of step/rest: the name of the model in the profile, " encoder" for its steps, the
 * mode (" first", " capture", " launch", " graph" or " queued"), and " forced" where routing is
 * laid on the model. */
void hardware_rest_shape(const char *model, Stack stack, StepMode mode, bool forced,
                         char shape[160]);

/* The shape key of what RANKS send one another: "4 ranks", or "16 ranks, 8 a machine" where they
 * are on several. */
void hardware_ranks_shape(uint32_t ranks, uint32_t machine_ranks, char shape[160]);
/* The table of the decisions that predict by PREDICTOR, a plan's: decide/ and its name without
 * numbers, by "active"; of one that remembers requests by "requests" of the step and by the
 * "entries", *ENTRIES of PREDICTOR's, of its memory. Returns how many axes. */
uint32_t hardware_decide_table(const char *predictor, char name[48], const char *axis[COST_AXES],
                               double *entries);

/* ---- making one ---- */

/* Finds the table or adds an empty one; the pointer is valid until the next call. AXIS [n_axes]. */
Status hardware_add_table(Hardware *hardware, const char *name, const char *shape, CostUnit unit,
                          const char *const *axis, uint32_t n_axes, CostTable **table);
/* Adds an empty table, or empties the one that is there, whatever its axes were. */
Status hardware_empty_table(Hardware *hardware, const char *name, const char *shape, CostUnit unit,
                            const char *const *axis, uint32_t n_axes);
/* Puts a point in its place, or takes the place of that which is there. */
Status cost_table_put(CostTable *table, const double *at, double value, double spread);
/* The number of the point that is nearest to AT [n_axes] by ratios, the first of several; TABLE has
 * one. */
uint32_t cost_table_nearest(const CostTable *table, const double *at);
/* Lexicographic: below 0, 0, above 0. */
int cost_place_compare(const CostTable *table, const double *left, const double *right);
/* OK when HARDWARE has no table of FROM's name and shape, or one of the same unit and axes. Else
 * ERR_INPUT. */
Status hardware_check_table(const Hardware *hardware, const CostTable *from);
/* Adds a zeroed model, or empties the one of that name. */
Status hardware_add_model(Hardware *hardware, const char *name, HardwareModel **model);
/* OK when hardware_merge() can be: device and backend are the same, and so is the compute type of
 * models that both have. Else ERR_INPUT. */
Status hardware_check_merge(const Hardware *hardware, const Hardware *from);
/* Puts tables and models of FROM, of the same device and backend, into HARDWARE; points and models
 * that both have are FROM's. Fails with ERR_INPUT as hardware_check_merge(), and when a table of
 * both has other axes in each. */
Status hardware_merge(Hardware *hardware, const Hardware *from);

#endif
