#include "policies/placement_balance.h"

#include <stdlib.h>

#include "base/memory.h"

/* An expert, or one of its copies, to be placed. */
typedef struct {
    double load;
    uint32_t expert;
} Copy;

typedef struct {
    PlacementMethod method;
    const LayerLoad *loads;
    LayerPlacement *placement;
    Copy *copies; /* [n_copies] descending load */
    uint32_t n_copies;
    uint32_t *n_of;    /* [experts] copies of each */
    uint32_t *n_on;    /* [ranks] copies on each */
    uint32_t n_larger; /* ranks that may still take one more than the others */
} Balance;

bool placement_needs_correlation(PlacementMethod method)
{
    return method == PLACEMENT_ANTICORRELATED || method == PLACEMENT_ANTICORRELATED_SCALED;
}

static bool *on(Balance *balance, uint32_t expert, uint32_t rank)
{
    return &balance->placement->is_on[(size_t)expert * balance->placement->ranks + rank];
}

static double load_per_copy(const Balance *balance, uint32_t expert)
{
    return balance->loads->load[expert] / balance->n_of[expert];
}

/* Gives each of REPLICAS copies to the expert with the largest load per copy. */
static void count_copies(Balance *balance, uint32_t replicas)
{
    uint32_t experts = balance->placement->experts;
    for (uint32_t e = 0; e < experts; e++)
        balance->n_of[e] = 1;
    for (uint32_t i = 0; i < replicas; i++) {
        uint32_t most = experts;
        for (uint32_t e = 0; e < experts; e++)
            if (balance->n_of[e] < balance->placement->ranks &&
                (most == experts || load_per_copy(balance, e) > load_per_copy(balance, most)))
                most = e;
        balance->n_of[most]++;
    }
}

static int compare_copies(const void *left, const void *right)
{
    const Copy *a = left;
    const Copy *b = right;
    if (a->load != b->load)
        return a->load > b->load ? -1 : 1;
    return (a->expert > b->expert) - (a->expert < b->expert);
}

static void list_copies(Balance *balance)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < balance->placement->experts; e++)
        for (uint32_t i = 0; i < balance->n_of[e]; i++)
            balance->copies[n++] = (Copy){load_per_copy(balance, e), e};
    qsort(balance->copies, n, sizeof *balance->copies, compare_copies);
}

/* What EXPERT would meet on RANK. */
static double score(Balance *balance, uint32_t expert, uint32_t rank)
{
    uint32_t experts = balance->placement->experts;
    double sum = 0;
    for (uint32_t m = 0; m < experts; m++) {
        double load = load_per_copy(balance, m);
        double half = placement_needs_correlation(balance->method)
                          ? 0.5 * balance->loads->correlation[(size_t)expert * experts + m]
                          : 0;
        if (*on(balance, m, rank))
            sum += balance->method == PLACEMENT_ANTICORRELATED ? load + half : load * (1 + half);
    }
    return sum;
}

static bool has_room(const Balance *balance, uint32_t rank)
{
    uint32_t even = balance->n_copies / balance->placement->ranks;
    return balance->n_on[rank] < even || (balance->n_on[rank] == even && balance->n_larger > 0);
}

static void put(Balance *balance, uint32_t expert, uint32_t rank)
{
    uint32_t even = balance->n_copies / balance->placement->ranks;
    *on(balance, expert, rank) = true;
    if (++balance->n_on[rank] > even)
        balance->n_larger--;
}

/* EXPERT is on every rank with room. RANK is one of those: it takes the lightest expert that it
 * lacks from a rank that lacks EXPERT, which takes its place. There is one: such a rank is full, so
 * it has more experts than RANK. */
static void put_by_exchange(Balance *balance, uint32_t expert, uint32_t rank)
{
    for (uint32_t i = balance->n_copies; i-- > 0;) {
        uint32_t moved = balance->copies[i].expert;
        if (*on(balance, moved, rank))
            continue;
        for (uint32_t from = 0; from < balance->placement->ranks; from++) {
            if (!*on(balance, moved, from) || *on(balance, expert, from))
                continue;
            *on(balance, moved, from) = false;
            *on(balance, expert, from) = true;
            put(balance, moved, rank);
            return;
        }
    }
}

static void place(Balance *balance, uint32_t expert)
{
    uint32_t ranks = balance->placement->ranks;
    uint32_t best = ranks;
    uint32_t roomy = ranks;
    double least = 0;
    for (uint32_t rank = 0; rank < ranks; rank++) {
        if (!has_room(balance, rank))
            continue;
        roomy = rank;
        if (*on(balance, expert, rank))
            continue;
        double found = score(balance, expert, rank);
        if (best == ranks || found < least) {
            best = rank;
            least = found;
        }
    }
    if (best < ranks)
        put(balance, expert, best);
    else
        put_by_exchange(balance, expert, roomy);
}

static void balance_copies(Balance *balance, uint32_t replicas)
{
    balance->n_larger = balance->n_copies % balance->placement->ranks;
    count_copies(balance, replicas);
    list_copies(balance);
    for (uint32_t i = 0; i < balance->n_copies; i++)
        place(balance, balance->copies[i].expert);
}

Status placement_balance(PlacementMethod method, const LayerLoad *load, uint32_t replicas,
                         LayerPlacement *placement)
{
    Balance balance = {.method = method,
                       .loads = load,
                       .placement = placement,
                       .n_copies = placement->experts + replicas};
    Status status = mem_new(&balance.copies, balance.n_copies, sizeof *balance.copies, "placement");
    if (status == OK)
        status = mem_new(&balance.n_of, placement->experts, sizeof *balance.n_of, "placement");
    if (status == OK)
        status = mem_new(&balance.n_on, placement->ranks, sizeof *balance.n_on, "placement");
    if (status == OK)
        balance_copies(&balance, replicas);
    mem_free(balance.n_on);
    mem_free(balance.n_of);
    mem_free(balance.copies);
    return status;
}
