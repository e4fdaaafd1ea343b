/* The packed in-memory form of a trace for replay: what a cache policy can see, and nothing else.
 *
 * Per event the ascending ids of its active experts (u16 each), the order of their last touches,
 * and, only for steps of more than one token, how many assignments each has (LEB128). Where nothing
 * is decided there are sums in their place. A million one-token steps of 26 layers x top-6 take
 * about 540 MB. Read-only after packed_trace_load(), so threads may share it. */
#ifndef TRACES_PACKED_H
#define TRACES_PACKED_H

#include <string.h>

#include "traces/reader.h"

/* What PackedTrace.counts has of a step. */
typedef enum {
    COUNTS_STORED,
    COUNTS_SINGLE, /* nothing: one token with distinct experts, so every count is 1 */
    COUNTS_SUMMED  /* of each event PackedSums, as it lies in memory: every count is below 128 */
} PackedCounts;

typedef struct {
    uint32_t assignments; /* counts added up */
    uint32_t squares;     /* ... and those of each, squared */
} PackedSums;

typedef struct {
    uint32_t n_layers;  /* MoE layers of the trace */
    TraceLayer *layers; /* [n_layers] */
    uint64_t n_steps;
    uint64_t n_events;
    uint64_t n_lookups;     /* sum of n_active over events */
    uint64_t n_assignments; /* (token, slot) pairs that were not dropped */
    uint64_t n_tokens;
    uint32_t max_active;   /* most active experts of one event */
    uint32_t *step_id;     /* [n_steps] step numbers of the trace */
    uint32_t *step_events; /* [n_steps] events of each step */
    uint32_t
        *step_first_layer; /* [n_steps] layer index of its first event; the next events follow on */
    uint8_t *step_counts;  /* [n_steps] PackedCounts */
    uint8_t *step_phase;   /* [n_steps] Phase */
    uint16_t *n_active;    /* [n_events] */
    uint16_t *experts; /* [n_lookups] ascending within an event; NULL where they were left out */
    uint8_t *counts;   /* LEB128, one per lookup of steps that are COUNTS_STORED; or sums */
    size_t counts_bytes;
    uint8_t *touches; /* unless it was packed without: per event, last touch longest ago first:
                         positions in its experts, one byte each, or two (low byte first) when it
                         has more than 256 */
    size_t touches_bytes;
    struct PackedBuilder *builder; /* capacities and scratch of packed_trace_add_step() */
} PackedTrace;

/* How a trace is loaded, and who is told, if anyone: a failure of theirs ends the loading and is
 * returned. */
typedef struct {
    bool no_touches; /* they are left out: for replays of which none asks for them */
    bool no_experts; /* so are they, but for how many there are, and single counts but for sums:
                        where nothing is decided */
    Status (*run)(void *argument, const TraceRun *run,
                  uint64_t steps);                         /* of one trace as recorded, before it */
    Status (*step)(void *argument, const TraceStep *step); /* without weights and scores */
    void *argument;
} PackedLoading;

/* Loads PATH. On failure nothing is held. */
Status packed_trace_load(const char *path, PackedTrace *trace);
Status packed_trace_load_as(const char *path, const PackedLoading *loading, PackedTrace *trace);
/* An empty trace of LAYERS, to be filled with packed_trace_add_step (tests, benchmarks, forced
 * routing). */
Status packed_trace_new(const TraceLayer *layers, uint32_t n_layers, PackedTrace *trace);
/* The same without what LOADING leaves out. */
Status packed_trace_new_as(const TraceLayer *layers, uint32_t n_layers,
                           const PackedLoading *loading, PackedTrace *trace);
/* Appends one step. Fails with ERR_INPUT when the trace has no layer of the step's stack, when it
 * has no token, or when an expert id is out of range; the trace is then unchanged. */
Status packed_trace_add_step(PackedTrace *trace, const TraceStep *step);
void packed_trace_free(PackedTrace *trace);
/* Heap bytes held. */
size_t packed_trace_bytes(const PackedTrace *trace);

/* Walks the events. */
typedef struct {
    const PackedTrace *trace;
    uint64_t step;        /* index of the step of the event last given */
    uint64_t event;       /* index of the next event */
    uint64_t lookup;      /* index of its first lookup */
    size_t count_at;      /* offset in counts */
    size_t touch_at;      /* offset in touches */
    uint32_t left;        /* events left in the step */
    uint32_t layer_index; /* of the next event */
    PackedCounts counts;  /* of the step */
    uint64_t next_step;
} PackedCursor;

typedef struct {
    uint32_t step; /* the trace's step number */
    Phase phase;
    uint32_t layer_index;
    uint32_t n_active;
    const uint16_t *experts; /* [n_active] */
    const uint8_t *counts;   /* LEB128[n_active], or NULL: all 1, unless SUMMED */
    bool summed;             /* all that is known of counts are ... */
    PackedSums sums;         /* ... these */
    const uint8_t *touches;  /* as in PackedTrace; read with packed_touches() */
    uint64_t first_lookup;
} PackedEvent;

PackedCursor packed_cursor(const PackedTrace *trace);
/* The parts of packed_next() that few events need: the first event of a step, and steps that have
 * something of counts, of which EVENT then knows. */
bool packed_next_step(PackedCursor *cursor);
void packed_take_counts(PackedCursor *cursor, PackedEvent *event);
/* The sums of an event of a step that has them, where CURSOR stands, and on to those of the next.
 */
static inline PackedSums packed_take_sums(PackedCursor *cursor)
{
    PackedSums sums;
    memcpy(&sums, cursor->trace->counts + cursor->count_at, sizeof sums);
    cursor->count_at += sizeof sums;
    return sums;
}

/* Passes over what is left of a step without counts, whose events have EACH experts. */
void packed_skip_events(PackedCursor *cursor, uint32_t each);
/* ... of a step with sums. */
void packed_skip_summed(PackedCursor *cursor);

/* Bytes of the order of touches of N experts. */
static inline size_t packed_touch_bytes(uint32_t n)
{
    return n <= 256 ? n : 2 * (size_t)n;
}

/* Touches from offset AT on, if there are any. */
static inline const uint8_t *packed_touches_from(const PackedTrace *trace, size_t at)
{
    return trace->touches_bytes > 0 ? trace->touches + at : NULL;
}

/* False after the last event. */
static inline bool packed_next(PackedCursor *cursor, PackedEvent *event)
{
    const PackedTrace *trace = cursor->trace;
    if (cursor->left == 0 && !packed_next_step(cursor))
        return false;
    event->step = trace->step_id[cursor->step];
    event->phase = (Phase)trace->step_phase[cursor->step];
    event->layer_index = cursor->layer_index++;
    event->n_active = trace->n_active[cursor->event++];
    event->experts = trace->experts != NULL ? trace->experts + cursor->lookup : NULL;
    event->counts = NULL;
    event->summed = false;
    event->touches = packed_touches_from(trace, cursor->touch_at);
    event->first_lookup = cursor->lookup;
    if (cursor->counts != COUNTS_SINGLE)
        packed_take_counts(cursor, event);
    cursor->touch_at += packed_touch_bytes(event->n_active);
    cursor->lookup += event->n_active;
    cursor->left--;
    return true;
}

/* Writes the event's order of last touches, as positions in its experts, to TOUCHES[n_active]. */
void packed_touches(const PackedEvent *event, uint16_t *touches);
/* Writes how many tokens each of the event's experts has to ROWS[n_active]; the event is not
 * SUMMED. */
void packed_rows(const PackedEvent *event, uint32_t *rows);

/* Reads one LEB128 number and moves *AT behind it. */
static inline uint32_t packed_count_read(const uint8_t **at)
{
    uint32_t value = **at & 0x7F;
    for (unsigned shift = 7; *(*at)++ & 0x80; shift += 7)
        value |= (uint32_t)(**at & 0x7F) << shift;
    return value;
}

/* The same of an event's counts; where they are NULL they are all 1. */
static inline uint32_t packed_event_count(const uint8_t **at)
{
    return *at != NULL ? packed_count_read(at) : 1;
}

#endif
