#include "exec/routing_source.h"

#include <stdlib.h>
#include <string.h>

#include "exec/routing_skew.h"
#include "exec/routing_tile.h"

/* Bytes of draws that are made ahead at the most. */
enum { MOST_AHEAD = 64 << 20 };

/* What was drawn ahead for a request: per token what it has in each layer, [top_k], so that who
 * takes one token reads one place. */
typedef struct {
    const uint16_t *experts;
    uint32_t length;
} DrawnAhead;

/* What there is of a layer for each token, side by side: the layers themselves lie far apart. */
typedef struct {
    Stack stack;
    uint32_t top_k;
} LayerChoices;

struct RoutingSource {
    const TraceLayer *layers;
    uint32_t n_layers;
    bool tiled;
    RoutingSkew skew;
    RoutingTile tile;
    DrawnAhead *ahead; /* [n_ahead] by request */
    uint32_t n_ahead;
    uint16_t *drawn;       /* all of them */
    LayerChoices *choices; /* [n_layers] */
    size_t of_token;       /* entries of all layers */
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

static Status note_choices(RoutingSource *source)
{
    TRY(mem_new(&source->choices, source->n_layers, sizeof *source->choices, "routing"));
    for (uint32_t l = 0; l < source->n_layers; l++) {
        source->choices[l] = (LayerChoices){source->layers[l].stack, source->layers[l].top_k};
        source->of_token += source->layers[l].top_k;
    }
    return OK;
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
    Status status = note_choices(made);
    if (status == OK)
        status = open_kind(text, seed, made);
    if (status == OK)
        *source = made;
    else
        routing_source_close(made);
    return status;
}

static void forget_drawn(RoutingSource *source)
{
    mem_free(source->ahead);
    mem_free(source->drawn);
    source->ahead = NULL;
    source->drawn = NULL;
    source->n_ahead = 0;
}

void routing_source_close(RoutingSource *source)
{
    if (source == NULL)
        return;
    routing_skew_close(&source->skew);
    routing_tile_close(&source->tile);
    forget_drawn(source);
    mem_free(source->choices);
    mem_free(source);
}

/* One token of layer number L. */
static void take(const RoutingSource *source, uint32_t l, uint32_t request, uint32_t position,
                 uint16_t *experts)
{
    if (source->tiled)
        routing_tile_take(&source->tile, l, request, position, experts);
    else
        routing_skew_draw(&source->skew, l, request, position, experts);
}

static void draw_request(const RoutingSource *source, uint32_t request, uint32_t length,
                         uint16_t *experts)
{
    for (uint32_t p = 0; p < length; p++)
        for (uint32_t l = 0; l < source->n_layers; experts += source->layers[l++].top_k)
            take(source, l, request, p, experts);
}

Status routing_source_draw_ahead(RoutingSource *source, const uint32_t *length, uint32_t n)
{
    const size_t of_token = source->of_token;
    size_t tokens = 0;
    uint32_t fit = 0;
    forget_drawn(source);
    for (; fit < n && (tokens + length[fit]) * of_token * sizeof(uint16_t) <= MOST_AHEAD; fit++)
        tokens += length[fit];
    TRY(mem_new(&source->ahead, (size_t)fit + 1, sizeof *source->ahead, "routing"));
    TRY(mem_new(&source->drawn, tokens * of_token + 1, sizeof *source->drawn, "routing"));
    uint16_t *drawn = source->drawn;
    for (uint32_t i = 0; i < fit; i++) {
        draw_request(source, i, length[i], drawn);
        source->ahead[i] = (DrawnAhead){drawn, length[i]};
        drawn += length[i] * of_token;
    }
    source->n_ahead = fit;
    return OK;
}

/* As memcpy() of K entries; the usual number without a call, as there are as many as a step has
 * tokens and layers. */
static inline void copy_choices(uint16_t *to, const uint16_t *from, size_t k)
{
    if (k == 8)
        memcpy(to, from, 8 * sizeof *to);
    else
        memcpy(to, from, k * sizeof *to);
}

/* What a token was drawn ahead, or NULL. */
static const uint16_t *find_drawn(const RoutingSource *source, uint32_t request, uint32_t position)
{
    if (request >= source->n_ahead || position >= source->ahead[request].length)
        return NULL;
    return source->ahead[request].experts + position * source->of_token;
}

/* Token by token, whose draws lie together, into the places that the layers have for it. */
void routing_source_fill(const RoutingSource *source, Stack stack, uint32_t tokens,
                         const uint32_t *request, const uint32_t *position, uint16_t *experts)
{
    for (uint32_t i = 0; i < tokens; i++) {
        const uint16_t *drawn = find_drawn(source, request[i], position[i]);
        uint16_t *to = experts;
        for (uint32_t l = 0; l < source->n_layers; l++) {
            size_t k = source->choices[l].top_k;
            if (source->choices[l].stack == stack) {
                if (drawn != NULL)
                    copy_choices(to + i * k, drawn, k);
                else
                    take(source, l, request[i], position[i], to + i * k);
                to += tokens * k;
            }
            drawn = drawn != NULL ? drawn + k : NULL;
        }
    }
}
