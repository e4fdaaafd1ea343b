/* Experts: steps whose routing is forced, so that so many experts have so many rows each. */

#include "base/numbers.h"
#include "exec/calibrate_parts.h"

enum { EXPERT_REPEATS = 5, EXPERT_QUICK_REPEATS = 3, MOST_ROWS = 1 << 17 };

/* The rows of expert I of ACTIVE that share ROWS, where the first has FIRST of them. */
static uint32_t rows_of(uint32_t i, uint32_t active, uint32_t rows, uint32_t first)
{
    if (i == 0)
        return first;
    uint32_t left = rows - first;
    return left / (active - 1) + (i - 1 < left % (active - 1));
}

/* How the rows of a step fall on the experts that take part. */
typedef struct {
    uint32_t tokens;
    uint32_t rows;
    uint32_t active;
    uint32_t first; /* rows of the first expert, the others share the rest; 0: as below */
    /* The expert in place I gets rows in proportion to 1 / I, as far as none has more than there
     * are tokens, and each has one. */
    uint32_t left;
    double weight;   /* of those from the next one on */
    uint32_t stride; /* between the ids of one place and the next */
} Shares;

/* Rows of the first of ACTIVE experts: its even share, or as many as SKEW asks for, and always so
 * many that none has more rows than there are tokens, and each has one. */
static uint32_t first_rows(uint32_t tokens, uint32_t top_k, uint32_t active, double skew)
{
    uint32_t rows = tokens * top_k;
    uint32_t even = (rows + active - 1) / active;
    uint32_t wanted = even + (uint32_t)(skew * (tokens - even));
    return rows - wanted < active - 1 ? rows - (active - 1) : wanted;
}

/* How rows are shared; SKEW as in calibration_force(), where it says anything. */
typedef Shares (*Sharing)(uint32_t tokens, uint32_t top_k, uint32_t active, double skew);

static Shares zipf_shares(uint32_t tokens, uint32_t top_k, uint32_t active, double skew)
{
    (void)skew;
    Shares shares = {.tokens = tokens, .rows = tokens * top_k, .active = active};
    shares.left = shares.rows;
    for (uint32_t i = 0; i < active; i++)
        shares.weight += 1.0 / (i + 1);
    for (shares.stride = active / 2 + 1; greatest_common_divisor(shares.stride, active) > 1;)
        shares.stride++;
    return shares;
}

static Shares steep_shares(uint32_t tokens, uint32_t top_k, uint32_t active, double skew)
{
    return (Shares){.tokens = tokens,
                    .rows = tokens * top_k,
                    .active = active,
                    .first = active == 1 ? tokens * top_k : first_rows(tokens, top_k, active, skew),
                    .stride = 1};
}

/* Rows of expert I; asked for one after the other. */
static uint32_t take_share(Shares *shares, uint32_t i)
{
    if (shares->first > 0)
        return rows_of(i, shares->active, shares->rows, shares->first);
    uint64_t others = shares->active - i - 1;
    uint64_t most = shares->left - others < shares->tokens ? shares->left - others : shares->tokens;
    uint64_t room = others * shares->tokens;
    uint64_t least = shares->left > room + 1 ? shares->left - room : 1;
    uint64_t n = (uint64_t)(shares->left / shares->weight / (i + 1) + 0.5);
    n = n > most ? most : n < least ? least : n;
    shares->left -= (uint32_t)n;
    shares->weight -= 1.0 / (i + 1);
    return (uint32_t)n;
}

/* Deals the rows of the experts to the tokens one after the other: as none has more rows than there
 * are tokens, a token never gets an expert twice. */
static void deal(const TraceLayer *layer, Shares shares, uint32_t first_expert, uint16_t *experts)
{
    uint32_t tokens = shares.tokens;
    uint32_t row = 0;
    for (uint32_t i = 0; i < shares.active; i++) {
        uint32_t n = take_share(&shares, i);
        /* Spread over all experts, others in each layer. */
        uint64_t place = (uint64_t)i * shares.stride % shares.active;
        uint64_t spread = place * layer->experts / shares.active;
        uint32_t expert = (uint32_t)((spread + layer->layer * 7 + first_expert) % layer->experts);
        for (uint32_t r = 0; r < n; r++, row++)
            experts[(size_t)(row % tokens) * layer->top_k + row / tokens] = (uint16_t)expert;
    }
}

/* The mean cost_load_of() of an expert. */
static double mean_load(Shares shares)
{
    double load = 0;
    for (uint32_t i = 0; i < shares.active; i++)
        load += cost_load_of(take_share(&shares, i));
    return load / shares.active;
}

/* See cost_unevenness(). */
static double unevenness_of(Shares shares)
{
    double squares = 0;
    for (uint32_t i = 0; i < shares.active; i++) {
        double rows = take_share(&shares, i);
        squares += rows * rows;
    }
    return cost_unevenness(shares.active, shares.rows, squares);
}

/* Forces the routing of all layers of STACK; the shares of the last, nobody's where it has none. */
static Shares force(Calibration *c, Stack stack, uint32_t tokens, uint32_t active, Sharing share,
                    double skew)
{
    ForcedLayer at = forced_layers(c, stack, tokens);
    Shares shares = {0};
    while (forced_next(&at)) {
        uint32_t most = active < at.n_ids ? active : (uint32_t)at.n_ids;
        shares = share(tokens, at.layer->top_k, most, skew);
        deal(at.layer, shares, c->first_expert, at.experts);
    }
    return shares;
}

double calibration_force(Calibration *c, Stack stack, uint32_t tokens, uint32_t active, double skew)
{
    const Shares shares = force(c, stack, tokens, active, steep_shares, skew);
    return shares.active > 0 ? mean_load(shares) : 1;
}

double calibration_force_zipf(Calibration *c, Stack stack, uint32_t tokens, uint32_t active)
{
    const Shares shares = force(c, stack, tokens, active, zipf_shares, 0);
    return shares.active > 0 ? unevenness_of(shares) : 0;
}

/* The most requests that TOKENS can be shared among evenly. */
static uint32_t requests_for(const Calibration *c, uint32_t tokens)
{
    uint32_t requests = tokens < c->max_requests ? tokens : c->max_requests;
    while (tokens % requests != 0)
        requests--;
    return requests;
}

/* Steps of TOKENS whose routing is C->forced. */
static Status measure_forced(Calibration *c, uint32_t tokens, StepMeasured *measured)
{
    uint32_t requests = requests_for(c, tokens);
    uint32_t repeats = c->options->quick ? EXPERT_QUICK_REPEATS : EXPERT_REPEATS;
    const StepKind kind = {
        .requests = requests, .tokens = tokens / requests, .forced = true, .stamped_only = true};
    return calibration_measure(c, &kind, repeats, measured);
}

/* What the experts of the first layer that has any took, with the stamp. */
static double experts_ns(const Calibration *c, const StepMeasured *measured, const char **shape)
{
    double spread;
    for (uint32_t i = 0; i < measured->n_ops; i++)
        if (measured->ops[i].op == OP_EXPERTS) {
            *shape = c->shape[i];
            return calibration_cost(c, c->op_ns, measured, i, &spread);
        }
    return 0;
}

static Status measure_place(Calibration *c, uint32_t tokens, uint32_t active, double skew,
                            bool route, double *ns)
{
    StepMeasured measured;
    const char *shape;
    if (calibration_only_counts(c))
        return OK;
    double load = calibration_force(c, STACK_DECODER, tokens, active, skew);
    double rows = (double)tokens * c->config->max_top_k / active;
    TRY(measure_forced(c, tokens, &measured));
    *ns = experts_ns(c, &measured, &shape);
    if (route)
        TRY(calibration_note_forced(c, &measured, tokens));
    return calibration_note_experts(c, &measured, active, rows, load);
}

/* What it adds to EVEN_NS that few of the experts have most of the rows. */
static Status measure_zipf(Calibration *c, uint32_t tokens, uint32_t active, double even_ns)
{
    static const char *const AXES[] = {"active", "rows"};
    const double at[] = {active, (double)tokens * c->config->max_top_k / active};
    StepMeasured measured;
    const char *shape = "";
    if (calibration_only_counts(c))
        return OK;
    double unevenness = calibration_force_zipf(c, STACK_DECODER, tokens, active);
    TRY(measure_forced(c, tokens, &measured));
    double added_ns = experts_ns(c, &measured, &shape) - even_ns;
    TRY(calibration_note_forced(c, &measured, tokens));
    TRY(calibration_note(c, "uneven/experts", shape, UNIT_NS, AXES, 2, at, added_ns, 0));
    return calibration_note(c, "unevenness", shape, UNIT_FACTOR, AXES, 2, at, unevenness, 0);
}

/* ACTIVE experts of as many rows as TOKENS give; unevenly, too, where that makes a difference. */
static Status measure_tokens(Calibration *c, uint32_t tokens, uint32_t active)
{
    uint32_t top_k = c->config->max_top_k;
    bool falls = tokens * top_k >= 2 * active; /* rows do, as where a router is forced */
    double even_ns = 0;
    double ns;
    if (tokens / requests_for(c, tokens) > c->max_length)
        return OK;
    TRY(measure_place(c, tokens, active, 0, !falls, &even_ns));
    double even = mean_load(steep_shares(tokens, top_k, active, 0));
    double steep = mean_load(steep_shares(tokens, top_k, active, 1));
    if (falls)
        TRY(measure_zipf(c, tokens, active, even_ns));
    return steep > even * 1.001 ? measure_place(c, tokens, active, 1, false, &ns) : OK;
}

/* Rows that each of ACTIVE experts has, from 1 on. */
static Status measure_active(Calibration *c, uint32_t active)
{
    static const double ROWS[] = {1,  1.5, 2,   3,   4,   6,   8,   16,  32,
                                  64, 96,  128, 192, 256, 384, 512, 1024};
    static const double QUICK_ROWS[] = {1, 2, 4, 16};
    const double *rows = c->options->quick ? QUICK_ROWS : ROWS;
    size_t n = c->options->quick ? COUNT(QUICK_ROWS) : COUNT(ROWS);
    uint32_t top_k = c->config->max_top_k;
    uint32_t before = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t tokens = (uint32_t)(rows[i] * active / top_k);
        if (tokens == before || tokens == 0 || tokens > c->max_tokens ||
            tokens * top_k > MOST_ROWS || tokens * top_k < active)
            continue;
        before = tokens;
        TRY(measure_tokens(c, tokens, active));
    }
    return OK;
}

/* Forced routing takes MoE layers to be alike. */
static Status check_layers(const Calibration *c)
{
    const ModelConfig *config = c->config;
    for (uint32_t i = 0; i < config->n_layers; i++)
        if (config->layers[i].moe && (config->layers[i].experts != config->max_experts ||
                                      config->layers[i].top_k != config->max_top_k))
            return fail(ERR_UNSUPPORTED,
                        "%s: layer %u has %u experts and top %u, another has %u and top %u: such "
                        "models cannot be calibrated",
                        c->model, i, config->layers[i].experts, config->layers[i].top_k,
                        config->max_experts, config->max_top_k);
    return OK;
}

/* Few rows for ACTIVE experts: those of as few tokens as have so many, and of more. */
static Status measure_few_rows(Calibration *c, uint32_t active)
{
    static const uint32_t TIMES[] = {1, 4};
    uint32_t top_k = c->config->max_top_k;
    uint32_t least = (active + top_k - 1) / top_k;
    double ns;
    for (size_t i = 0; i < COUNT(TIMES); i++)
        if (least * TIMES[i] <= c->max_tokens)
            TRY(measure_place(c, least * TIMES[i], active, 0, false, &ns));
    return OK;
}

/* Experts of few rows are computed in waves, which the multiprocessors begin together: what one
 * more costs is not what the last one did. */
static Status measure_waves(Calibration *c)
{
    enum { EACH = 32 };
    uint32_t step = 1;
    if (c->options->quick || calibration_runs_at_once(c))
        return OK;
    for (uint32_t active = c->config->max_top_k; active < c->config->max_experts; active += step) {
        TRY(measure_few_rows(c, active));
        step = active < EACH ? 1 : 4;
    }
    return OK;
}

Status calibrate_experts(Calibration *c)
{
    uint32_t top_k = c->config->max_top_k;
    uint32_t experts = c->config->max_experts;
    if (c->config->n_moe_layers == 0)
        return OK;
    TRY(check_layers(c));
    for (uint32_t active = top_k; active < experts;) {
        TRY(measure_active(c, active));
        active += active < 4 * top_k ? top_k : active / 2;
    }
    TRY(measure_active(c, experts));
    return measure_waves(c);
}
