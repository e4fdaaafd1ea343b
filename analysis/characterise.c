#include "analysis/characterise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

const uint32_t REUSE_WITHIN[REUSE_WITHINS] = {1, 4, 16, 64};

/* One layer while its events are counted. */
typedef struct {
    uint32_t experts;
    uint64_t events;
    uint64_t lookups;
    uint64_t first_lookups; /* of the first event */
    uint64_t again;
    uint64_t reuses;
    uint64_t reuse_events; /* sum */
    uint64_t within[REUSE_WITHINS];
    uint64_t rows;         /* static gating's, sum over events of experts x the fullest one's */
    uint64_t *assignments; /* [experts] */
    uint64_t *needed;      /* [experts] events */
    uint64_t *last;        /* [experts] number of the last event that needed it, from 1; 0: none */
    uint32_t *together; /* [experts][experts] events that needed both, first below second; NULL */
} Counts;

static Status counts_new(const TraceLayer *layer, Counts *counts)
{
    uint32_t n = layer->experts;
    counts->experts = n;
    TRY(mem_new(&counts->assignments, n, sizeof *counts->assignments, "analysis"));
    TRY(mem_new(&counts->needed, n, sizeof *counts->needed, "analysis"));
    TRY(mem_new(&counts->last, n, sizeof *counts->last, "analysis"));
    if (n > CORRELATED_EXPERTS)
        return OK;
    return mem_new(&counts->together, (size_t)n * n, sizeof *counts->together, "analysis");
}

static void counts_free(Counts *counts)
{
    mem_free(counts->together);
    mem_free(counts->last);
    mem_free(counts->needed);
    mem_free(counts->assignments);
}

static void count_pairs(Counts *counts, const PackedEvent *event)
{
    for (uint32_t i = 0; i < event->n_active && counts->together != NULL; i++) {
        uint32_t *row = counts->together + (size_t)event->experts[i] * counts->experts;
        for (uint32_t j = i + 1; j < event->n_active; j++)
            row[event->experts[j]]++;
    }
}

static void count_reuse(Counts *counts, uint32_t expert)
{
    uint64_t last = counts->last[expert];
    counts->last[expert] = counts->events;
    if (last == 0)
        return;
    uint64_t distance = counts->events - last;
    counts->again += distance == 1;
    counts->reuses++;
    counts->reuse_events += distance;
    for (int i = 0; i < REUSE_WITHINS; i++)
        counts->within[i] += distance <= REUSE_WITHIN[i];
}

static void count_event(Counts *counts, const PackedEvent *event)
{
    const uint8_t *at = event->counts;
    uint32_t fullest = 0;
    if (event->n_active == 0)
        return;
    counts->events++;
    counts->lookups += event->n_active;
    if (counts->events == 1)
        counts->first_lookups = event->n_active;
    for (uint32_t i = 0; i < event->n_active; i++) {
        uint32_t expert = event->experts[i];
        uint32_t tokens = packed_event_count(&at);
        counts->assignments[expert] += tokens;
        counts->needed[expert]++;
        fullest = tokens > fullest ? tokens : fullest;
        count_reuse(counts, expert);
    }
    counts->rows += (uint64_t)fullest * counts->experts;
    count_pairs(counts, event);
}

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static int descending(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left;
    uint64_t b = *(const uint64_t *)right;
    return a > b ? -1 : a < b;
}

/* Pearson's r of two experts' being needed, over all events. */
static double correlation(const Counts *counts, uint32_t a, uint32_t b)
{
    double n = (double)counts->events;
    double both = counts->together[(size_t)a * counts->experts + b];
    double n_a = (double)counts->needed[a];
    double n_b = (double)counts->needed[b];
    return (n * both - n_a * n_b) / sqrt(n_a * (n - n_a) * n_b * (n - n_b));
}

static bool varies(const Counts *counts, uint32_t expert)
{
    return counts->needed[expert] > 0 && counts->needed[expert] < counts->events;
}

static void tell_correlation(const Counts *counts, LayerCharacter *layer)
{
    double sum = 0;
    for (uint32_t a = 0; a < counts->experts && counts->together != NULL; a++)
        for (uint32_t b = a + 1; b < counts->experts; b++) {
            if (!varies(counts, a) || !varies(counts, b))
                continue;
            double r = correlation(counts, a, b);
            sum += fabs(r);
            if (layer->pairs++ == 0 || r > layer->most_correlation) {
                layer->most_correlation = r;
                layer->most_pair[0] = a;
                layer->most_pair[1] = b;
            }
        }
    layer->correlation = share(sum, (double)layer->pairs);
}

/* Hands the assignments on to LAYER, and sorts a copy of them. */
static Status tell_skew(Counts *counts, LayerCharacter *layer)
{
    double squares = 0;
    uint64_t busiest = 0;
    uint64_t *sorted;
    TRY(mem_new(&sorted, counts->experts, sizeof *sorted, "analysis"));
    memcpy(sorted, counts->assignments, counts->experts * sizeof *sorted);
    qsort(sorted, counts->experts, sizeof *sorted, descending);
    for (uint32_t i = 0; i < counts->experts; i++) {
        uint64_t n = sorted[i];
        layer->assignments += n;
        layer->used += n > 0;
        squares += (double)n * (double)n;
        busiest += i < (counts->experts + 9) / 10 ? n : 0;
    }
    double sum = (double)layer->assignments;
    layer->busiest_tenth = share((double)busiest, sum);
    layer->effective_experts = share(sum * sum, squares);
    mem_free(sorted);
    layer->load = counts->assignments;
    counts->assignments = NULL;
    return OK;
}

static void tell_times(const Counts *counts, LayerCharacter *layer)
{
    layer->events = counts->events;
    layer->lookups = counts->lookups;
    layer->active =
        share((double)counts->lookups, (double)counts->events * (double)counts->experts);
    layer->again = share((double)counts->again, (double)(counts->lookups - counts->first_lookups));
    layer->reuses = counts->reuses;
    layer->reuse_events = share((double)counts->reuse_events, (double)counts->reuses);
    for (int i = 0; i < REUSE_WITHINS; i++)
        layer->reuse_within[i] = share((double)counts->within[i], (double)counts->reuses);
}

static Status tell_layer(Counts *counts, LayerCharacter *layer)
{
    tell_times(counts, layer);
    tell_correlation(counts, layer);
    TRY(tell_skew(counts, layer));
    layer->waste_factor = share((double)counts->rows, (double)layer->assignments);
    return OK;
}

/* Means over the layers are by what each has of it. */
static void tell_total(const Counts *counts, Character *character)
{
    LayerCharacter *total = &character->total;
    Counts sum = {0};
    double slots = 0;
    for (uint32_t i = 0; i < character->n_layers; i++) {
        const LayerCharacter *layer = &character->layers[i];
        total->assignments += layer->assignments;
        total->busiest_tenth += layer->busiest_tenth * (double)layer->assignments;
        total->effective_experts += layer->effective_experts * (double)layer->assignments;
        slots += (double)counts[i].events * counts[i].experts;
        sum.events += counts[i].events;
        sum.lookups += counts[i].lookups;
        sum.first_lookups += counts[i].first_lookups;
        sum.again += counts[i].again;
        sum.reuses += counts[i].reuses;
        sum.reuse_events += counts[i].reuse_events;
        sum.rows += counts[i].rows;
        for (int j = 0; j < REUSE_WITHINS; j++)
            sum.within[j] += counts[i].within[j];
    }
    tell_times(&sum, total);
    total->active = share((double)sum.lookups, slots);
    total->busiest_tenth = share(total->busiest_tenth, (double)total->assignments);
    total->effective_experts = share(total->effective_experts, (double)total->assignments);
    total->waste_factor = share((double)sum.rows, (double)total->assignments);
}

static Status count_all(const PackedTrace *trace, int phase, Counts *counts, Character *character)
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    for (uint32_t i = 0; i < trace->n_layers; i++)
        TRY(counts_new(&trace->layers[i], &counts[i]));
    while (packed_next(&cursor, &event))
        if (phase == ALL_PHASES || (int)event.phase == phase)
            count_event(&counts[event.layer_index], &event);
    for (uint32_t i = 0; i < trace->n_layers; i++)
        TRY(tell_layer(&counts[i], &character->layers[i]));
    tell_total(counts, character);
    return OK;
}

Status characterise(const PackedTrace *trace, int phase, Character *character)
{
    Counts *counts;
    *character = (Character){.n_layers = trace->n_layers};
    TRY(mem_new(&character->layers, trace->n_layers, sizeof *character->layers, "analysis"));
    Status status = mem_new(&counts, trace->n_layers, sizeof *counts, "analysis");
    if (status == OK) {
        status = count_all(trace, phase, counts, character);
        for (uint32_t i = 0; i < trace->n_layers; i++)
            counts_free(&counts[i]);
        mem_free(counts);
    }
    if (status != OK)
        character_free(character);
    return status;
}

void character_free(Character *character)
{
    for (uint32_t i = 0; i < character->n_layers && character->layers != NULL; i++)
        mem_free(character->layers[i].load);
    mem_free(character->layers);
    *character = (Character){0};
}

double character_needed(const LayerCharacter *layer)
{
    return layer->events > 0 ? (double)layer->lookups / (double)layer->events : 0;
}

void character_texts(const LayerCharacter *layer, char texts[CHARACTER_TEXTS][NUMBER_BYTES])
{
    number_text(layer->events, texts[0]);
    snprintf(texts[1], NUMBER_BYTES, "%.2f", character_needed(layer));
    snprintf(texts[2], NUMBER_BYTES, "%.4f", layer->active);
    snprintf(texts[3], NUMBER_BYTES, "%.4f", layer->busiest_tenth);
    snprintf(texts[4], NUMBER_BYTES, "%.1f", layer->effective_experts);
    snprintf(texts[5], NUMBER_BYTES, "%.4f", layer->again);
    snprintf(texts[6], NUMBER_BYTES, "%.2f", layer->reuse_events);
}
