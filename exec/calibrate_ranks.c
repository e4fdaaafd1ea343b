/* What ranks send one another, by how much the fullest of them receives.
 *
 * As in expert parallelism: every rank has as many assignments, of which a share goes to the
 * experts of each rank, the same share from all; afterwards results go back. Rank 0's share is SKEW
 * of what is a rank's mean one, and the others have equal shares of the rest. */
#include <stdio.h>

#include "base/clock.h"
#include "base/memory.h"
#include "exec/calibrate_parts.h"
#include "exec/ranks.h"

enum {
    LEAST_BYTES = 256,
    MOST_BYTES = 256 << 20,
    QUICK_MOST_BYTES = 16 << 20,
    SMALL_BYTES = 1 << 20, /* above, an exchange takes many times what one of nothing does */
    SMALL_TURNS = 16,      /* there and back */
    LARGE_TURNS = 3,
    ISSUE_BYTES = 64 << 10, /* up to there the host's time to queue one is measured */
    ROUNDS = 9,             /* that count */
    QUICK_ROUNDS = 3,
    ALIGNMENT = 16,
    BUFFER_ALIGNMENT = 256,
    FIRST_DELAYS = 4, /* copies that keep the GPU busy while the host queues, ... */
    MOST_DELAYS = 1024,
    DELAY_BYTES = 16 << 20, /* ... of so many bytes */
    MOST_ISSUES = 256,
    SIDE = 8192, /* of the matrix that is multiplied beside exchanges */
    QUICK_SIDE = 2048,
    MANY_ROWS = 2048,  /* of a product that arithmetic bounds; one row is bound by memory */
    WORK_NS = 2000000, /* that products last, about */
    MOST_PRODUCTS = 256,
    MOST_TURNS = 96,
    BESIDE_BYTES = 16 << 20,   /* of exchanges beside which products are measured */
    LEAST_BUSY_BYTES = 4 << 10 /* of those that are measured beside products, ... */
};

static const uint64_t MOST_BUSY_BYTES = 64 << 20; /* ... to these, by factors of four */

static const uint64_t LIMIT_NS = 60000000000; /* a rank that does not come by then is gone */

static const char *const AXES_OF_ALL[] = {"skew", "bytes"};
static const char *const BYTES_AXIS[] = {"bytes"};
static const char *const TOKENS_AXIS[] = {"tokens"};

typedef struct {
    const CalibrateOptions *options;
    Processes *processes;
    Ranks *ranks;
    unsigned char *send;
    unsigned char *receive;
    uint64_t most_bytes;
    uint64_t *there[2]; /* [ranks] bytes that this rank sends and receives before the experts */
    uint32_t delays;
    double issue_ns[MOST_ISSUES]; /* [n_issues] */
    uint32_t n_issues;
    Hardware *hardware;
    char shape[160];
} RankRig;

/* Exchanges, there and back, and products beside them; and what one of each took, the longest of
 * all ranks. */
typedef struct {
    uint32_t turns; /* two exchanges each; 0: none */
    uint32_t rows;
    uint32_t products; /* 0: none */
    double exchange_ns;
    double product_ns;
    double issue_ns; /* of the host, for an exchange */
} Round;

uint64_t calibrate_bytes_between(uint32_t ranks, uint32_t from, uint32_t to, double skew,
                                 uint64_t bytes)
{
    double most = (double)bytes / (ranks - 1);
    double other = most * (ranks - skew) / ((ranks - 1) * skew);
    if (from == to)
        return 0;
    return (uint64_t)((to == 0 ? most : other) / ALIGNMENT + 0.5) * ALIGNMENT;
}

size_t calibrate_bytes_room(uint32_t ranks, uint64_t bytes)
{
    uint64_t room = bytes + (uint64_t)(ranks - 1) * ALIGNMENT / 2;
    return (room + BUFFER_ALIGNMENT - 1) / BUFFER_ALIGNMENT * BUFFER_ALIGNMENT;
}

static void plan_exchange(RankRig *rig, double skew, uint64_t bytes)
{
    const Processes *all = rig->processes;
    for (uint32_t i = 0; i < all->count; i++) {
        rig->there[0][i] = calibrate_bytes_between(all->count, all->rank, i, skew, bytes);
        rig->there[1][i] = calibrate_bytes_between(all->count, i, all->rank, skew, bytes);
    }
}

static Status queue_exchange(const RankRig *rig, bool back)
{
    const AllToAll all = {.send = rig->send,
                          .send_bytes = rig->there[back],
                          .receive = rig->receive,
                          .receive_bytes = rig->there[!back]};
    return ranks_all_to_all(rig->ranks, &all);
}

static Status queue_products(const RankRig *rig, const Round *round)
{
    if (round->products == 0)
        return OK;
    TRY(ranks_order(rig->ranks));
    TRY(ranks_mark(rig->ranks, RANKS_PRODUCTS, 0));
    TRY(ranks_multiply(rig->ranks, round->rows, round->products));
    return ranks_mark(rig->ranks, RANKS_PRODUCTS, 1);
}

/* Queues all of a round while the GPU is busy, so that exchanges follow one another as fast as they
 * can: the one before the first mark ends on all ranks at the same time. */
static Status queue_round(const RankRig *rig, Round *round)
{
    for (uint32_t i = 0; i < rig->delays; i++)
        TRY(ranks_copy(rig->ranks, rig->receive, rig->send, DELAY_BYTES));
    TRY(queue_exchange(rig, false));
    TRY(queue_products(rig, round));
    TRY(ranks_mark(rig->ranks, RANKS_EXCHANGES, 0));
    uint64_t start_ns = clock_ns();
    for (uint32_t i = 0; i < 2 * round->turns; i++)
        TRY(queue_exchange(rig, i % 2 == 1));
    round->issue_ns = (double)(clock_ns() - start_ns) / (2 * round->turns + !round->turns);
    return ranks_mark(rig->ranks, RANKS_EXCHANGES, 1);
}

/* *LATE: the GPU did not wait for the host, but the host for the GPU or for another rank. */
static Status run_round(const RankRig *rig, Round *round, bool *late)
{
    round->exchange_ns = round->product_ns = 0;
    TRY(queue_round(rig, round));
    TRY(ranks_passed(rig->ranks, RANKS_EXCHANGES, 0, late));
    TRY(ranks_wait(rig->ranks));
    if (round->turns > 0)
        TRY(ranks_elapsed(rig->ranks, RANKS_EXCHANGES, &round->exchange_ns));
    if (round->products > 0)
        TRY(ranks_elapsed(rig->ranks, RANKS_PRODUCTS, &round->product_ns));
    round->exchange_ns /= 2 * round->turns + !round->turns;
    round->product_ns /= round->products + !round->products;
    return OK;
}

/* Again, with the GPU busy for longer, where a host was late. One rank that is to stop tells all at
 * the end of a round: alone it would let the others wait for the next. */
static Status measure_round(RankRig *rig, Round *round)
{
    const volatile int *stop = rig->options->stop;
    for (;;) {
        bool late = false;
        TRY(processes_agree(rig->processes, run_round(rig, round, &late)));
        double most[] = {round->exchange_ns, round->product_ns, round->issue_ns, late,
                         stop != NULL && *stop};
        TRY(processes_most(rig->processes, most, COUNT(most)));
        round->exchange_ns = most[0];
        round->product_ns = most[1];
        round->issue_ns = most[2];
        if (most[4] > 0)
            return processes_agree(rig->processes,
                                   fail(ERR_INTERRUPTED, "all-to-all: interrupted"));
        if (most[3] == 0 || rig->delays >= MOST_DELAYS)
            return OK;
        rig->delays *= 2;
    }
}

static uint32_t count_rounds(const RankRig *rig)
{
    return rig->options->quick ? QUICK_ROUNDS : ROUNDS;
}

static uint32_t turns_of(const RankRig *rig, uint64_t bytes)
{
    return bytes <= SMALL_BYTES && !rig->options->quick ? SMALL_TURNS : LARGE_TURNS;
}

static Status put(const RankRig *rig, const char *name, CostUnit unit, const char *const *axis,
                  uint32_t n_axes, const double *at, double value, double spread)
{
    CostTable *table;
    TRY(hardware_add_table(rig->hardware, name, rig->shape, unit, axis, n_axes, &table));
    return cost_table_put(table, at, value, spread);
}

/* ---- exchanges by themselves ---- */

/* The first round does not count. */
static Status measure_place(RankRig *rig, double skew, uint64_t bytes)
{
    double ns[ROUNDS];
    uint32_t rounds = count_rounds(rig);
    const double at[] = {skew, (double)bytes};
    Round round = {.turns = turns_of(rig, bytes)};
    plan_exchange(rig, skew, bytes);
    for (uint32_t i = 0; i <= rounds; i++) {
        TRY(measure_round(rig, &round));
        ns[i > 0 ? i - 1 : 0] = round.exchange_ns;
        if (i > 0 && bytes <= ISSUE_BYTES && rig->n_issues < MOST_ISSUES)
            rig->issue_ns[rig->n_issues++] = round.issue_ns;
    }
    double spread = variation_f64(ns, rounds);
    return processes_agree(rig->processes,
                           put(rig, "all-to-all", UNIT_NS, AXES_OF_ALL, COUNT(AXES_OF_ALL), at,
                               median_f64(ns, rounds), spread));
}

/* From evenly shared to all on one rank; 0-terminated. */
static void list_skews(uint32_t ranks, bool quick, double *skews)
{
    uint32_t n = 0;
    skews[n++] = 1;
    if (!quick)
        skews[n++] = 1.25;
    for (double power = 1; 1.5 * power < ranks; power *= 2) {
        skews[n++] = 1.5 * power;
        if (2 * power < ranks)
            skews[n++] = 2 * power;
    }
    skews[n++] = ranks;
    skews[n] = 0;
}

static Status measure_places(RankRig *rig)
{
    enum { MOST_SKEWS = 2 * 32 + 4 }; /* ranks are counted in 32 bits */
    double skews[MOST_SKEWS];
    const CalibrateOptions *options = rig->options;
    uint64_t factor = options->quick ? 8 : 2;
    uint64_t total = 0;
    uint64_t done = 0;
    list_skews(rig->processes->count, options->quick, skews);
    for (int counting = 1; counting >= 0; counting--)
        for (uint32_t i = 0; skews[i] > 0; i++)
            for (uint64_t bytes = LEAST_BYTES; bytes <= rig->most_bytes; bytes *= factor) {
                total += (uint64_t)counting;
                if (counting)
                    continue;
                TRY(measure_place(rig, skews[i], bytes));
                if (options->progress != NULL)
                    options->progress(options->progress_argument, ++done, total);
            }
    return OK;
}

static Status note_issue(RankRig *rig)
{
    const double nowhere = 0;
    double spread = variation_f64(rig->issue_ns, rig->n_issues);
    double median = median_f64(rig->issue_ns, rig->n_issues);
    return processes_agree(
        rig->processes, put(rig, "issue/all-to-all", UNIT_NS, NULL, 0, &nowhere, median, spread));
}

/* ---- exchanges and products beside each other ---- */

static uint32_t count_of(double wanted, uint32_t most)
{
    return wanted < 1 ? 1 : wanted < most ? (uint32_t)wanted : most;
}

/* Medians of rounds of this kind; the first does not count. */
static Status measure_medians(RankRig *rig, Round *round, double *exchange_spread,
                              double *product_spread)
{
    double exchange_ns[ROUNDS];
    double product_ns[ROUNDS];
    uint32_t rounds = count_rounds(rig);
    for (uint32_t i = 0; i <= rounds; i++) {
        TRY(measure_round(rig, round));
        exchange_ns[i > 0 ? i - 1 : 0] = round->exchange_ns;
        product_ns[i > 0 ? i - 1 : 0] = round->product_ns;
    }
    *exchange_spread = variation_f64(exchange_ns, rounds);
    *product_spread = variation_f64(product_ns, rounds);
    round->exchange_ns = median_f64(exchange_ns, rounds);
    round->product_ns = median_f64(product_ns, rounds);
    return OK;
}

/* Products of ROWS rows beside exchanges that last longer than they do, against alone. */
static Status measure_slowdown(RankRig *rig, uint32_t rows, double *alone_ns)
{
    const double at = rows;
    double spread;
    double ignored;
    Round exchanges = {.turns = LARGE_TURNS};
    Round alone = {.rows = rows, .products = 4};
    plan_exchange(rig, 1, BESIDE_BYTES);
    TRY(measure_medians(rig, &exchanges, &ignored, &ignored));
    TRY(measure_round(rig, &alone));
    alone.products = count_of(WORK_NS / alone.product_ns, MOST_PRODUCTS);
    TRY(measure_medians(rig, &alone, &ignored, &ignored));
    Round beside = alone;
    double wanted = 0.75 * alone.products * alone.product_ns / exchanges.exchange_ns + 2;
    beside.turns = count_of(wanted, MOST_TURNS);
    TRY(measure_medians(rig, &beside, &ignored, &spread));
    *alone_ns = alone.product_ns;
    return processes_agree(rig->processes,
                           put(rig, "slowdown/all-to-all", UNIT_FACTOR, TOKENS_AXIS, 1, &at,
                               beside.product_ns / alone.product_ns, spread));
}

/* Evenly shared exchanges beside products of many rows, PRODUCT_NS each, that last longer. */
static Status measure_busy(RankRig *rig, uint64_t bytes, double product_ns)
{
    const double at = (double)bytes;
    double spread;
    double ignored;
    Round round = {.turns = turns_of(rig, bytes), .rows = MANY_ROWS};
    plan_exchange(rig, 1, bytes);
    TRY(measure_round(rig, &round));
    for (int i = 0; i < 2; i++) {
        double wanted = 3.0 * round.turns * round.exchange_ns / product_ns + 2;
        round.products = count_of(wanted, MOST_PRODUCTS);
        TRY(measure_round(rig, &round));
    }
    TRY(measure_medians(rig, &round, &spread, &ignored));
    return processes_agree(rig->processes, put(rig, "all-to-all/busy", UNIT_NS, BYTES_AXIS, 1, &at,
                                               round.exchange_ns, spread));
}

static Status measure_beside(RankRig *rig)
{
    double one_ns;
    double many_ns;
    TRY(measure_slowdown(rig, 1, &one_ns));
    TRY(measure_slowdown(rig, MANY_ROWS, &many_ns));
    for (uint64_t bytes = LEAST_BUSY_BYTES; bytes <= rig->most_bytes && bytes <= MOST_BUSY_BYTES;
         bytes *= 4)
        TRY(measure_busy(rig, bytes, many_ns));
    return OK;
}

/* ---- all of it ---- */

static Status measure(RankRig *rig)
{
    size_t room = calibrate_bytes_room(rig->processes->count, rig->most_bytes);
    RanksOptions options = {.bytes = 2 * room,
                            .side = rig->options->quick ? QUICK_SIDE : SIDE,
                            .most_rows = MANY_ROWS,
                            .limit_ns = LIMIT_NS};
    TRY(ranks_open(rig->processes, &options, &rig->ranks));
    rig->send = ranks_memory(rig->ranks);
    rig->receive = rig->send + room;
    Status status = measure_places(rig);
    if (status == OK)
        status = note_issue(rig);
    if (status == OK)
        status = measure_beside(rig);
    ranks_close(rig->ranks);
    return status;
}

/* What can be known before any GPU is opened. */
static Status prepare(RankRig *rig)
{
    Hardware *hardware = rig->hardware;
    const CalibrateOptions *options = rig->options;
    uint32_t n = rig->processes->count;
    if (strcmp(options->device, "cuda") != 0)
        return fail(ERR_UNSUPPORTED,
                    "%u processes measure what GPUs send one another: device %s has none; start "
                    "one process",
                    n, options->device);
    TRY(mem_new(&rig->there[0], n, sizeof **rig->there, "ranks"));
    TRY(mem_new(&rig->there[1], n, sizeof **rig->there, "ranks"));
    snprintf(hardware->backend, sizeof hardware->backend, "%s", options->device);
    TRY(ranks_describe(executor_compute_name(options->device, options->compute), hardware->device,
                       sizeof hardware->device));
    if (options->known != NULL)
        return fail_in(hardware_check_merge(options->known, hardware), "%s", options->known_path);
    return OK;
}

/* Whether rank 0's profile has it already. */
static Status look_for_known(const RankRig *rig, uint32_t *knows)
{
    const Hardware *known = rig->options->known;
    *knows = known != NULL && hardware_table(known, "all-to-all", rig->shape) != NULL;
    return processes_share(rig->processes, knows, sizeof *knows);
}

Status calibrate_ranks(const CalibrateOptions *options, Processes *processes, Hardware *hardware)
{
    RankRig rig = {.options = options,
                   .processes = processes,
                   .hardware = hardware,
                   .most_bytes = options->quick ? QUICK_MOST_BYTES : MOST_BYTES,
                   .delays = FIRST_DELAYS};
    uint32_t knows = 0;
    uint64_t limit_ns = processes->limit_ns;
    hardware_ranks_shape(processes->count, processes->machine_count, rig.shape);
    processes->limit_ns = 2 * LIMIT_NS;
    Status status = processes_agree(processes, prepare(&rig));
    if (status == OK)
        status = look_for_known(&rig, &knows);
    if (status == OK && !knows)
        status = measure(&rig);
    mem_free(rig.there[0]);
    mem_free(rig.there[1]);
    processes->limit_ns = limit_ns;
    return status;
}
