/* The link where prefetches are held back (policies/link.h): a resource of sim/engine.h that loads
 * on demand take before the parts of prefetches. What is begun is not interrupted, so that the time
 * of a load on demand is known when it is begun; what becomes of prefetches is known up to the time
 * that the host has come to. */
#include "base/memory.h"
#include "sim/timing_parts.h"

enum { LINK };

Status link_open(Timing *timing)
{
    static const EngineResource RESOURCE = {ENGINE_PRIORITY, 1};
    return engine_new(&RESOURCE, 1, &timing->link);
}

static bool is_over(const AheadTime *ahead)
{
    return ahead->handed || ahead->ended == ahead->begun_at_most;
}

/* Whether a part of AHEAD is under way, and when it ends. */
static bool is_running(const Timing *timing, const AheadTime *ahead, uint64_t *end_ns)
{
    return !is_over(ahead) && engine_begun(timing->link, ahead->part[ahead->ended], end_ns);
}

static void note_end(Timing *timing, const EngineEvent *event)
{
    if (event->tag < timing->first_tag || event->tag == UINT64_MAX)
        return;
    AheadTime *ahead = &timing->ahead[event->tag - timing->first_tag];
    if (ahead->ended++ == 0)
        ahead->start_ns = event->start_ns + timing->lag_ns;
    ahead->end_ns = later(ahead->end_ns, event->end_ns);
    timing->copy_ns = later(timing->copy_ns, event->end_ns);
}

/* Goes on to NS: what has become of prefetches until then. */
static Status advance(Timing *timing, uint64_t ns)
{
    EngineTask timer;
    EngineEvent event;
    if (timing->link == NULL || ns <= engine_now(timing->link))
        return OK;
    const EngineSpec spec = {.resource = ENGINE_NO_RESOURCE,
                             .duration_ns = ns - engine_now(timing->link),
                             .tag = UINT64_MAX};
    TRY(engine_add(timing->link, &spec, NULL, 0, &timer));
    while (engine_next(timing->link, &event) && event.task != timer)
        note_end(timing, &event);
    return OK;
}

Status link_begin_step(Timing *timing)
{
    TRY(advance(timing, timing->start_ns));
    timing->first_tag += timing->n_ahead;
    timing->n_ahead = 0;
    timing->first_ahead = 0;
    return OK;
}

Status link_free(Timing *timing, uint64_t *free_ns)
{
    uint64_t end_ns;
    TRY(advance(timing, timing->host_ns));
    while (timing->first_ahead < timing->n_ahead && is_over(&timing->ahead[timing->first_ahead]))
        timing->first_ahead++;
    *free_ns = timing->copy_ns;
    if (timing->first_ahead < timing->n_ahead &&
        is_running(timing, &timing->ahead[timing->first_ahead], &end_ns))
        *free_ns = later(*free_ns, end_ns);
    return OK;
}

Status link_take(Timing *timing, uint64_t free_ns, uint64_t end_ns)
{
    EngineTask task;
    timing->copy_ns = end_ns;
    if (timing->link == NULL)
        return OK;
    uint64_t from_ns = later(engine_now(timing->link), free_ns);
    const EngineSpec spec = {.resource = LINK, .duration_ns = end_ns - from_ns, .tag = UINT64_MAX};
    return end_ns > from_ns ? engine_add(timing->link, &spec, NULL, 0, &task) : OK;
}

Status link_prefetch(Timing *timing, const BufferAction *action)
{
    const LayerTime *layer = &timing->layers[action->layer_index];
    uint64_t free_ns;
    TRY(mem_grow(&timing->ahead, &timing->ahead_room, timing->n_ahead, sizeof *timing->ahead,
                 "simulated prefetches"));
    TRY(link_free(timing, &free_ns));
    bool begins = free_ns <= timing->host_ns && timing->first_ahead == timing->n_ahead;
    uint32_t number = timing->n_ahead++;
    AheadTime *ahead = &timing->ahead[number];
    *ahead = (AheadTime){.layer_index = action->layer_index,
                         .expert = action->expert,
                         .record = timing->out.n_residency,
                         .begun_at_most = layer->parts};
    layer->prefetch[action->expert] =
        (PrefetchTime){.number = number, .step = timing->number, .held = true};
    for (uint32_t i = 0; i < layer->parts; i++) {
        const EngineSpec spec = {.resource = LINK,
                                 .priority = number + 1 < ENGINE_PRIORITIES ? number + 1
                                                                            : ENGINE_PRIORITIES - 1,
                                 .duration_ns = timing->lag_ns + layer->part_ns,
                                 .tag = timing->first_tag + number};
        TRY(engine_add(timing->link, &spec, NULL, 0, &ahead->part[i]));
    }
    if (timing->one_thread)
        timing->host_ns += layer->copy_ns;
    else if (begins)
        timing->host_ns += timing->issue_load_ns;
    return OK;
}

/* Takes away the parts of AHEAD that have not begun; how many those are. */
static uint32_t take_back(Timing *timing, AheadTime *ahead)
{
    uint64_t end_ns;
    uint32_t begun = ahead->ended;
    uint32_t parts = ahead->begun_at_most;
    if (is_over(ahead))
        return 0;
    if (is_running(timing, ahead, &end_ns)) {
        if (begun++ == 0)
            ahead->start_ns = end_ns - timing->layers[ahead->layer_index].part_ns;
        ahead->end_ns = end_ns;
        timing->copy_ns = later(timing->copy_ns, end_ns);
    }
    for (uint32_t i = begun; i < parts; i++)
        engine_cancel(timing->link, ahead->part[i]);
    ahead->begun_at_most = begun;
    return parts - begun;
}

static Status hand_over(Timing *timing, AheadTime *ahead)
{
    uint64_t free_ns;
    uint64_t begun_ns = timing->host_ns;
    TRY(advance(timing, begun_ns));
    uint32_t rest = take_back(timing, ahead);
    ahead->handed = true;
    if (rest == 0)
        return OK;
    TRY(link_free(timing, &free_ns));
    if (!timing->one_thread)
        timing->host_ns += timing->issue_load_ns;
    uint64_t start_ns = later(free_ns + timing->gap_ns, begun_ns + timing->lag_ns);
    if (ahead->begun_at_most == 0)
        ahead->start_ns = start_ns;
    ahead->begun_at_most += rest;
    ahead->end_ns = start_ns + rest * timing->layers[ahead->layer_index].part_ns;
    return link_take(timing, free_ns, ahead->end_ns);
}

Status link_take_over(Timing *timing, const PrefetchTime *prefetch, uint64_t *end_ns)
{
    AheadTime *ahead = &timing->ahead[prefetch->number];
    TRY(hand_over(timing, ahead));
    *end_ns = ahead->end_ns;
    return OK;
}

Status link_forget(Timing *timing, const PrefetchTime *prefetch)
{
    AheadTime *ahead = &timing->ahead[prefetch->number];
    TRY(advance(timing, timing->host_ns));
    take_back(timing, ahead);
    timing->out.prefetches_cancelled += ahead->begun_at_most == 0;
    return OK;
}

Status link_pass(Timing *timing, uint32_t layer_index)
{
    uint64_t end_ns;
    const LayerTime *layer = &timing->layers[layer_index];
    TRY(advance(timing, timing->host_ns));
    for (uint32_t i = timing->first_ahead; i < timing->n_ahead && !timing->holds_all; i++) {
        AheadTime *ahead = &timing->ahead[i];
        if (ahead->layer_index != layer_index || is_over(ahead) || ahead->ended > 0 ||
            is_running(timing, ahead, &end_ns))
            continue;
        take_back(timing, ahead);
        layer->prefetch[ahead->expert] = (PrefetchTime){.is_owed = true};
        timing->out.prefetches_cancelled++;
    }
    return OK;
}

bool link_is_busy(Timing *timing)
{
    uint64_t end_ns = timing->copy_ns;
    for (uint32_t i = timing->first_ahead; i < timing->n_ahead; i++) {
        const AheadTime *ahead = &timing->ahead[i];
        uint64_t part_ns = timing->layers[ahead->layer_index].part_ns;
        if (!is_over(ahead))
            end_ns =
                later(end_ns, timing->host_ns) + (ahead->begun_at_most - ahead->ended) * part_ns;
    }
    return end_ns > timing->gpu_ns;
}

/* Whether one of N parts is copied at AT_NS, the first of which the host begins at FROM_NS, each
 * other one when the one before is over. */
static bool is_copied(const Timing *timing, uint64_t from_ns, uint64_t n, uint64_t part_ns,
                      uint64_t at_ns)
{
    uint64_t ns = timing->lag_ns + part_ns;
    return at_ns >= from_ns && at_ns < from_ns + n * ns && (at_ns - from_ns) % ns >= timing->lag_ns;
}

bool link_copies(Timing *timing, uint64_t at_ns)
{
    uint64_t free_ns = timing->copy_ns;
    bool copies = at_ns < free_ns;
    for (uint32_t i = timing->first_ahead; i < timing->n_ahead && !copies; i++) {
        const AheadTime *ahead = &timing->ahead[i];
        uint64_t part_ns = timing->layers[ahead->layer_index].part_ns;
        uint64_t ns = timing->lag_ns + part_ns;
        uint32_t n = ahead->begun_at_most - ahead->ended;
        uint64_t end_ns;
        if (is_over(ahead))
            continue;
        if (is_running(timing, ahead, &end_ns)) {
            copies = is_copied(timing, end_ns - ns, 1, part_ns, at_ns);
            free_ns = later(free_ns, end_ns);
            n--;
        }
        uint64_t from_ns = later(free_ns, engine_now(timing->link));
        copies = copies || is_copied(timing, from_ns, n, part_ns, at_ns);
        free_ns = from_ns + n * ns;
    }
    return copies;
}

bool link_is_awaited(Timing *timing)
{
    uint64_t end_ns;
    if (timing->link == NULL)
        return false;
    while (timing->first_ahead < timing->n_ahead && is_over(&timing->ahead[timing->first_ahead]))
        timing->first_ahead++;
    if (timing->first_ahead == timing->n_ahead)
        return false;
    const AheadTime *last = &timing->ahead[timing->n_ahead - 1];
    return is_over(last) ||
           !engine_begun(timing->link, last->part[last->begun_at_most - 1], &end_ns);
}

Status link_end_step(Timing *timing)
{
    for (uint32_t i = 0; i < timing->n_ahead; i++) {
        AheadTime *ahead = &timing->ahead[i];
        uint32_t layer_index = ahead->layer_index;
        uint32_t parts = timing->layers[layer_index].parts;
        if (!is_over(ahead))
            TRY(hand_over(timing, ahead));
        if (ahead->begun_at_most == 0)
            continue;
        uint64_t bytes =
            timing->options.layers[layer_index].expert_bytes * ahead->begun_at_most / parts;
        uint64_t ns = ahead->end_ns - ahead->start_ns;
        timing->prefetched_ns = later(timing->prefetched_ns, ahead->end_ns);
        timing->out.loads++;
        timing->timed_loads++;
        timing->out.load_ns += ns;
        timing->out.bytes_loaded += bytes;
        if (!timing->options.records)
            continue;
        ResidencyRecord *record = &timing->residency[ahead->record];
        record->bytes = bytes;
        record->start_ns = ahead->start_ns;
        record->duration_ns = ns;
    }
    return OK;
}
