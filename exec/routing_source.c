#include "exec/routing_source.h"

#include <stdlib.h>
#include <string.h>

#include "exec/routing_skew.h"
#include "exec/routing_tile.h"

struct RoutingSource {
    const TraceLayer *layers;
    uint32_t n_layers;
    bool tiled;
    RoutingSkew skew;
    RoutingTile tile;
};

static const char ZIPF[] = "zipf:";
static const double MOST_S = 16;

/* The exponent that TEXT names, in *S. */
static bool is_skew(const char *text, double *s)
{
    char *end;
    *s = 0;
    if (strcmp(text, "uniform") == 0)
        return true;
    if (strncmp(text, ZIPF, sizeof ZIPF - 1) != 0 ||
        strspn(text + sizeof ZIPF - 1, "0123456789.") == 0)
        return false;
    *s = strtod(text + sizeof ZIPF - 1, &end);
    return *end == '\0' && *s >= 0 && *s <= MOST_S;
}

/* The file of "trace:FILE", or NULL. */
static const char *traced_file(const char *text)
{
    static const char TRACE[] = "trace:";
    size_t length = sizeof TRACE - 1;
    return strncmp(text, TRACE, length) == 0 && text[length] != '\0' ? text + length : NULL;
}

bool routing_source_is_known(const char *text)
{
    double s;
    return is_skew(text, &s) || traced_file(text) != NULL;
}

static Status open_kind(const char *text, uint64_t seed, RoutingSource *source)
{
    const char *file = traced_file(text);
    double s;
    source->tiled = file != NULL;
    if (source->tiled)
        return routing_tile_open(file, source->layers, source->n_layers, &source->tile);
    if (is_skew(text, &s))
        return routing_skew_open(s, source->layers, source->n_layers, seed, &source->skew);
    return fail(ERR_USAGE,
                "routing: '%s', allowed are gate, uniform, zipf:S (S from 0 to %.0f) and "
                "trace:FILE",
                text, MOST_S);
}

Status routing_source_open(const char *text, const TraceLayer *layers, uint32_t n_layers,
                           uint64_t seed, RoutingSource **source)
{
    RoutingSource *made;
    *source = NULL;
    if (text == NULL || strcmp(text, "gate") == 0)
        return OK;
    TRY(mem_new(&made, 1, sizeof *made, "routing"));
    *made = (RoutingSource){.layers = layers, .n_layers = n_layers};
    Status status = open_kind(text, seed, made);
    if (status == OK)
        *source = made;
    else
        routing_source_close(made);
    return status;
}

void routing_source_close(RoutingSource *source)
{
    if (source == NULL)
        return;
    routing_skew_close(&source->skew);
    routing_tile_close(&source->tile);
    mem_free(source);
}

void routing_source_fill(const RoutingSource *source, Stack stack, uint32_t tokens,
                         const uint32_t *request, const uint32_t *position, uint16_t *experts)
{
    for (uint32_t l = 0; l < source->n_layers; l++) {
        const TraceLayer *layer = &source->layers[l];
        if (layer->stack != stack)
            continue;
        for (uint32_t i = 0; i < tokens; i++, experts += layer->top_k)
            if (source->tiled)
                routing_tile_take(&source->tile, l, request[i], position[i], experts);
            else
                routing_skew_draw(&source->skew, l, request[i], position[i], experts);
    }
}
