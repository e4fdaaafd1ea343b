#include "sim/place_statistics.h"

#include <math.h>

#include "base/memory.h"

/* Sums over events, of one layer after the other. */
typedef struct {
    uint64_t *events;  /* [n_layers] */
    double **sums;     /* [n_layers][experts] of shares; where the loads will be */
    double **products; /* [n_layers][experts][experts] of shares of two, of which half is used;
                          where the correlations will be. NULL where these are not wanted */
} Sums;

static Status make_sums(const PackedTrace *trace, bool correlated, Sums *sums,
                        PlaceStatistics *statistics)
{
    size_t experts = 0;
    size_t pairs = 0;
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        experts += trace->layers[i].experts;
        pairs += (size_t)trace->layers[i].experts * trace->layers[i].experts;
    }
    TRY(mem_new(&sums->events, trace->n_layers, sizeof *sums->events, "placement"));
    TRY(mem_new(&sums->sums, trace->n_layers, sizeof(double *), "placement"));
    TRY(mem_new(&sums->products, trace->n_layers, sizeof(double *), "placement"));
    TRY(mem_new(&statistics->layers, trace->n_layers, sizeof *statistics->layers, "placement"));
    TRY(mem_new(&statistics->load, experts, sizeof(double), "placement"));
    if (correlated)
        TRY(mem_new(&statistics->correlation, pairs, sizeof(double), "placement"));
    double *load = statistics->load;
    double *pair = statistics->correlation;
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        size_t n = trace->layers[i].experts;
        statistics->layers[i] = (LayerLoad){.load = load, .correlation = pair};
        sums->sums[i] = load;
        sums->products[i] = pair;
        load += n;
        pair = correlated ? pair + n * n : NULL;
    }
    return OK;
}

/* SHARES[n] of EXPERTS[n], ascending. */
static void add_event(Sums *sums, uint32_t layer, uint32_t n_experts, const uint16_t *experts,
                      const double *shares, uint32_t n)
{
    sums->events[layer]++;
    for (uint32_t i = 0; i < n; i++)
        sums->sums[layer][experts[i]] += shares[i];
    if (sums->products[layer] == NULL)
        return;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i; j < n; j++)
            sums->products[layer][(size_t)experts[i] * n_experts + experts[j]] +=
                shares[i] * shares[j];
}

static void add_events(const PackedTrace *trace, Sums *sums, double *shares)
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    while (packed_next(&cursor, &event)) {
        const uint8_t *at = event.counts;
        double all = 0;
        for (uint32_t i = 0; i < event.n_active; i++) {
            shares[i] = packed_event_count(&at);
            all += shares[i];
        }
        for (uint32_t i = 0; i < event.n_active; i++)
            shares[i] /= all;
        if (event.n_active > 0)
            add_event(sums, event.layer_index, trace->layers[event.layer_index].experts,
                      event.experts, shares, event.n_active);
    }
}

/* Turns the sums of one layer into means and correlations, where they lie. */
static void finish_layer(uint64_t events, uint32_t n, double *sum, double *product)
{
    double count = events > 0 ? (double)events : 1;
    for (uint32_t i = 0; i < n; i++)
        sum[i] /= count;
    if (product == NULL)
        return;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = i; j < n; j++)
            product[(size_t)i * n + j] = product[(size_t)i * n + j] / count - sum[i] * sum[j];
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i + 1; j < n; j++) {
            double *covariance = &product[(size_t)i * n + j];
            double spread = product[(size_t)i * n + i] * product[(size_t)j * n + j];
            /* What is left of rounding counts as no spread: shares are 1 at most. */
            *covariance = spread > 1e-28 ? *covariance / sqrt(spread) : 0;
            product[(size_t)j * n + i] = *covariance;
        }
    for (uint32_t i = 0; i < n; i++)
        product[(size_t)i * n + i] = product[(size_t)i * n + i] > 1e-14 ? 1 : 0;
}

Status place_statistics(const PackedTrace *trace, bool correlated, PlaceStatistics *statistics)
{
    Sums sums = {0};
    double *shares = NULL;
    *statistics = (PlaceStatistics){0};
    Status status = make_sums(trace, correlated, &sums, statistics);
    if (status == OK)
        status = mem_new(&shares, (size_t)trace->max_active + 1, sizeof *shares, "placement");
    if (status == OK) {
        add_events(trace, &sums, shares);
        for (uint32_t i = 0; i < trace->n_layers; i++)
            finish_layer(sums.events[i], trace->layers[i].experts, sums.sums[i], sums.products[i]);
    } else {
        place_statistics_free(statistics);
    }
    mem_free(shares);
    mem_free(sums.products);
    mem_free(sums.sums);
    mem_free(sums.events);
    return status;
}

void place_statistics_free(PlaceStatistics *statistics)
{
    mem_free(statistics->correlation);
    mem_free(statistics->load);
    mem_free(statistics->layers);
    *statistics = (PlaceStatistics){0};
}
