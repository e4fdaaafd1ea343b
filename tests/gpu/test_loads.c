/* Loads into slots, their tickets and their times, and the stamps of the queue. */
#include "tests/support.h"

#include <stdlib.h>

#include "base/clock.h"
#include "exec/backend.h"

/* What the device's clock steps by at the most. */
static const uint64_t CLOCK_NS = 10000;

enum { EXPERTS = 6, D_MODEL = 128, D_FF = 64, STAMPS = 4 };

/* How well it is tied to the host's: in a brief test others may have the GPU in between. */
static uint64_t tie_ns(void)
{
    return brief() ? 100000000 : 200000;
}

static const FfnShape SHAPE = {
    .d_model = D_MODEL, .d_ff = D_FF, .gated = true, .activation = ACTIVATION_SILU};

typedef struct {
    Device *device;
    FfnTensors tensors[EXPERTS];
    const void *kept[EXPERTS];
    unsigned char *slots; /* device: EXPERTS slots of BYTES */
    size_t bytes;
} Link;

static Part random_part(uint64_t *random, uint32_t rows, uint32_t columns)
{
    size_t bytes = (size_t)rows * columns * sizeof(float);
    float *data = malloc(bytes);
    assert_non_null(data);
    for (size_t i = 0; i < (size_t)rows * columns; i++)
        data[i] = random_float(random);
    return (Part){.tensor = {.dtype = DTYPE_F32,
                             .rank = 2,
                             .shape = {rows, columns},
                             .data = data,
                             .bytes = bytes},
                  .rows = rows,
                  .columns = columns,
                  .row_step = columns,
                  .column_step = 1};
}

static void open_link(ComputeType compute, Link *link)
{
    static LayerConfig layer = {.moe = true, .experts = EXPERTS, .top_k = 1};
    static ModelConfig config = {.d_model = D_MODEL,
                                 .n_layers = 1,
                                 .layers = &layer,
                                 .n_moe_layers = 1,
                                 .max_experts = EXPERTS,
                                 .max_top_k = 1};
    layer.ffn = SHAPE;
    const DeviceOptions options = {.config = &config,
                                   .compute = compute,
                                   .threads = 1,
                                   .max_tokens = 8,
                                   .max_loads = 2 * EXPERTS,
                                   .max_stamps = STAMPS};
    *link = (Link){.bytes = ffn_layout(&SHAPE, compute == COMPUTE_BF16 ? 2 : 4).bytes};
    uint64_t random = 5;
    void *memory;
    assert_ok(BACKEND_CUDA.open(&options, &link->device));
    assert_ok(BACKEND_CUDA.allocate(link->device, EXPERTS * link->bytes, &memory));
    link->slots = memory;
    for (size_t e = 0; e < EXPERTS; e++) {
        link->tensors[e] = (FfnTensors){.gate = random_part(&random, D_FF, D_MODEL),
                                        .up = random_part(&random, D_FF, D_MODEL),
                                        .down = random_part(&random, D_MODEL, D_FF)};
        assert_ok(
            BACKEND_CUDA.keep_expert(link->device, &SHAPE, &link->tensors[e], &link->kept[e]));
    }
}

static void close_link(Link *link)
{
    BACKEND_CUDA.close(link->device);
    for (size_t e = 0; e < EXPERTS; e++) {
        free((void *)link->tensors[e].gate.tensor.data);
        free((void *)link->tensors[e].up.tensor.data);
        free((void *)link->tensors[e].down.tensor.data);
    }
}

static void load(Link *link, uint32_t expert, uint32_t slot, uint64_t at_least_ns, bool after_queue,
                 uint32_t ticket)
{
    const Load load = {.shape = &SHAPE,
                       .kept = link->kept[expert],
                       .slot = link->slots + slot * link->bytes,
                       .after_queue = after_queue,
                       .at_least_ns = at_least_ns,
                       .ticket = ticket};
    assert_ok(BACKEND_CUDA.load(link->device, &load, 1));
}

/* What a load brings is what store_expert() would have put there. */
static void assert_holds(Link *link, uint32_t slot, uint32_t expert)
{
    unsigned char *got = malloc(2 * link->bytes);
    unsigned char *other = link->slots + (slot + 1) % EXPERTS * link->bytes;
    assert_non_null(got);
    assert_ok(
        BACKEND_CUDA.download(link->device, got, link->slots + slot * link->bytes, link->bytes));
    assert_ok(BACKEND_CUDA.store_expert(link->device, &SHAPE, &link->tensors[expert], other));
    assert_ok(BACKEND_CUDA.download(link->device, got + link->bytes, other, link->bytes));
    assert_memory_equal(got, got + link->bytes, link->bytes);
    free(got);
}

static void an_awaited_load_has_filled_its_slot(void **unused)
{
    (void)unused;
    static const ComputeType COMPUTES[] = {COMPUTE_F32, COMPUTE_BF16};
    for (size_t c = 0; c < 2; c++) {
        Link link;
        open_link(COMPUTES[c], &link);
        for (uint32_t e = 0; e < EXPERTS; e++) {
            uint32_t slot = (e * 5 + 1) % EXPERTS;
            load(&link, e, slot, 0, e % 2 == 1, e);
            assert_ok(BACKEND_CUDA.await_loads(link.device, &e, 1));
            assert_holds(&link, slot, e);
        }
        close_link(&link);
    }
}

static void loads_follow_each_other_and_take_as_long_as_the_link_would(void **unused)
{
    (void)unused;
    const uint64_t at_least_ns = 3000000;
    Link link;
    open_link(COMPUTE_F32, &link);
    uint64_t before_ns = clock_ns();
    uint64_t end_ns = before_ns;
    for (uint32_t t = 0; t < EXPERTS; t++)
        load(&link, t, t, t % 2 == 0 ? at_least_ns : 0, false, t);
    for (uint32_t t = 0; t < EXPERTS; t++) {
        uint64_t start_ns;
        uint64_t duration_ns;
        assert_ok(BACKEND_CUDA.load_time(link.device, t, &start_ns, &duration_ns));
        assert_true(t % 2 == 1 || duration_ns + CLOCK_NS >= at_least_ns);
        assert_true(start_ns + tie_ns() >= end_ns);
        end_ns = start_ns + duration_ns;
    }
    assert_true(end_ns + tie_ns() >= before_ns + 3 * at_least_ns &&
                end_ns <= clock_ns() + tie_ns());
    close_link(&link);
}

static void loads_begun_together_fill_their_slots_and_have_one_time(void **unused)
{
    (void)unused;
    Link link;
    Load loads[EXPERTS];
    uint64_t start_ns[EXPERTS];
    uint64_t duration_ns[EXPERTS];
    open_link(COMPUTE_BF16, &link);
    for (uint32_t e = 0; e < EXPERTS; e++)
        loads[e] = (Load){.shape = &SHAPE,
                          .kept = link.kept[e],
                          .slot = link.slots + (e + 2) % EXPERTS * link.bytes,
                          .ticket = EXPERTS - 1 - e};
    assert_ok(BACKEND_CUDA.load(link.device, loads, EXPERTS));
    assert_ok(BACKEND_CUDA.await_loads(link.device, &loads[2].ticket, 1));
    assert_ok(BACKEND_CUDA.wait(link.device));
    for (uint32_t t = 0; t < EXPERTS; t++) {
        assert_ok(BACKEND_CUDA.load_time(link.device, t, &start_ns[t], &duration_ns[t]));
        assert_int_equal(start_ns[t], start_ns[0]);
        assert_int_equal(duration_ns[t], duration_ns[0]);
    }
    /* Each check overwrites the slot behind its own. */
    for (uint32_t e = EXPERTS - 1; e-- > 0;)
        assert_holds(&link, (e + 2) % EXPERTS, e);
    close_link(&link);
}

/* The queue still reads a slot when a load into it is asked for. */
static void a_load_after_the_queue_leaves_what_is_read_until_it_was_read(void **unused)
{
    (void)unused;
    const int moves = brief() ? 20 : 400;
    Link link;
    open_link(COMPUTE_F32, &link);
    for (uint32_t round = 0; round < EXPERTS; round++) {
        const uint32_t before = 2 * round;
        const uint32_t ticket = before + 1;
        load(&link, 0, 0, 0, false, before);
        assert_ok(BACKEND_CUDA.await_loads(link.device, &before, 1));
        for (int i = 0; i < moves; i++)
            assert_ok(
                BACKEND_CUDA.move(link.device, link.slots + link.bytes, link.slots, link.bytes));
        load(&link, 1, 0, 0, true, ticket);
        assert_ok(BACKEND_CUDA.wait(link.device));
        assert_holds(&link, 1, 0);
        assert_ok(BACKEND_CUDA.await_loads(link.device, &ticket, 1));
        assert_holds(&link, 0, 1);
    }
    close_link(&link);
}

/* What is queued after a slow load is awaited reads what it brought. */
static void what_awaits_a_slow_load_comes_after_it(void **unused)
{
    (void)unused;
    const uint32_t ticket = 0;
    Link link;
    open_link(COMPUTE_BF16, &link);
    load(&link, 3, 0, 20000000, false, ticket);
    assert_ok(BACKEND_CUDA.await_loads(link.device, &ticket, 1));
    assert_ok(BACKEND_CUDA.move(link.device, link.slots + 2 * link.bytes, link.slots, link.bytes));
    assert_ok(BACKEND_CUDA.wait(link.device));
    assert_holds(&link, 2, 3);
    close_link(&link);
}

/* Loads that are copied one by one, with nothing else on the link: the time between them, which
 * profiles have as copy/gap. */
static void the_link_rests_for_microseconds_between_loads(void **unused)
{
    (void)unused;
    const uint64_t most_ns = 100000;
    Link link;
    uint64_t start_ns[EXPERTS];
    uint64_t duration_ns[EXPERTS];
    uint64_t gaps_ns = 0;
    open_link(COMPUTE_F32, &link);
    for (uint32_t first = 0; first <= EXPERTS; first += EXPERTS) { /* the first time warms up */
        for (uint32_t e = 0; e < EXPERTS; e++)
            load(&link, e, e, 0, false, first + e);
        for (uint32_t e = 0; e < EXPERTS; e++)
            assert_ok(
                BACKEND_CUDA.load_time(link.device, first + e, &start_ns[e], &duration_ns[e]));
        gaps_ns = 0;
        for (uint32_t e = 1; e < EXPERTS; e++) {
            assert_true(start_ns[e] + CLOCK_NS >= start_ns[e - 1] + duration_ns[e - 1]);
            if (start_ns[e] > start_ns[e - 1] + duration_ns[e - 1])
                gaps_ns += start_ns[e] - start_ns[e - 1] - duration_ns[e - 1];
        }
    }
    print_message("between loads: %u ns\n", (unsigned)(gaps_ns / (EXPERTS - 1)));
    assert_true(brief() || gaps_ns / (EXPERTS - 1) < most_ns);
    close_link(&link);
}

static bool link_is_idle(const Link *link)
{
    bool idle;
    assert_ok(BACKEND_CUDA.link_idle(link->device, &idle));
    return idle;
}

static void a_load_in_parts_is_whole_after_its_last_and_the_link_idle_in_between(void **unused)
{
    (void)unused;
    const uint64_t part_ns = 5000000;
    Link link;
    uint64_t start_ns;
    uint64_t duration_ns;
    open_link(COMPUTE_F32, &link);
    assert_true(link_is_idle(&link));
    for (uint32_t part = 0; part < 3; part++) {
        const Load load = {.shape = &SHAPE,
                           .kept = link.kept[4],
                           .slot = link.slots,
                           .at_least_ns = part_ns,
                           .first_part = part,
                           .end_part = part + 1,
                           .parts = 3};
        assert_ok(BACKEND_CUDA.load(link.device, &load, 1));
        assert_false(link_is_idle(&link));
        while (!link_is_idle(&link))
            ;
    }
    assert_ok(BACKEND_CUDA.load_time(link.device, 0, &start_ns, &duration_ns));
    assert_true(duration_ns + 3 * CLOCK_NS >= 3 * part_ns);
    assert_holds(&link, 0, 4);
    close_link(&link);
}

/* And what was queued before does not wait for that. */
static void what_is_held_begins_when_it_is_released(void **unused)
{
    (void)unused;
    const uint64_t held_ns = 50000000; /* others may have the device for milliseconds */
    Link link;
    open_link(COMPUTE_F32, &link);
    for (int round = 0; round < 3; round++) {
        uint64_t ns[STAMPS];
        assert_ok(BACKEND_CUDA.stamp(link.device, 0));
        assert_ok(BACKEND_CUDA.hold(link.device));
        for (uint32_t i = 1; i < STAMPS; i++)
            assert_ok(BACKEND_CUDA.stamp(link.device, i));
        uint64_t start_ns = clock_ns();
        while (clock_ns() < start_ns + held_ns)
            ;
        BACKEND_CUDA.release(link.device);
        assert_ok(BACKEND_CUDA.wait(link.device));
        uint64_t end_ns = clock_ns();
        assert_ok(BACKEND_CUDA.stamp_times(link.device, STAMPS, ns));
        assert_true(ns[0] < start_ns + held_ns);
        assert_true(ns[1] + tie_ns() >= start_ns + held_ns && ns[STAMPS - 1] <= end_ns + tie_ns());
        BACKEND_CUDA.release(link.device); /* of nothing */
    }
    /* One release is of all that was held. */
    uint64_t start_ns = clock_ns();
    assert_ok(BACKEND_CUDA.hold(link.device));
    assert_ok(BACKEND_CUDA.hold(link.device));
    BACKEND_CUDA.release(link.device);
    assert_ok(BACKEND_CUDA.wait(link.device));
    assert_true(clock_ns() < start_ns + 500000000); /* held without a release: a second */
    /* Nobody needs to be told that it is over. */
    assert_ok(BACKEND_CUDA.hold(link.device));
    close_link(&link);
}

/* Small and large, in one wait and in several; the numbers must be there when it returns. */
static void what_the_host_is_told_is_there_after_the_wait(void **unused)
{
    (void)unused;
    enum { MOST = 6, COUNT = 9000 };
    static const size_t BYTES[MOST] = {2, 260, 8192, 18000, 514, 30};
    Link link;
    void *memory;
    uint64_t random = 9;
    open_link(COMPUTE_F32, &link);
    assert_ok(BACKEND_CUDA.allocate_host(link.device, 2 * MOST * COUNT * 2, &memory));
    uint16_t *from = memory;
    uint16_t *to = from + MOST * COUNT;
    for (int round = 0; round < 50; round++) {
        uint32_t n = 1 + random_below(&random, MOST);
        bool done = false;
        for (uint32_t i = 0; i < MOST * COUNT; i++)
            from[i] = (uint16_t)random_below(&random, 65536);
        assert_ok(BACKEND_CUDA.send(link.device, link.slots, from, MOST * COUNT * 2));
        for (uint32_t i = 0; i < n; i++)
            assert_ok(BACKEND_CUDA.tell(link.device, to + i * COUNT, link.slots + i * COUNT * 2,
                                        BYTES[i]));
        while (round % 2 == 0 && !done)
            assert_ok(BACKEND_CUDA.poll(link.device, &done));
        if (round % 2 == 1)
            assert_ok(BACKEND_CUDA.wait(link.device));
        for (uint32_t i = 0; i < n; i++)
            assert_memory_equal(to + i * COUNT, from + i * COUNT, BYTES[i]);
    }
    close_link(&link);
}

static void waiting_for_the_queue_does_not_wait_for_loads(void **unused)
{
    (void)unused;
    const uint64_t long_ns = 60000000;
    Link link;
    open_link(COMPUTE_F32, &link);
    uint64_t start_ns;
    uint64_t duration_ns;
    load(&link, 0, 0, long_ns, false, 0);
    uint64_t before_ns = clock_ns();
    assert_ok(BACKEND_CUDA.wait(link.device));
    assert_true(clock_ns() - before_ns < long_ns / 2);
    assert_ok(BACKEND_CUDA.load_time(link.device, 0, &start_ns, &duration_ns));
    assert_true(duration_ns + CLOCK_NS >= long_ns && clock_ns() - before_ns >= long_ns / 2);
    close_link(&link);
}

static void stamps_ascend_in_the_order_of_the_queue(void **unused)
{
    (void)unused;
    Link link;
    open_link(COMPUTE_F32, &link);
    uint64_t ns[STAMPS];
    uint64_t before_ns = clock_ns();
    for (uint32_t i = 0; i < STAMPS; i++) {
        assert_ok(BACKEND_CUDA.stamp(link.device, i));
        assert_ok(BACKEND_CUDA.move(link.device, link.slots, link.slots + link.bytes, link.bytes));
    }
    assert_ok(BACKEND_CUDA.wait(link.device));
    assert_ok(BACKEND_CUDA.stamp_times(link.device, STAMPS, ns));
    for (uint32_t i = 1; i < STAMPS; i++)
        assert_true(ns[i] > ns[i - 1]);
    assert_true(ns[0] + tie_ns() >= before_ns && ns[STAMPS - 1] <= clock_ns() + tie_ns());
    close_link(&link);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_awaited_load_has_filled_its_slot),
        cmocka_unit_test(loads_follow_each_other_and_take_as_long_as_the_link_would),
        cmocka_unit_test(loads_begun_together_fill_their_slots_and_have_one_time),
        cmocka_unit_test(a_load_after_the_queue_leaves_what_is_read_until_it_was_read),
        cmocka_unit_test(what_awaits_a_slow_load_comes_after_it),
        cmocka_unit_test(the_link_rests_for_microseconds_between_loads),
        cmocka_unit_test(a_load_in_parts_is_whole_after_its_last_and_the_link_idle_in_between),
        cmocka_unit_test(what_is_held_begins_when_it_is_released),
        cmocka_unit_test(what_the_host_is_told_is_there_after_the_wait),
        cmocka_unit_test(waiting_for_the_queue_does_not_wait_for_loads),
        cmocka_unit_test(stamps_ascend_in_the_order_of_the_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
