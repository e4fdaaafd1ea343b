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
    FIRST_DELAYS = 4, /* copies that keep the GPU busy while the host queues, ... */
    MOST_DELAYS = 1024,
    DELAY_BYTES = 16 << 20, /* ... of so many bytes */
    MOST_ISSUES = 256
};

static const uint64_t LIMIT_NS = 60000000000; /* a rank that does not come by then is gone */

static const char *const AXES[] = {"skew", "bytes"};

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
    CostTable *table;
    char shape[160];
} RankRig;

uint64_t calibrate_bytes_between(uint32_t ranks, uint32_t from, uint32_t to, double skew,
                                 uint64_t bytes)
{
    double most = (double)bytes / (ranks - 1);
    double other = most * (ranks - skew) / ((ranks - 1) * skew);
    if (from == to)
        return 0;
    return (uint64_t)((to == 0 ? most : other) / ALIGNMENT + 0.5) * ALIGNMENT;
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

/* Queues all of a round while the GPU is busy, so that exchanges follow one another as fast as they
 * can: the one before the first mark ends on all ranks at the same time. */
static Status queue_round(const RankRig *rig, uint32_t turns, double *issue_ns)
{
    for (uint32_t i = 0; i < rig->delays; i++)
        TRY(ranks_copy(rig->ranks, rig->receive, rig->send, DELAY_BYTES));
    TRY(queue_exchange(rig, false));
    TRY(ranks_mark(rig->ranks, 0));
    uint64_t start_ns = clock_ns();
    for (uint32_t i = 0; i < 2 * turns; i++)
        TRY(queue_exchange(rig, i % 2 == 1));
    *issue_ns = (double)(clock_ns() - start_ns) / (2 * turns);
    return ranks_mark(rig->ranks, 1);
}

/* *LATE: the GPU did not wait for the host, but the host for the GPU or for another rank. */
static Status run_round(const RankRig *rig, uint32_t turns, double *ns, double *issue_ns,
                        bool *late)
{
    const volatile int *stop = rig->options->stop;
    if (stop != NULL && *stop)
        return fail(ERR_INTERRUPTED, "all-to-all: interrupted");
    TRY(queue_round(rig, turns, issue_ns));
    TRY(ranks_passed(rig->ranks, 0, late));
    TRY(ranks_wait(rig->ranks));
    TRY(ranks_elapsed(rig->ranks, ns));
    *ns /= 2 * turns;
    return OK;
}

/* The longest that a rank took for one exchange of a round; again, with the GPU busy for longer,
 * where a host was late. */
static Status measure_round(RankRig *rig, uint32_t turns, double *ns, double *issue_ns)
{
    for (;;) {
        bool late = false;
        TRY(processes_agree(rig->processes, run_round(rig, turns, ns, issue_ns, &late)));
        double most[] = {*ns, *issue_ns, late};
        TRY(processes_most(rig->processes, most, COUNT(most)));
        *ns = most[0];
        *issue_ns = most[1];
        if (most[2] == 0 || rig->delays >= MOST_DELAYS)
            return OK;
        rig->delays *= 2;
    }
}

/* The first round does not count. */
static Status measure_place(RankRig *rig, double skew, uint64_t bytes)
{
    double ns[ROUNDS];
    uint32_t rounds = rig->options->quick ? QUICK_ROUNDS : ROUNDS;
    const double at[] = {skew, (double)bytes};
    plan_exchange(rig, skew, bytes);
    for (uint32_t i = 0; i <= rounds; i++) {
        double *row = &ns[i > 0 ? i - 1 : 0];
        double issue_ns = 0;
        TRY(measure_round(rig, bytes <= SMALL_BYTES ? SMALL_TURNS : LARGE_TURNS, row, &issue_ns));
        if (i > 0 && bytes <= ISSUE_BYTES && rig->n_issues < MOST_ISSUES)
            rig->issue_ns[rig->n_issues++] = issue_ns;
    }
    double spread = calibration_spread(ns, rounds);
    return processes_agree(rig->processes,
                           cost_table_put(rig->table, at, calibration_median(ns, rounds), spread));
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
    enum { MOST_SKEWS = 32 };
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

static Status add_tables(RankRig *rig, Hardware *hardware)
{
    TRY(hardware_add_table(hardware, "issue/all-to-all", rig->shape, UNIT_NS, NULL, 0,
                           &rig->table));
    return hardware_add_table(hardware, "all-to-all", rig->shape, UNIT_NS, AXES, COUNT(AXES),
                              &rig->table);
}

static Status note_issue(RankRig *rig, Hardware *hardware)
{
    CostTable *table;
    const double nowhere = 0;
    double spread = calibration_spread(rig->issue_ns, rig->n_issues);
    TRY(hardware_add_table(hardware, "issue/all-to-all", rig->shape, UNIT_NS, NULL, 0, &table));
    return cost_table_put(table, &nowhere, calibration_median(rig->issue_ns, rig->n_issues),
                          spread);
}

static Status measure(RankRig *rig, Hardware *hardware)
{
    RanksOptions options = {.bytes = 2 * rig->most_bytes, .limit_ns = LIMIT_NS};
    TRY(ranks_open(rig->processes, &options, &rig->ranks));
    rig->send = ranks_memory(rig->ranks);
    rig->receive = rig->send + rig->most_bytes;
    Status status = processes_agree(rig->processes, add_tables(rig, hardware));
    if (status == OK)
        status = measure_places(rig);
    if (status == OK)
        status = processes_agree(rig->processes, note_issue(rig, hardware));
    ranks_close(rig->ranks);
    return status;
}

/* What can be known before any GPU is opened. */
static Status prepare(RankRig *rig, Hardware *hardware)
{
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
                   .most_bytes = options->quick ? QUICK_MOST_BYTES : MOST_BYTES,
                   .delays = FIRST_DELAYS};
    uint32_t knows = 0;
    uint64_t limit_ns = processes->limit_ns;
    hardware_ranks_shape(processes->count, processes->machine_count, rig.shape);
    processes->limit_ns = 2 * LIMIT_NS;
    Status status = processes_agree(processes, prepare(&rig, hardware));
    if (status == OK)
        status = look_for_known(&rig, &knows);
    if (status == OK && !knows)
        status = measure(&rig, hardware);
    mem_free(rig.there[0]);
    mem_free(rig.there[1]);
    processes->limit_ns = limit_ns;
    return status;
}
