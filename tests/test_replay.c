#include "tests/reference_buffer.h"

#include <pthread.h>
#include <stdio.h>

#include "base/memory.h"
#include "sim/replay.h"
#include "tests/json_at.h"

static RefTrace trace;

static Plan make_plan(const char *evict, ReplayOrder order, uint32_t slots)
{
    Plan plan = plan_default();
    plan.buffer.on = true;
    plan.buffer.order = order;
    plan.buffer.slots = slots;
    snprintf(plan.buffer.evict, sizeof plan.buffer.evict, "%s", evict);
    return plan;
}

typedef struct {
    uint64_t events;
    uint64_t stop_at;
    uint32_t last_step;
} Watcher;

static Status watch(void *argument, const PackedEvent *event, const BufferAction *actions,
                    uint32_t n_actions)
{
    Watcher *watcher = argument;
    assert_true(event->step >= watcher->last_step);
    watcher->last_step = event->step;
    for (uint32_t i = 0; i < n_actions; i++)
        assert_true(actions[i].kind == RESIDENCY_EVICT ||
                    actions[i].layer_index == event->layer_index);
    if (++watcher->events == watcher->stop_at)
        return ERR_MISMATCH;
    return OK;
}

static void the_observer_sees_every_event_and_can_stop(void **unused)
{
    (void)unused;
    ref_trace_make(&trace, 4, 60);
    Plan plan = make_plan("lru", ORDER_BATCH, 2);
    ReplayFuture future = {0};
    ReplayResult result;
    Watcher watcher = {0};
    assert_ok(replay_run(&trace.packed, &plan, &future, watch, &watcher, &result));
    assert_int_equal(watcher.events, trace.packed.n_events);
    replay_result_free(&result);
    int64_t before = mem_live_blocks();
    watcher = (Watcher){.stop_at = 5};
    assert_int_equal(replay_run(&trace.packed, &plan, &future, watch, &watcher, &result),
                     ERR_MISMATCH);
    assert_int_equal(watcher.events, 5);
    assert_int_equal(mem_live_blocks(), before);
    ref_trace_free(&trace);
}

static void a_future_is_built_once_and_only_for_policies_that_need_it(void **unused)
{
    (void)unused;
    ref_trace_make(&trace, 4, 20);
    ReplayFuture future = {0};
    Plan plan = make_plan("lru", ORDER_SERIAL, 2);
    assert_ok(replay_prepare(&trace.packed, &plan, &future));
    assert_null(future.serial);
    plan = make_plan("belady", ORDER_SERIAL, 2);
    plan.buffer.on = false;
    assert_ok(replay_prepare(&trace.packed, &plan, &future));
    assert_null(future.serial);
    plan.buffer.on = true;
    assert_ok(replay_prepare(&trace.packed, &plan, &future));
    assert_non_null(future.serial);
    assert_null(future.batch);
    const PackedFuture *built = future.serial;
    assert_ok(replay_prepare(&trace.packed, &plan, &future));
    assert_ptr_equal(future.serial, built);
    plan.buffer.order = ORDER_BATCH;
    assert_ok(replay_prepare(&trace.packed, &plan, &future));
    assert_non_null(future.batch);
    replay_future_free(&future);
    ref_trace_free(&trace);
}

static void assert_json_of(const cJSON *json, const ReplayLayer *layer)
{
    const BufferCounts *counts = &layer->counts;
    double lookups = (double)(counts->hits + counts->misses);
    assert_true(number_at(json, "lookups") == lookups);
    assert_true(number_at(json, "hits") == (double)counts->hits);
    assert_true(number_at(json, "misses") == (double)counts->misses);
    assert_true(number_at(json, "miss_ratio") == (double)counts->misses / lookups);
    assert_true(number_at(json, "assignments") == (double)layer->assignments);
    assert_true(number_at(json, "assignment_hits") == (double)layer->assignment_hits);
    assert_true(number_at(json, "loads") == (double)counts->loads);
    assert_true(number_at(json, "bypasses") == (double)counts->bypasses);
    assert_true(number_at(json, "bytes_loaded") == (double)counts->bytes_loaded);
    assert_true(number_at(json, "evictions") == (double)counts->evictions);
    assert_true(number_at(json, "evicted_newest") == (double)counts->evicted_newest);
    assert_true(number_at(json, "evicted_young") == (double)counts->evicted_young);
    if (counts->evictions > 0)
        assert_true(number_at(json, "evicted_newest_share") ==
                    (double)counts->evicted_newest / (double)counts->evictions);
}

static void the_json_has_every_count_in_whole_and_by_layer(void **unused)
{
    (void)unused;
    ref_trace_make(&trace, 6, 60);
    ReplayFuture future = {0};
    ReplayResult result;
    cJSON *json;
    Plan plan = make_plan("belady", ORDER_BATCH, 2);
    assert_ok(replay_prepare(&trace.packed, &plan, &future));
    assert_ok(replay_run(&trace.packed, &plan, &future, NULL, NULL, &result));
    assert_ok(replay_result_json(&result, trace.layers, &json));
    assert_json_of(json, &result.total);
    assert_true(number_at(json, "memory_bytes") == (double)result.memory_bytes);
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(json, "per_layer");
    assert_int_equal(cJSON_GetArraySize(layers), trace.n_layers);
    for (uint32_t i = 0; i < trace.n_layers; i++) {
        const cJSON *layer = cJSON_GetArrayItem(layers, (int)i);
        assert_true(number_at(layer, "layer") == trace.layers[i].layer);
        assert_json_of(layer, &result.layers[i]);
    }
    cJSON_Delete(json);
    replay_result_free(&result);
    replay_future_free(&future);
    ref_trace_free(&trace);
}

static void a_trace_without_steps_has_no_lookups(void **unused)
{
    (void)unused;
    const TraceLayer layer = {.layer = 1, .experts = 4, .top_k = 2, .expert_bytes = 10};
    PackedTrace empty;
    ReplayResult result;
    cJSON *json;
    assert_ok(packed_trace_new(&layer, 1, &empty));
    for (const char *const *name = eviction_names(); *name != NULL; name++) {
        if (eviction_needs_scores(*name)) /* tests/test_signal_policies.c */
            continue;
        Plan plan = make_plan(*name, ORDER_SERIAL, 2);
        ReplayFuture future = {0};
        assert_ok(replay_prepare(&empty, &plan, &future));
        assert_ok(replay_run(&empty, &plan, &future, NULL, NULL, &result));
        assert_int_equal(result.total.counts.hits + result.total.counts.misses, 0);
        assert_ok(replay_result_json(&result, empty.layers, &json));
        assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(json, "miss_ratio")));
        cJSON_Delete(json);
        replay_result_free(&result);
        replay_future_free(&future);
    }
    packed_trace_free(&empty);
}

typedef struct {
    const Plan *plan;
    const ReplayFuture *future;
    ReplayResult result;
    Status status;
} Worker;

static void *replay_in_thread(void *argument)
{
    Worker *worker = argument;
    worker->status =
        replay_run(&trace.packed, worker->plan, worker->future, NULL, NULL, &worker->result);
    return NULL;
}

static void threads_share_trace_and_future(void **unused)
{
    (void)unused;
    ref_trace_make(&trace, 12, 90);
    for (const char *const *name = eviction_names(); *name != NULL; name++) {
        if (eviction_needs_scores(*name))
            continue;
        Plan plan = make_plan(*name, ORDER_BATCH, 3);
        ReplayFuture future = {0};
        Worker workers[3];
        pthread_t threads[3];
        assert_ok(replay_prepare(&trace.packed, &plan, &future));
        for (size_t i = 0; i < 3; i++) {
            workers[i] = (Worker){.plan = &plan, .future = &future};
            assert_int_equal(pthread_create(&threads[i], NULL, replay_in_thread, &workers[i]), 0);
        }
        for (size_t i = 0; i < 3; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(workers[i].status, OK);
            assert_memory_equal(&workers[i].result.total, &workers[0].result.total,
                                sizeof workers[i].result.total);
        }
        for (size_t i = 0; i < 3; i++)
            replay_result_free(&workers[i].result);
        replay_future_free(&future);
    }
    ref_trace_free(&trace);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_observer_sees_every_event_and_can_stop),
        cmocka_unit_test(a_future_is_built_once_and_only_for_policies_that_need_it),
        cmocka_unit_test(the_json_has_every_count_in_whole_and_by_layer),
        cmocka_unit_test(a_trace_without_steps_has_no_lookups),
        cmocka_unit_test(threads_share_trace_and_future),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
