/* The run-time half of the expert buffer: the slots in device memory, and the loads into them.
 *
 * Which expert is where, and what goes where next, is decided by policies/buffer.h alone; this
 * carries it out and writes down what happened. With the plan's buffer off every expert has a slot
 * of its own number in its layer and is loaded at the start; the events of a step are then written
 * down after it. */
#ifndef EXEC_EXPERT_SLOTS_H
#define EXEC_EXPERT_SLOTS_H

#include "base/memory.h"
#include "exec/backend.h"
#include "exec/host_times.h"
#include "policies/buffer.h"

#define NO_SLOT UINT32_MAX

/* One MoE layer's way to its slots. */
typedef struct {
    uint32_t layer; /* the model's layer number */
    const FfnShape *shape;
    const void **kept;    /* [experts] what loads read */
    uint32_t *prefetched; /* [experts] 1 + the number of the prefetch, of this step, that the
                             expert's slot still waits for; 0: none */
    bool *is_owed;        /* [experts] the prefetch into the slot of each was cancelled */
    ExpertJob *slot_of;   /* [experts] ... in the slot of each; NO_SLOT: it has none */
    ExpertJob *places;    /* device [experts]: room for PLACED */
    ExpertJob *placed;    /* device: slot_of, once every expert is there to stay; else NULL */
    size_t slot_stride;   /* device bytes from slot to slot */
    unsigned char *slots; /* device: the layer's own, or those shared by all */
} LayerSlots;

/* A prefetch of this step. */
typedef struct {
    uint16_t layer_index;
    uint16_t expert;
    uint32_t slot;
    uint32_t record;  /* of the residency */
    uint32_t parts;   /* of its load ... */
    uint32_t begun;   /* ... and so many of them have */
    Load load;        /* once one has */
    bool after_queue; /* as of its parts */
    bool cancelled;   /* no more parts begin */
} AheadLoad;

/* Experts that an event still has to compute; those of loads wait for these. */
typedef struct {
    ExpertJob *jobs;
    uint32_t *tickets; /* of loads; NULL: in place already */
    uint32_t n;
} JobList;

typedef struct {
    const Backend *backend;
    Device *device;
    const ModelConfig *config;
    const ModelTensors *tensors;
    const TraceLayer *trace_layers;
    uint32_t n_layers; /* MoE layers */
    uint32_t max_tokens;
    size_t weight_bytes; /* of an element */
    const Plan *plan;
    ExpertBuffer *decisions;
    LayerSlots *layers;    /* [n_layers] */
    unsigned char *memory; /* device: of the slots of any plan that fits */
    size_t memory_bytes;
    BufferAction *actions; /* of one event */
    uint16_t *active;      /* of one event */
    uint16_t *touches;     /* of one event, where the decisions ask for them */
    uint16_t *place;       /* scratch of last_touches() */
    uint32_t *rows;        /* of one event, likewise: of each of the active */
    Load *gathered;        /* of one event: those to be begun, on demand or ahead */
    uint32_t n_gathered;
    Load *put_off; /* of one event: small ones ahead, to be begun while the host waits */
    uint32_t n_put_off;
    bool queued;      /* operations of this event are, whose slots loads may overwrite */
    AheadLoad *ahead; /* [n_ahead] in the order of the decisions */
    uint32_t n_ahead;
    uint32_t first_ahead; /* those before it have begun as a whole, or never will */
    uint32_t last_ahead;  /* ticket of that of which a part began last */
    JobList hits;
    JobList loaded;
    HostJob *host_jobs;         /* of one event */
    uint32_t timed;             /* experts that were computed for nobody */
    ResidencyRecord *residency; /* of one step */
    uint32_t *load_records;     /* [loads of the step] the record of each ticket */
    size_t n_residency;
    uint32_t n_resident; /* experts with a slot, of all layers */
    uint32_t n_experts;  /* of all layers */
    bool holds_all;      /* the budget has room for all of them */
    bool whole;          /* every expert lies where a plan without a buffer has it */
    bool settled;        /* every expert is in its slot, and stays there */
    uint32_t n_loads;
    HostSpan *load_calls; /* [n_loads] in clock_ns() */
    uint64_t decided_ns;  /* when the decisions on the last event were made, in clock_ns() */
    uint64_t slot_bytes;  /* device memory of the plan's slots */
} ExpertSlots;

/* What an event computes. */
typedef struct {
    uint32_t layer_index;     /* of the MoE layers */
    const uint32_t *first;    /* host [experts + 1]: RowGroups.first */
    const uint16_t *experts;  /* host [n_ids]: the event's routing, dropped ones marked */
    size_t n_ids;             /* tokens * top_k */
    const uint32_t *next_use; /* of the active ones; NULL unless the policy needs the future */
    const uint16_t *n_coming; /* as in BufferEvent */
    const uint16_t *coming;
    const EventSignals *signals;
    const ExpertBatch *batch;
    const float *in; /* device [tokens][d_model] */
    void *out;       /* device, BackendSizes.expert_out */
} ExpertEvent;

/* Makes the decisions' state; the fields above DECISIONS but for DEVICE must be set. There will be
 * memory for the slots of OTHERS[n_others], too. */
Status expert_slots_open(ExpertSlots *slots, const Plan *others, size_t n_others);
void expert_slots_close(ExpertSlots *slots);
/* Lay the slots out in device memory, and in host memory what any plan needs, and what the
 * decisions of the present one work in (exec/layout.h). */
void expert_slots_lay_out_device(ExpertSlots *slots, Arena *arena);
void expert_slots_lay_out_host(ExpertSlots *slots, Arena *arena);
void expert_slots_lay_out_deciding(ExpertSlots *slots, Arena *arena);
/* Tickets that a step can ask for. */
uint32_t expert_slots_max_loads(const ExpertSlots *slots);
/* Fails with ERR_UNSUPPORTED, and both sizes, when the slots of PLAN, whose state is DECISIONS, do
 * not fit in the memory that was laid out. */
Status expert_slots_check_room(const ExpertSlots *slots, const Plan *plan,
                               const ExpertBuffer *decisions);
/* Begins anew under the plan: gives each layer its slots, keeps what loads will read, and puts in
 * place what is resident from the start: what the plan begins with, everything when the buffer is
 * off, unless it was off before as well. */
Status expert_slots_fill(ExpertSlots *slots);

/* Forgets the records of the step before. *WAITS tells whether experts may have to be loaded in
 * this one, so that each event must be decided before it runs; else all of them lie where the
 * layers' PLACED says, and stay there. */
Status expert_slots_start_step(ExpertSlots *slots, bool *waits);
/* Where the step waits: decides one event, begins the loads it needs and then the prefetches,
 * computes what is in place beside them and what loads bring after them, and appends its records.
 * An expert is computed before its slot is overwritten; one that was prefetched, after its load.
 * *N_ACTIVE experts took part. */
Status expert_slots_run(ExpertSlots *slots, const ExpertEvent *event, uint32_t *n_active);
/* Where it does not: decides an event that was computed already, and appends its records, which are
 * hits. Returns how many experts took part. */
uint32_t expert_slots_note(ExpertSlots *slots, const ExpertEvent *event);
/* Between steps, where the backend was opened for experts on the host: what a few of those that are
 * kept, other ones each time, take its cores with one row each, *NS; 0 where none is kept. */
Status expert_slots_time_host(ExpertSlots *slots, uint64_t *ns);
/* What such experts take beside loads of others, *HOST, and loads beside them, *LOAD, as multiples
 * of what they take alone. What lies in the slots is lost. */
Status expert_slots_time_beside(ExpertSlots *slots, double *host, double *load);
/* Begins what may begin of the prefetches that are held back. */
Status expert_slots_hand_over(ExpertSlots *slots);
/* Waits for everything queued, and begins small prefetches and hands over others meanwhile. */
Status expert_slots_wait(ExpertSlots *slots);
/* Begins all that is left of prefetches; what is queued from now on comes after them, those
 * included that nobody has computed with: a step ends when its loads have ended. */
Status expert_slots_await_prefetches(ExpertSlots *slots);
/* Forgets the prefetches of a step that has ended. */
void expert_slots_forget_prefetches(ExpertSlots *slots);
/* After the backend's wait(): the times of the step's loads. WALL_OFFSET_NS is what clock_wall_ns()
 * is ahead of clock_ns(). */
Status expert_slots_end_step(ExpertSlots *slots, uint64_t wall_offset_ns);

#endif
