/* What ranks send one another: every byte arrives, and nobody waits for ever. Runs itself under
 * mpirun; where there are fewer GPUs than ranks, ranks share one, and NCCL is told that they are on
 * machines of their own. */
#include "tests/mpi_run.h"

#include <time.h>

#include "base/clock.h"
#include "exec/cuda/check.h"
#include "exec/ranks.h"

enum { MOST_RANKS = 4, ROUNDS = 24, ROOM = 16 << 20, GUARD = 64, SIDE = 1024, ROWS = 64 };

#define CHECK(holds)                                                                               \
    do {                                                                                           \
        if (!(holds)) {                                                                            \
            fprintf(stderr, "rank %u: line %d: %s does not hold: %s\n", all->rank, __LINE__,       \
                    #holds, error_message());                                                      \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

/* ---- as one of several ranks ---- */

/* What rank FROM sends to TO in ROUND: nothing, a few bytes, or many. Known to all. */
static uint64_t bytes_of(uint32_t round, uint32_t from, uint32_t to)
{
    uint64_t state = 1000003 * round + 1009 * from + to;
    random_next(&state);
    switch (round % 6) {
    case 0:
        return random_below(&state, 2) == 0 ? 0 : random_below(&state, 40);
    case 1:
        return 1 + random_below(&state, 5000);
    case 2:
        return to == round % 2 ? 100000 + from : 0; /* all to one */
    case 3:
        return from == round % 2 ? 65536 : 0; /* all from one */
    case 4:
        return round == 4 ? 0 : 700000 + random_below(&state, 300000);
    default:
        return from == to ? 0 : 4096 * (1 + random_below(&state, 64));
    }
}

static unsigned char byte_of(uint32_t round, uint32_t from, uint32_t to, uint64_t at)
{
    return (unsigned char)(at * 31 + at / 251 + round * 17 + from * 101 + to * 53 + 1);
}

/* One exchange: counts and places of this rank in device memory. */
typedef struct {
    uint64_t send_bytes[MOST_RANKS];
    uint64_t receive_bytes[MOST_RANKS];
    uint64_t sent;
    uint64_t received;
} Exchange;

static Exchange exchange_of(uint32_t round, uint32_t rank, uint32_t count)
{
    Exchange out = {.sent = 0};
    for (uint32_t i = 0; i < count; i++) {
        out.send_bytes[i] = bytes_of(round, rank, i);
        out.receive_bytes[i] = bytes_of(round, i, rank);
        out.sent += out.send_bytes[i];
        out.received += out.receive_bytes[i];
    }
    return out;
}

static void fill(const Exchange *exchange, uint32_t round, uint32_t rank, uint32_t count,
                 unsigned char *bytes)
{
    for (uint32_t to = 0; to < count; to++)
        for (uint64_t i = 0; i < exchange->send_bytes[to]; i++)
            *bytes++ = byte_of(round, rank, to, i);
}

static int compare(const Processes *all, const Exchange *exchange, uint32_t round,
                   const unsigned char *bytes)
{
    for (uint32_t from = 0; from < all->count; from++)
        for (uint64_t i = 0; i < exchange->receive_bytes[from]; i++)
            CHECK(*bytes++ == byte_of(round, from, all->rank, i));
    for (int i = 0; i < GUARD; i++)
        CHECK(*bytes++ == 0xAB);
    return 0;
}

/* Rounds are queued in pairs without waiting in between. */
static int exchange_all(Processes *all, Ranks *ranks)
{
    static unsigned char host[ROOM / 4];
    unsigned char *memory = ranks_memory(ranks);
    for (uint32_t round = 0; round < ROUNDS; round += 2) {
        Exchange pair[2];
        for (uint32_t i = 0; i < 2; i++) {
            pair[i] = exchange_of(round + i, all->rank, all->count);
            CHECK(pair[i].sent <= sizeof host && pair[i].received + GUARD <= sizeof host);
            fill(&pair[i], round + i, all->rank, all->count, host);
            CHECK(ranks_upload(ranks, memory + i * (ROOM / 4), host, sizeof host) == OK);
            memset(host, 0xAB, sizeof host);
            CHECK(ranks_upload(ranks, memory + ROOM / 2 + i * (ROOM / 4), host, sizeof host) == OK);
        }
        for (uint32_t i = 0; i < 2; i++) {
            const AllToAll sent = {.send = memory + i * (ROOM / 4),
                                   .send_bytes = pair[i].send_bytes,
                                   .receive = memory + ROOM / 2 + i * (ROOM / 4),
                                   .receive_bytes = pair[i].receive_bytes};
            CHECK(ranks_all_to_all(ranks, &sent) == OK);
        }
        for (uint32_t i = 0; i < 2; i++) {
            CHECK(ranks_download(ranks, host, memory + ROOM / 2 + i * (ROOM / 4), sizeof host) ==
                  OK);
            if (compare(all, &pair[i], round + i, host) != 0)
                return 1;
        }
    }
    return 0;
}

static int mark(Processes *all, Ranks *ranks)
{
    double ns = -1;
    bool passed = false;
    unsigned char *memory = ranks_memory(ranks);
    CHECK(ranks_mark(ranks, RANKS_EXCHANGES, 0) == OK);
    CHECK(ranks_copy(ranks, memory, memory + ROOM / 2, ROOM / 2) == OK);
    CHECK(ranks_mark(ranks, RANKS_EXCHANGES, 1) == OK);
    CHECK(ranks_order(ranks) == OK);
    CHECK(ranks_mark(ranks, RANKS_PRODUCTS, 0) == OK);
    CHECK(ranks_multiply(ranks, ROWS, 3) == OK);
    CHECK(ranks_mark(ranks, RANKS_PRODUCTS, 1) == OK);
    CHECK(ranks_wait(ranks) == OK);
    CHECK(ranks_passed(ranks, RANKS_EXCHANGES, 1, &passed) == OK && passed);
    CHECK(ranks_passed(ranks, RANKS_PRODUCTS, 1, &passed) == OK && passed);
    CHECK(ranks_elapsed(ranks, RANKS_EXCHANGES, &ns) == OK && ns > 0 && ns < 1e9);
    CHECK(ranks_elapsed(ranks, RANKS_PRODUCTS, &ns) == OK && ns > 0 && ns < 1e9);
    return 0;
}

/* The last rank does not take part. */
static int hang(Processes *all, Ranks *ranks)
{
    const uint64_t bytes[MOST_RANKS] = {4096, 4096, 4096, 4096};
    unsigned char *memory = ranks_memory(ranks);
    const AllToAll sent = {
        .send = memory, .send_bytes = bytes, .receive = memory + ROOM / 2, .receive_bytes = bytes};
    uint64_t start_ns = clock_ns();
    if (all->rank + 1 < all->count) {
        CHECK(ranks_all_to_all(ranks, &sent) == OK);
        CHECK(ranks_wait(ranks) == ERR_IO);
        CHECK(clock_ns() - start_ns < 15000000000);
        CHECK(strstr(error_message(), "rank ") != NULL || strstr(error_message(), "nccl") != NULL);
        fprintf(stderr, "given up: %s\n", error_message());
    }
    CHECK(processes_agree(all, OK) == OK); /* the last rank waits here */
    return 0;
}

static int work_with(Processes *all, Ranks *ranks, const char *what)
{
    if (strcmp(what, "hang") == 0)
        return hang(all, ranks);
    return exchange_all(all, ranks) != 0 || mark(all, ranks) != 0;
}

static bool is_short_of_gpus(const Processes *all)
{
    int gpus = 0;
    return cudaGetDeviceCount(&gpus) != cudaSuccess || all->machine_count > (uint32_t)gpus;
}

static int work(const char *what)
{
    Processes *all;
    Ranks *ranks;
    char number[16];
    bool hangs = strcmp(what, "hang") == 0;
    const RanksOptions options = {.bytes = ROOM,
                                  .side = SIDE,
                                  .most_rows = ROWS,
                                  .limit_ns = hangs ? 4000000000 : (uint64_t)40000000000};
    if (processes_join(&all) != OK || all == NULL) {
        fprintf(stderr, "no processes: %s\n", error_message());
        return 1;
    }
    snprintf(number, sizeof number, "%u", all->rank + 1);
    if (is_short_of_gpus(all) && strcmp(what, "refuse") != 0) {
        setenv("NCCL_HOSTID", number, 1);
        setenv("NCCL_SOCKET_IFNAME", "lo", 1);
    }
    Status status = ranks_open(all, &options, &ranks);
    if (status != OK) {
        if (all->rank == 0)
            fprintf(stderr, "not opened: %s\n", error_message());
        return processes_leave(all, OK) == OK && strcmp(what, "refuse") == 0 ? 0 : 1;
    }
    if (all->rank == 0)
        fprintf(stderr, "%u ranks, NCCL %s\n", all->count, ranks_version(ranks));
    int code = strcmp(what, "refuse") == 0 ? 0 : work_with(all, ranks, what);
    ranks_close(ranks);
    processes_leave(all, code == 0 ? OK : ERR_IO);
    return code;
}

/* ---- as the test ---- */

static void run_well(const char *ranks, const char *what, MpiSaid *said)
{
    mpi_run_self(ranks, what, said);
    if (said->code != 0)
        fail_msg("%s ranks: exit status %d: %s", ranks, said->code, said->text);
    print_message("%s", said->text);
}

static void every_byte_arrives_and_nothing_else_is_written(void **unused)
{
    (void)unused;
    MpiSaid said;
    if (!have_mpi())
        skip();
    run_well("2", "exchange", &said);
    run_well("3", "exchange", &said);
}

static void who_waits_for_a_rank_that_does_not_come_gives_up(void **unused)
{
    (void)unused;
    MpiSaid said;
    if (!have_mpi())
        skip();
    run_well("2", "hang", &said);
    assert_int_equal(mpi_count_lines(said.text, "given up: ranks: rank 0 of 2 has waited"), 1);
}

static void ranks_without_a_gpu_of_their_own_are_refused(void **unused)
{
    (void)unused;
    MpiSaid said;
    int gpus = 0;
    char ranks[16];
    if (!have_mpi())
        skip();
    cudaGetDeviceCount(&gpus);
    snprintf(ranks, sizeof ranks, "%d", gpus > 0 ? gpus + 1 : 2);
    run_well(ranks, "refuse", &said);
    assert_non_null(strstr(said.text, gpus > 0 ? "each needs its own" : "there is no GPU"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_arrives_and_nothing_else_is_written),
        cmocka_unit_test(who_waits_for_a_rank_that_does_not_come_gives_up),
        cmocka_unit_test(ranks_without_a_gpu_of_their_own_are_refused),
    };
    if (argc > 1)
        return work(argv[1]);
    mpi_set_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
