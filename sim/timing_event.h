/* One event of a step that waits, on its way: what sim/timing_experts.c, sim/timing_loads.c,
 * sim/timing_hits.c and sim/timing_host.c share. */
#ifndef SIM_TIMING_EVENT_H
#define SIM_TIMING_EVENT_H

#include "sim/timing_parts.h"

typedef struct {
    Timing *timing;
    const TimingEvent *event;
    uint32_t price;
    Pending hits;
    Pending loaded;
    ExpertWork host;    /* experts that the host computes */
    uint64_t host_ns;   /* what they take it alone, */
    uint64_t host_from; /* ... and about when it computes them */
    uint64_t host_until;
    size_t first_host;               /* their records, which come first */
    uint32_t n_loads;                /* on demand, of all of it */
    uint64_t carry_ns;               /* of queueing its first call, which went before its loads */
    bool queued;                     /* operations of this event are, ... */
    uint64_t sync_ns;                /* ... from whose end so much passes to the next load */
    uint32_t calls;                  /* that were queued */
    uint32_t gathered;               /* loads that are copied together */
    size_t first_gathered;           /* their records are from here on */
    const LayerTime *gathered_layer; /* whose they are */
    PrefetchTime *ahead;             /* those that are prefetches, as all are; NULL: none is */
} Event;

/* The event is decided: the host has the counts of ALL, and knows what it will do. *HITS_END_NS is
 * when it would end, had every lookup hit. */
void event_decide(Event *event, const ExpertWork *all, uint64_t *hits_end_ns);
/* Begins one load; RECORD receives its time. Fails with ERR_MEMORY. */
Status event_begin_load(Event *event, const LayerTime *layer, ResidencyRecord *record);
/* A load of LAYER's is to be begun together with others, of which RECORD is the next. */
void event_gather(Event *event, const LayerTime *layer, ResidencyRecord *record);
/* Begins what was gathered, whose time all of them have. Fails with ERR_MEMORY. */
Status event_begin_gathered(Event *event);
/* The load of PREFETCH, of LAYER's, is to be begun while the host waits; RECORD is the next. */
void event_put_off(Event *event, const LayerTime *layer, PrefetchTime *prefetch,
                   ResidencyRecord *record);
/* Queues what is pending. Fails with ERR_MEMORY. */
Status event_run_pending(Event *event);
/* Counts how much later it ended. */
void event_note_exposed(Timing *timing, uint64_t hits_end_ns);

/* Where the host may have to compute, the tokens and which expert has which come to it before it
 * goes on. */
void event_offer_host(const Event *event);
/* What the host computes, and about when: as soon as it has begun the loads. */
void event_expect_host(Event *event, const BufferAction *actions, uint32_t n_actions);
/* The host computes its experts when all else is queued; what they give is fetched by the device,
 * and what is queued next waits for it. */
void event_run_host(Event *event);

#endif
