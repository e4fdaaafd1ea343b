/* The experts of an event of which hits say all: its loads are its own layer's, and go where nobody
 * of it is. */
#include "sim/timing_event.h"

/* Loads N experts of LAYER, as carry_out() does one after the other, when the hits are pending. */
static Status load_missing(Event *event, const LayerTime *layer, uint32_t n)
{
    ResidencyRecord record;
    event->loaded.tickets = n;
    if (layer->together) {
        event->gathered = n;
        event->gathered_layer = layer;
        return OK;
    }
    for (uint32_t i = 0; i < n; i++) {
        TRY(event_begin_load(event, layer, &record));
        event->loaded.ready_ns =
            later(event->loaded.ready_ns, record.start_ns + record.duration_ns);
    }
    return OK;
}

/* Experts of a layer that is full leave as others come. */
static void fill_slots(Timing *timing, LayerTime *layer, uint32_t n)
{
    uint32_t free_slots = layer->slots - layer->residents;
    uint32_t more = n < free_slots ? n : free_slots;
    layer->residents += more;
    timing->n_resident += more;
    timing->resident_bytes += more * layer->slot_bytes;
}

static void split(const TimingEvent *asked, const uint8_t *hit, uint32_t n_misses, Event *event,
                  ExpertWork *all)
{
    if (asked->rows == NULL) {
        event->hits.work = expert_work_single(asked->n - n_misses);
        event->loaded.work = expert_work_single(n_misses);
        *all = expert_work_single(asked->n);
        return;
    }
    *all = expert_work_of(asked->rows, asked->n);
    event->hits.work = *all;
    if (n_misses == 0)
        return;
    expert_work_split(asked->rows, hit, asked->n, all, &event->hits.work, &event->loaded.work);
}

static Status play_hits(Timing *timing, const TimingEvent *asked, const uint8_t *hit,
                        uint32_t n_misses, uint32_t price)
{
    Event event = {.timing = timing, .event = asked, .price = price, .n_loads = n_misses};
    const LayerTime *layer = &timing->layers[asked->layer_index];
    ExpertWork all;
    uint64_t hits_end_ns;
    const EventStart start = event_begins(timing, layer, asked->n, n_misses);
    split(asked, hit, n_misses, &event, &all);
    event_decide(&event, &all, &hits_end_ns);
    TRY(load_missing(&event, layer, n_misses));
    TRY(event_run_pending(&event));
    event_note_exposed(timing, hits_end_ns);
    if (asked->rows == NULL)
        event_ends(timing, &start);
    return OK;
}

bool timing_is_plain(const Timing *timing, uint32_t n)
{
    return timing->plain_to > 0 && n <= timing->plain_to && !timing->options.records &&
           !timing->one_thread && timing->link == NULL && !timing->options.stamped;
}

/* Loads, by what was paid for the last event of as many and as many misses if nothing differs. */
static Status play_or_repeat(Timing *timing, const TimingEvent *asked, const uint8_t *hit,
                             uint32_t n_misses, uint32_t price)
{
    const LayerTime *layer = &timing->layers[asked->layer_index];
    timing->out.bytes_loaded += n_misses * timing->options.layers[asked->layer_index].expert_bytes;
    const OpPrice *of = &timing->costs.prices[price];
    bool is_cold = timing->cold_bytes > of->cold_from && of->step != timing->number;
    if (asked->rows == NULL && !is_cold && event_repeats(timing, layer, asked->n, n_misses))
        return OK;
    return play_hits(timing, asked, hit, n_misses, price);
}

Status timing_experts_plain(Timing *timing, const TimingEvent *asked, const BufferAction *actions,
                            uint32_t n_actions, uint32_t price, bool *is_plain)
{
    uint32_t n[RESIDENCY_KINDS] = {0};
    const LayerTime *layer = &timing->layers[asked->layer_index];
    *is_plain = false;
    if (!timing->bypasses || asked->rows != NULL || !timing_is_plain(timing, asked->n))
        return OK;
    for (uint32_t i = 0; i < n_actions; i++)
        n[actions[i].kind]++;
    const uint32_t loads = n[RESIDENCY_LOAD];
    *is_plain = n[RESIDENCY_HIT] + loads + n[RESIDENCY_EVICT] == n_actions;
    if (!*is_plain)
        return OK;
    timing->n_resident += loads - n[RESIDENCY_EVICT];
    timing->resident_bytes += loads * layer->slot_bytes;
    timing->resident_bytes -= n[RESIDENCY_EVICT] * layer->slot_bytes;
    return play_or_repeat(timing, asked, NULL, loads, price);
}

Status timing_experts_hits(Timing *timing, const TimingEvent *asked, const uint8_t *hit,
                           uint32_t n_misses, uint32_t price)
{
    LayerTime *layer = &timing->layers[asked->layer_index];
    fill_slots(timing, layer, n_misses);
    return play_or_repeat(timing, asked, hit, n_misses, price);
}
