/* Sweeps over several ranks, which are threads of this process here: a transport of mailboxes
 * stands in for MPI. */
#include "base/status.h"
#include "tests/support.h"

#include <pthread.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/sweep_maker.h"

enum { MAX_RANKS = 4 };

typedef struct Letter {
    struct Letter *next;
    uint32_t from;
    size_t bytes;
    char data[];
} Letter;

/* All ranks of one test. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool broken;        /* a rank left with a failure: nobody can speak any more */
    const void *shared; /* rank 0's block, which TAKEN followers have */
    uint32_t taken;
    uint32_t blocks; /* shared so far */
    Letter *boxes[MAX_RANKS];
} Post;

typedef struct {
    SweepRanks ranks; /* first: a SweepRanks is converted back */
    Post *post;
    Letter *read;
    uint32_t blocks;     /* that it has taken */
    uint32_t stop_after; /* messages it gets before it is asked to stop; 0: never */
    uint32_t messages;
    volatile int stop;
    SweepSignals signals; /* how it reads them */
    Status status;
} Member;

static Status send_letter(SweepRanks *ranks, uint32_t to, const void *message, size_t bytes)
{
    Post *post = ((Member *)ranks)->post;
    Letter *letter = malloc(sizeof *letter + bytes);
    *letter = (Letter){.from = ranks->rank, .bytes = bytes};
    memcpy(letter->data, message, bytes);
    pthread_mutex_lock(&post->lock);
    Letter **end = &post->boxes[to];
    while (*end != NULL)
        end = &(*end)->next;
    *end = letter;
    pthread_mutex_unlock(&post->lock);
    return OK;
}

static Status receive_letter(SweepRanks *ranks, SweepMail *mail)
{
    Member *member = (Member *)ranks;
    Post *post = member->post;
    free(member->read);
    pthread_mutex_lock(&post->lock);
    member->read = post->boxes[ranks->rank];
    if (member->read != NULL)
        post->boxes[ranks->rank] = member->read->next;
    bool broken = post->broken;
    pthread_mutex_unlock(&post->lock);
    *mail = (SweepMail){0};
    if (member->read != NULL && ++member->messages == member->stop_after)
        member->stop = 1;
    if (member->read != NULL)
        *mail = (SweepMail){member->read->data, member->read->bytes, member->read->from};
    return member->read == NULL && broken ? (fail)(ERR_IO, "a rank is gone") : OK;
}

static Status share_block(SweepRanks *ranks, void *block, size_t bytes)
{
    Member *member = (Member *)ranks;
    Post *post = member->post;
    pthread_mutex_lock(&post->lock);
    if (ranks->rank == 0) {
        post->shared = block;
        post->taken = 0;
        post->blocks++;
        pthread_cond_broadcast(&post->changed);
        while (post->taken + 1 < ranks->count && !post->broken)
            pthread_cond_wait(&post->changed, &post->lock);
    } else {
        while (post->blocks == member->blocks && !post->broken)
            pthread_cond_wait(&post->changed, &post->lock);
        member->blocks++;
        if (!post->broken && bytes > 0)
            memcpy(block, post->shared, bytes);
        post->taken++;
        pthread_cond_broadcast(&post->changed);
    }
    bool broken = post->broken;
    pthread_mutex_unlock(&post->lock);
    return broken ? (fail)(ERR_IO, "a rank is gone") : OK;
}

static void break_post(Post *post)
{
    pthread_mutex_lock(&post->lock);
    post->broken = true;
    pthread_cond_broadcast(&post->changed);
    pthread_mutex_unlock(&post->lock);
}

static void *follow(void *argument)
{
    Member *member = argument;
    member->status = sweep_follow(&member->ranks, &member->signals, &member->stop);
    if (member->status != OK)
        break_post(member->post);
    return NULL;
}

typedef struct {
    uint32_t count;
    SweepOptions options;
    uint32_t stop_after; /* messages to the last rank; 0: it is not stopped */
    uint32_t leaves;     /* 1: rank 0 sends the others away without a sweep */
    SweepSignals signals;
} Setup;

/* Runs a sweep with SETUP's ranks and waits for all of them. A failure of a follower that it could
 * not tell shows as rank 0's. */
static Status sweep_with(Setup setup, const PackedTrace *trace, const Study *study, const char *out,
                         SweepTotals *totals)
{
    static const SweepTransport TRANSPORT = {send_letter, receive_letter, share_block};
    Post post = {.broken = false};
    Member members[MAX_RANKS] = {0};
    pthread_t threads[MAX_RANKS];
    pthread_mutex_init(&post.lock, NULL);
    pthread_cond_init(&post.changed, NULL);
    for (uint32_t i = 0; i < setup.count; i++) {
        members[i].post = &post;
        members[i].signals = setup.signals;
        members[i].stop_after = i + 1 == setup.count ? setup.stop_after : 0;
        members[i].ranks = (SweepRanks){
            .transport = &TRANSPORT, .rank = i, .count = setup.count, .threads = 1 + i % 2};
    }
    for (uint32_t i = 1; i < setup.count; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, follow, &members[i]), 0);
    setup.options.ranks = &members[0].ranks;
    Status status = OK;
    if (!setup.leaves)
        status = sweep_run(trace, "trace.db", study, out, &setup.options, totals);
    if (sweep_dismiss(&members[0].ranks) != OK || !members[0].ranks.dismissed)
        break_post(&post);
    for (uint32_t i = 1; i < setup.count; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < setup.count; i++) {
        free(members[i].read);
        while (post.boxes[i] != NULL) {
            Letter *next = post.boxes[i]->next;
            free(post.boxes[i]);
            post.boxes[i] = next;
        }
    }
    pthread_cond_destroy(&post.changed);
    pthread_mutex_destroy(&post.lock);
    return status;
}

static void every_number_of_ranks_and_threads_gives_the_same_rows(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(31, 50);
    Study study = make_study(SMALL_STUDY);
    const char *alone = scratch_path("alone.db");
    const char *out = scratch_path("ranks.db");
    SweepTotals totals;
    sweep_once(&trace, &study, alone, 1, &totals);
    for (uint32_t count = 1; count <= MAX_RANKS; count++) {
        for (uint32_t jobs = 0; jobs <= 3; jobs++) {
            const Setup setup = {.count = count, .options.jobs = jobs};
            unlink(out);
            assert_ok(sweep_with(setup, &trace, &study, out, &totals));
            assert_int_equal(totals.done, study.n_plans);
            assert_int_equal(totals.lookups, study.n_plans * trace.n_lookups);
            assert_same_rows(out, alone);
        }
    }
    study_free(&study);
    packed_trace_free(&trace);
}

static void what_plans_learnt_travels_with_them(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(36, 50);
    Study study = make_study(TRAINED_STUDY);
    const char *alone = scratch_path("trained-alone.db");
    const char *out = scratch_path("trained-ranks.db");
    SweepTotals totals;
    sweep_once(&trace, &study, alone, 1, &totals);
    for (uint32_t count = 2; count <= MAX_RANKS; count++) {
        const Setup setup = {.count = count, .options.jobs = 1};
        unlink(out);
        assert_ok(sweep_with(setup, &trace, &study, out, &totals));
        assert_int_equal(totals.done, study.n_plans);
        assert_same_rows(out, alone);
    }
    study_free(&study);
    packed_trace_free(&trace);
}

/* Sweeps in parts that one rank stops, until all is done: how many it stopped. */
static int stops_until_done(bool follower_stops, const PackedTrace *trace, const Study *study,
                            const char *out)
{
    SweepTotals totals;
    uint64_t kept = 0;
    int stops = 0;
    unlink(out);
    for (int part = 0; kept < study->n_plans; part++) {
        Stopper stopper = {.after = 10};
        Setup setup = {.count = 3,
                       .options = {.jobs = 1, .progress = stop_after, .argument = &stopper}};
        if (follower_stops)
            setup.stop_after = 6;
        else
            setup.options.stop = &stopper.stop;
        assert_ok(sweep_with(setup, trace, study, out, &totals));
        assert_int_equal(totals.kept, kept);
        kept += totals.done;
        assert_true(totals.stopped || kept == study->n_plans);
        assert_int_equal(query_number(out, "SELECT count(*) FROM result WHERE done = 1"), kept);
        assert_true(part < 40);
        stops += totals.stopped;
    }
    return stops;
}

/* A follower that gets no processor in time is not asked to stop, which is tried again. */
static void sweep_in_parts(bool follower_stops)
{
    PackedTrace trace = make_trace(32, 50);
    Study study = make_study(SMALL_STUDY);
    const char *whole = scratch_path("whole.db");
    const char *parts = scratch_path("parts.db");
    SweepTotals totals;
    int stops = 0;
    unlink(whole);
    sweep_once(&trace, &study, whole, 1, &totals);
    for (int i = 0; i < 20 && stops == 0; i++) {
        stops = stops_until_done(follower_stops, &trace, &study, parts);
        assert_same_rows(parts, whole);
    }
    assert_true(stops > 0);
    study_free(&study);
    packed_trace_free(&trace);
}

static void a_sweep_that_rank_0_stops_continues_to_the_same_rows(void **unused)
{
    (void)unused;
    sweep_in_parts(false);
}

static void a_follower_that_is_stopped_stops_the_sweep(void **unused)
{
    (void)unused;
    sweep_in_parts(true);
}

static void followers_leave_when_there_is_nothing_to_do(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(33, 10);
    Study study = make_study(SMALL_STUDY);
    const char *out = scratch_path("again.db");
    SweepTotals totals;
    assert_ok(sweep_with((Setup){.count = 3, .leaves = 1}, &trace, &study, out, &totals));
    assert_false(file_exists(out));
    assert_ok(sweep_with((Setup){.count = 2}, &trace, &study, out, &totals));
    assert_ok(sweep_with((Setup){.count = 3}, &trace, &study, out, &totals));
    assert_int_equal(totals.done, 0);
    assert_int_equal(totals.kept, study.n_plans);
    const char *nowhere = scratch_path("no-such-folder/study.db");
    assert_int_equal(sweep_with((Setup){.count = 3}, &trace, &study, nowhere, &totals), ERR_OUTPUT);
    study_free(&study);
    packed_trace_free(&trace);
}

static void a_failed_allocation_of_any_rank_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    PackedTrace trace = make_trace(34, 6);
    Study study = make_study("{\"moebius_study\": 1, \"grid\": {\"buffer.slots\": [2, 3]}}");
    const char *out = scratch_path("memory.db");
    uint64_t of_followers = 0;
    bool reached = true;
    for (uint64_t k = 1; reached; k++) {
        SweepTotals totals;
        int64_t before = mem_live_blocks();
        mem_fail_at(k);
        Status status =
            sweep_with((Setup){.count = 2, .options.jobs = 1}, &trace, &study, out, &totals);
        reached = mem_fail_reached();
        mem_fail_at(0);
        of_followers += status == ERR_MEMORY && strncmp(error_message(), "rank 1: ", 8) == 0;
        if (status != OK && status != ERR_MEMORY && status != ERR_IO)
            fail_msg("allocation %llu: status %d: %s", (unsigned long long)k, status,
                     error_message());
        assert_true(status == OK || reached);
        if (status == OK)
            assert_int_equal(query_number(out, "SELECT sum(done) FROM result"), 4);
        unlink(out);
        assert_int_equal(mem_live_blocks(), before);
    }
    assert_true(of_followers > 5);
    study_free(&study);
    packed_trace_free(&trace);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_ranks_and_threads_gives_the_same_rows),
        cmocka_unit_test(what_plans_learnt_travels_with_them),
        cmocka_unit_test(a_sweep_that_rank_0_stops_continues_to_the_same_rows),
        cmocka_unit_test(a_follower_that_is_stopped_stops_the_sweep),
        cmocka_unit_test(followers_leave_when_there_is_nothing_to_do),
        cmocka_unit_test(a_failed_allocation_of_any_rank_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
