#define _GNU_SOURCE
#include "tests/support.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/quiet_processor.h"
#include "base/threads.h"

enum { ITEMS = 500 };

typedef struct {
    size_t workers;
    size_t items;
    uint32_t times[ITEMS]; /* plain: each item belongs to one worker */
    _Atomic uint64_t sum;
    _Atomic bool wrong;
} Work;

static void do_item(void *argument, size_t item, size_t worker)
{
    Work *work = argument;
    if (item >= work->items || worker >= work->workers) {
        atomic_store(&work->wrong, true);
        return;
    }
    work->times[item]++;
    atomic_fetch_add(&work->sum, item);
}

static void every_item_runs_once_in_every_loop(void **unused)
{
    (void)unused;
    static const size_t counts[] = {0, 1, 2, 3, 7, 64, ITEMS};
    for (size_t threads = 1; threads <= 5; threads++) {
        ThreadPool *pool;
        assert_ok(thread_pool_new(threads, &pool));
        assert_int_equal(thread_pool_size(pool), threads);
        for (int round = 0; round < 60; round++) {
            static Work work;
            work = (Work){.workers = threads,
                          .items = counts[(size_t)round % (sizeof counts / sizeof *counts)]};
            if (round == 20 || round == 40) /* the loops between them while helpers stay awake */
                thread_pool_keep_awake(pool, round == 20 ? 1000000 : 0);
            if (round % 20 == 19) /* long enough for the helpers to sleep */
                nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
            if (round % 7 == 3)
                thread_pool_rouse(pool);
            if (round == 45)
                thread_pool_spare_caller(pool);
            thread_pool_run(pool, work.items, do_item, &work);
            assert_false(atomic_load(&work.wrong));
            for (size_t i = 0; i < ITEMS; i++)
                assert_int_equal(work.times[i], i < work.items);
            uint64_t n = work.items;
            assert_true(atomic_load(&work.sum) == (n > 0 ? n * (n - 1) / 2 : 0));
        }
        thread_pool_free(pool);
    }
    thread_pool_free(NULL);
}

/* A loop whose first helper to compute anything is kept from it until it is let go. */
typedef struct {
    size_t own[5];    /* [worker] the item that it has taken, */
    size_t result[5]; /* ... and what it has computed */
    size_t finished[ITEMS];
    _Atomic bool wrong;
    _Atomic bool is_kept;
    _Atomic bool lets_go;
    _Atomic uint32_t late; /* how many went on when they were let go */
} Apart;

static void apart_take(void *argument, size_t item, size_t worker)
{
    Apart *work = *(Apart **)argument;
    work->own[worker] = item;
}

static void apart_compute(void *owner, size_t worker)
{
    Apart *work = owner;
    if (worker > 0 && !atomic_exchange(&work->is_kept, true)) {
        while (!atomic_load(&work->lets_go))
            sched_yield();
        atomic_fetch_add(&work->late, 1);
    }
    work->result[worker] = 3 * work->own[worker] + 1;
}

static void apart_finish(void *argument, size_t item, size_t worker)
{
    Apart *work = *(Apart **)argument;
    if (work->own[worker] != item || work->result[worker] != 3 * item + 1)
        atomic_store(&work->wrong, true);
    work->finished[item]++;
}

static void run_apart_once(ThreadPool *pool, Apart *work, size_t count)
{
    static const ThreadParts PARTS = {apart_take, apart_compute, apart_finish};
    memset(work->finished, 0, sizeof work->finished);
    thread_pool_run_apart(pool, count, &PARTS, &work, work);
    assert_false(atomic_load(&work->wrong));
    for (size_t i = 0; i < ITEMS; i++)
        assert_int_equal(work->finished[i], i < count);
}

static void who_is_kept_from_an_item_is_not_waited_for(void **unused)
{
    (void)unused;
    for (int spares = 0; spares < 2; spares++) {
        static Apart work;
        ThreadPool *pool;
        memset(&work, 0, sizeof work);
        assert_ok(thread_pool_new(4, &pool));
        if (spares)
            thread_pool_spare_caller(pool);
        for (int i = 0; i < 10000 && !atomic_load(&work.is_kept); i++)
            run_apart_once(pool, &work, ITEMS);
        assert_true(atomic_load(&work.is_kept));
        for (size_t count = 0; count <= ITEMS; count += 25) /* beside other loops */
            run_apart_once(pool, &work, count);
        static Work other;
        other = (Work){.workers = 4, .items = ITEMS};
        thread_pool_run(pool, ITEMS, do_item, &other);
        for (size_t i = 0; i < ITEMS; i++)
            assert_int_equal(other.times[i], 1);
        memset(work.finished, 0, sizeof work.finished);
        assert_int_equal(atomic_load(&work.late), 0);
        atomic_store(&work.lets_go, true);
        thread_pool_settle(pool);
        assert_int_equal(atomic_load(&work.late), 1);
        for (size_t i = 0; i < ITEMS; i++)
            assert_int_equal(work.finished[i], 0);
        for (int i = 0; i < 200; i++)
            run_apart_once(pool, &work, (size_t)i);
        thread_pool_free(pool);
    }
}

static void memory_that_is_touched_stays_zero(void **unused)
{
    (void)unused;
    static const size_t BYTES[] = {0, 1, 4096, 5000000, 9 << 20};
    ThreadPool *pool;
    assert_ok(thread_pool_new(3, &pool));
    for (size_t i = 0; i < sizeof BYTES / sizeof *BYTES; i++) {
        unsigned char *memory;
        assert_ok(mem_new(&memory, BYTES[i] + 1, 1, "memory"));
        memory[BYTES[i]] = 7; /* what lies behind it is not touched */
        thread_pool_touch(pool, memory, BYTES[i]);
        assert_int_equal(memory[BYTES[i]], 7);
        for (size_t at = 0; at < BYTES[i]; at++)
            assert_true(memory[at] == 0);
        mem_free(memory);
    }
    thread_pool_free(pool);
}

static void no_threads_asked_for_means_one_per_processor(void **unused)
{
    (void)unused;
    ThreadPool *pool;
    assert_true(thread_count_default() >= 1);
    assert_ok(thread_pool_new(0, &pool));
    assert_int_equal(thread_pool_size(pool), thread_count_default());
    thread_pool_free(pool);
}

static void a_pool_that_cannot_be_is_refused(void **unused)
{
    (void)unused;
    ThreadPool *pool = NULL;
    assert_int_equal(thread_pool_new(SIZE_MAX, &pool), ERR_INPUT);
    assert_int_equal(thread_pool_new(4097, &pool), ERR_INPUT);
    assert_string_equal(error_message(), "threads: 4097, allowed is 1 to 4096");
    int64_t before = mem_live_blocks();
    mem_fail_at(1);
    assert_int_equal(thread_pool_new(3, &pool), ERR_MEMORY);
    mem_fail_at(0);
    assert_int_equal(mem_live_blocks(), before);
    assert_null(pool);
}

/* Where one was seen that is far too fast, all seem disturbed. */
static void who_seeks_a_quiet_processor_may_run_where_it_could_before(void **unused)
{
    (void)unused;
    cpu_set_t before;
    cpu_set_t after;
    QuietProcessor fresh = {0};
    QuietProcessor dreaming = {.best_ns = 1};
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    quiet_processor_seek(&fresh);
    assert_true(fresh.best_ns > 1000 && fresh.best_ns < 1000000000);
    quiet_processor_seek(&dreaming);
    assert_int_equal(dreaming.best_ns, 1);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));
    assert_true(CPU_ISSET(sched_getcpu(), &before));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_runs_once_in_every_loop),
        cmocka_unit_test(who_is_kept_from_an_item_is_not_waited_for),
        cmocka_unit_test(memory_that_is_touched_stays_zero),
        cmocka_unit_test(no_threads_asked_for_means_one_per_processor),
        cmocka_unit_test(a_pool_that_cannot_be_is_refused),
        cmocka_unit_test(who_seeks_a_quiet_processor_may_run_where_it_could_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
