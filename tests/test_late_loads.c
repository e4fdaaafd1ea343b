/* Loads, prefetches and computation of the expert buffer, however the link and the queue take
 * turns: no expert is computed from a slot that does not hold it, decisions are those of the policy
 * alone, and records say what was copied. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "tests/symbolic_device.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "traces/active.h"

enum { LAYERS = 4, EXPERTS = 8, TOP_K = 2, MOST_TOKENS = 5, STEPS = 24 };
enum { MOST_ACTIONS = 256 };

/* Loaded together; held back; held back in parts. */
static const uint32_t D_FF[] = {16, 512, 8192};

typedef struct {
    FfnTensors experts[LAYERS][EXPERTS];
    LayerTensors tensors[LAYERS];
    LayerConfig layers[LAYERS];
    ModelTensors all_tensors;
    ModelConfig config;
    TraceLayer trace_layers[LAYERS];
    LayerSlots layer_slots[LAYERS];
    Plan plan;
    Device device;
    ExpertSlots slots;
    Arena arenas[3];
    ExpertBuffer *reference;
    bool owed[LAYERS][EXPERTS]; /* by what the records say */
    uint64_t random;
} Rig;

/* What happened over all runs of one kind. */
typedef struct {
    uint64_t prefetches;
    uint64_t cancelled;
    uint64_t partial;
    uint64_t late;
} Seen;

/* The routing of a step, and what the decisions see of each of its layers. */
typedef struct {
    uint32_t tokens;
    uint16_t experts[LAYERS][MOST_TOKENS * TOP_K];
    uint32_t first[LAYERS][EXPERTS + 1];
    uint16_t active[LAYERS][EXPERTS];
    uint16_t n_active[LAYERS + 1];
    uint16_t coming[LAYERS * EXPERTS];
} Routed;

/* Experts of every other layer are twice as large where they are UNEVEN. */
static void describe_model(Rig *rig, uint32_t d_ff, bool uneven)
{
    for (uint32_t l = 0; l < LAYERS; l++) {
        const FfnShape shape = {.d_model = 256,
                                .d_ff = d_ff * (uneven ? 1 + l % 2 : 1),
                                .gated = true,
                                .activation = ACTIVATION_SILU};
        rig->layers[l] =
            (LayerConfig){.moe = true, .experts = EXPERTS, .top_k = TOP_K, .ffn = shape};
        rig->tensors[l].experts = rig->experts[l];
        rig->trace_layers[l] = (TraceLayer){.layer = l,
                                            .experts = EXPERTS,
                                            .top_k = TOP_K,
                                            .expert_bytes = ffn_layout(&shape, 4).bytes};
    }
    rig->all_tensors.layers = rig->tensors;
    rig->config = (ModelConfig){.d_model = rig->layers[0].ffn.d_model,
                                .n_layers = LAYERS,
                                .layers = rig->layers,
                                .n_moe_layers = LAYERS,
                                .max_experts = EXPERTS,
                                .max_top_k = TOP_K};
}

static void lay_out_all(Rig *rig)
{
    expert_slots_lay_out_device(&rig->slots, &rig->arenas[0]);
    expert_slots_lay_out_host(&rig->slots, &rig->arenas[1]);
    expert_slots_lay_out_deciding(&rig->slots, &rig->arenas[2]);
}

/* Nothing is ever written to the device's memory, nor read from it. */
static void open_rig(Rig *rig, const Plan *plan, uint32_t d_ff, uint64_t seed)
{
    memset(rig, 0, sizeof *rig);
    describe_model(rig, d_ff, plan->buffer.bytes > 0);
    rig->random = seed;
    rig->plan = *plan;
    rig->device.random = seed ^ 99;
    rig->device.copy_speed = (uint32_t)(seed % 3) * 3 + 1;
    rig->slots = (ExpertSlots){.backend = &SYMBOLIC,
                               .device = &rig->device,
                               .config = &rig->config,
                               .tensors = &rig->all_tensors,
                               .trace_layers = rig->trace_layers,
                               .n_layers = LAYERS,
                               .max_tokens = MOST_TOKENS,
                               .weight_bytes = 4,
                               .plan = &rig->plan,
                               .layers = rig->layer_slots};
    assert_ok(expert_slots_open(&rig->slots, NULL, 0));
    assert_ok(buffer_new(&rig->plan, rig->trace_layers, LAYERS, &rig->reference));
    lay_out_all(rig);
    rig->arenas[0].base = mmap(NULL, rig->arenas[0].capacity, PROT_NONE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(rig->arenas[0].base != MAP_FAILED);
    for (size_t i = 1; i < 3; i++)
        assert_ok(arena_commit(&rig->arenas[i], "test"));
    lay_out_all(rig);
    assert_ok(expert_slots_fill(&rig->slots));
}

static void close_rig(Rig *rig)
{
    expert_slots_close(&rig->slots);
    buffer_free(rig->reference);
    munmap(rig->arenas[0].base, rig->arenas[0].capacity);
    for (size_t i = 1; i < 3; i++)
        arena_free(&rig->arenas[i]);
}

/* Experts of a layer that comes back to some of them. */
static void draw_routing(Rig *rig, Routed *routed)
{
    uint32_t n_coming = 0;
    routed->tokens = 1 + random_below(&rig->random, MOST_TOKENS);
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint32_t count[EXPERTS] = {0};
        for (uint32_t t = 0; t < routed->tokens; t++) {
            uint32_t one = random_below(&rig->random, 1 + random_below(&rig->random, EXPERTS));
            uint32_t other = (one + 1 + random_below(&rig->random, EXPERTS - 1)) % EXPERTS;
            routed->experts[l][TOP_K * t] = (uint16_t)one;
            routed->experts[l][TOP_K * t + 1] = (uint16_t)other;
            count[one]++;
            count[other]++;
        }
        routed->n_active[l] = 0;
        for (uint32_t e = 0; e < EXPERTS; e++) {
            routed->first[l][e + 1] = routed->first[l][e] + count[e];
            if (count[e] > 0) {
                routed->active[l][routed->n_active[l]++] = (uint16_t)e;
                routed->coming[n_coming++] = (uint16_t)e;
            }
        }
    }
}

/* The records of the event are the actions of a buffer that has never heard of loads. */
static void assert_decided(Rig *rig, const BufferEvent *asked, size_t first_record)
{
    BufferAction actions[MOST_ACTIONS];
    uint32_t n = 0;
    buffer_event(rig->reference, asked, NULL, actions, &n);
    assert_int_equal(rig->slots.n_residency - first_record, n);
    for (uint32_t i = 0; i < n; i++) {
        const ResidencyRecord *record = &rig->slots.residency[first_record + i];
        assert_true(record->kind == actions[i].kind && record->slot == actions[i].slot &&
                    record->expert == actions[i].expert && record->layer == actions[i].layer_index);
    }
}

static void run_event(Rig *rig, const Routed *routed, uint32_t layer, bool waits,
                      const uint16_t *coming)
{
    uint16_t touches[EXPERTS];
    uint16_t place[EXPERTS];
    uint32_t n_active = routed->n_active[layer];
    LayerSlots *slots = &rig->layer_slots[layer];
    const SymbolicBatch batch = {.batch = {.shape = slots->shape,
                                           .tokens = routed->tokens,
                                           .top_k = TOP_K,
                                           .n_experts = EXPERTS,
                                           .slots = slots->slots,
                                           .slot_stride = slots->slot_stride},
                                 .experts = rig->experts[layer]};
    const ExpertEvent event = {.layer_index = layer,
                               .first = routed->first[layer],
                               .experts = routed->experts[layer],
                               .n_ids = routed->tokens * TOP_K,
                               .n_coming = &routed->n_active[layer],
                               .coming = coming,
                               .batch = &batch.batch};
    size_t first_record = rig->slots.n_residency;
    uint32_t took_part = 0;
    if (waits) {
        if (random_below(&rig->random, 2) == 0)
            assert_ok(expert_slots_hand_over(&rig->slots));
        assert_ok(expert_slots_wait(&rig->slots));
        assert_ok(expert_slots_run(&rig->slots, &event, &took_part));
    } else {
        took_part = expert_slots_note(&rig->slots, &event);
    }
    assert_int_equal(took_part, n_active);
    last_touches(routed->experts[layer], routed->tokens * TOP_K, routed->active[layer], n_active,
                 place, touches);
    const BufferEvent asked = {.layer_index = layer,
                               .n = n_active,
                               .experts = routed->active[layer],
                               .touches = rig->plan.buffer.order == ORDER_STAGED ? touches : NULL,
                               .n_coming = &routed->n_active[layer],
                               .coming = coming};
    assert_decided(rig, &asked, first_record);
}

/* Bytes that the link has copied. */
static uint64_t bytes_copied(const Rig *rig)
{
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < rig->device.n_copies; i++) {
        const Load *load = &rig->device.copies[i].load;
        uint64_t expert_bytes = ffn_layout(load->shape, 4).bytes;
        bytes += load->parts == 0 ? expert_bytes
                                  : expert_bytes * load->end_part / load->parts -
                                        expert_bytes * load->first_part / load->parts;
    }
    return bytes;
}

/* What a record says of bytes goes with those before it: a prefetch that was cancelled is owed, and
 * made up for by the hit. */
static void follow_record(Rig *rig, const ResidencyRecord *record, Seen *seen)
{
    uint64_t whole = rig->trace_layers[record->layer].expert_bytes;
    bool *owed = &rig->owed[record->layer][record->expert];
    if (record->kind == RESIDENCY_PREFETCH) {
        seen->prefetches++;
        seen->cancelled += record->bytes == 0;
        seen->partial += record->bytes > 0 && record->bytes < whole;
        *owed = record->bytes == 0;
    } else if (record->kind == RESIDENCY_HIT) {
        assert_true(record->bytes == (*owed ? whole : 0));
        seen->late += *owed;
        *owed = false;
    } else {
        assert_true(record->bytes == (record->kind == RESIDENCY_LOAD ? whole : 0));
        *owed = false;
    }
}

/* After a step every resident is in its slot, or owed. */
static void assert_in_place(Rig *rig)
{
    symbolic_finish(&rig->device);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            uint32_t slot = buffer_slot_of(rig->reference, l, e);
            const LayerSlots *slots = &rig->layer_slots[l];
            assert_true(slots->slot_of[e].slot == (slot == BUFFER_NO_SLOT ? NO_SLOT : slot));
            if (slot == BUFFER_NO_SLOT || rig->owed[l][e])
                continue;
            assert_ptr_equal(
                symbolic_content(&rig->device, slots->slots + slot * slots->slot_stride),
                &rig->experts[l][e]);
        }
}

static void end_step(Rig *rig, Seen *seen)
{
    const ExpertSlots *slots = &rig->slots;
    uint64_t bytes = 0;
    assert_ok(expert_slots_await_prefetches(&rig->slots));
    assert_ok(SYMBOLIC.wait(&rig->device));
    assert_ok(expert_slots_end_step(&rig->slots, 5));
    for (size_t i = 0; i < slots->n_residency; i++) {
        follow_record(rig, &slots->residency[i], seen);
        bytes += slots->residency[i].bytes;
    }
    assert_int_equal(bytes, bytes_copied(rig));
    for (uint32_t ticket = 0; ticket < slots->n_loads; ticket++) {
        const ResidencyRecord *record = &slots->residency[slots->load_records[ticket]];
        assert_true(record->start_ns == 1000 * (uint64_t)ticket + 5 && record->bytes > 0 &&
                    record->duration_ns == ticket + 1);
    }
    assert_in_place(rig);
}

static void run_plan(const Plan *plan, uint32_t d_ff, uint64_t seed, Seen *seen)
{
    static Rig rig;
    open_rig(&rig, plan, d_ff, seed);
    for (uint32_t step = 0; step < STEPS; step++) {
        Routed routed = {0};
        bool waits;
        const uint16_t *coming = routed.coming;
        draw_routing(&rig, &routed);
        symbolic_begin_step(&rig.device);
        assert_ok(expert_slots_start_step(&rig.slots, &waits));
        for (uint32_t l = 0; l < LAYERS; l++) {
            run_event(&rig, &routed, l, waits, coming);
            coming += routed.n_active[l];
        }
        end_step(&rig, seen);
    }
    close_rig(&rig);
}

static Plan make_plan(ReplayOrder order, BufferScopeKind scope, const char *evict,
                      const char *predictor, uint32_t slots)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.order = order;
    plan.buffer.scope = scope;
    plan.buffer.slots = scope == SCOPE_DEVICE ? LAYERS * slots : slots;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", evict);
    snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", predictor);
    plan.prefetch.max_inflight = 4;
    return plan;
}

/* All sizes, evictions and predictors under one order and scope. */
static Seen run_all(ReplayOrder order, BufferScopeKind scope)
{
    static const char *const EVICTS[] = {"lru", "fifo", "lifo-inactive-first", "lfu"};
    static const char *const PREDICTORS[] = {"none",      "previous-step", "transition",
                                             "frequency", "oracle:2",      "synthetic:0.6,0.5"};
    static const uint32_t SLOTS[] = {2, 4, 6, EXPERTS};
    Seen seen = {0};
    uint64_t seed = 1;
    for (size_t p = 0; p < 6; p++)
        for (size_t e = 0; e < 4; e++)
            for (size_t s = 0; s < 4; s++)
                for (size_t size = 0; size < 3; size++)
                    for (int throttled = 0; throttled < 2; throttled++) {
                        Plan plan = make_plan(order, scope, EVICTS[e], PREDICTORS[p], SLOTS[s]);
                        plan.link.h2d_gb_per_s = throttled;
                        run_plan(&plan, D_FF[size], seed++, &seen);
                    }
    return seen;
}

/* A budget in bytes over experts of two sizes: where a large one goes, slots stay free that the
 * event has read, and prefetches take them. */
static Seen run_uneven(ReplayOrder order)
{
    static const char *const PREDICTORS[] = {"previous-step", "transition", "oracle:1"};
    Seen seen = {0};
    for (uint64_t seed = 1; seed <= 240; seed++) {
        Plan plan =
            make_plan(order, SCOPE_DEVICE, seed % 2 ? "lru" : "lifo", PREDICTORS[seed % 3], 1);
        uint32_t d_ff = D_FF[seed % 3];
        const FfnShape small = {.d_model = 256, .d_ff = d_ff, .gated = true};
        plan.buffer.slots = 0;
        plan.buffer.bytes = (3 + seed % 40) * ffn_layout(&small, 4).bytes;
        plan.link.h2d_gb_per_s = seed % 4 == 0;
        run_plan(&plan, d_ff, seed, &seen);
    }
    return seen;
}

static void assert_all_ways_were_gone(const Seen *seen)
{
    assert_true(seen->prefetches > 5000);
    assert_true(seen->cancelled > 500);
    assert_true(seen->late > 100);
    assert_true(seen->late <= seen->cancelled);
}

static void serial_events_overlap_with_loads_and_compute_what_was_decided(void **unused)
{
    (void)unused;
    Seen layer = run_all(ORDER_SERIAL, SCOPE_LAYER);
    Seen device = run_all(ORDER_SERIAL, SCOPE_DEVICE);
    assert_all_ways_were_gone(&layer);
    assert_all_ways_were_gone(&device);
    assert_true(device.partial > 0);
}

static void batches_overlap_with_loads_and_compute_what_was_decided(void **unused)
{
    (void)unused;
    Seen layer = run_all(ORDER_BATCH, SCOPE_LAYER);
    Seen device = run_all(ORDER_BATCH, SCOPE_DEVICE);
    assert_all_ways_were_gone(&layer);
    assert_all_ways_were_gone(&device);
    assert_true(device.partial > 0);
}

static void staged_events_overlap_with_loads_and_compute_what_was_decided(void **unused)
{
    (void)unused;
    Seen layer = run_all(ORDER_STAGED, SCOPE_LAYER);
    Seen device = run_all(ORDER_STAGED, SCOPE_DEVICE);
    assert_all_ways_were_gone(&layer);
    assert_all_ways_were_gone(&device);
    assert_true(device.partial > 0);
}

static void experts_of_two_sizes_share_a_budget_in_bytes_in_every_order(void **unused)
{
    (void)unused;
    for (ReplayOrder order = ORDER_SERIAL; order <= ORDER_STAGED; order++) {
        Seen seen = run_uneven(order);
        assert_true(seen.prefetches > 500 && seen.cancelled > 20 && seen.late > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(serial_events_overlap_with_loads_and_compute_what_was_decided),
        cmocka_unit_test(batches_overlap_with_loads_and_compute_what_was_decided),
        cmocka_unit_test(staged_events_overlap_with_loads_and_compute_what_was_decided),
        cmocka_unit_test(experts_of_two_sizes_share_a_budget_in_bytes_in_every_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
