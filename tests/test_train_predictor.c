/* Tables of predictors that are learnt from a part of a trace. */
#include "tests/reference_prefetch.h"

#include <stdio.h>

#include "base/memory.h"
#include "sim/parts.h"
#include "sim/replay.h"
#include "sim/sweep_learn.h"
#include "tests/plan_maker.h"
#include "tests/train_maker.h"

/* Steps of the training part that need both. */
static uint64_t count_pairs(uint32_t steps, uint32_t from, uint32_t expert, uint32_t to,
                            uint32_t follower)
{
    uint64_t pairs = 0;
    for (uint32_t s = 0; s < steps; s++) {
        const RefEvent *events = &trace.events[(size_t)s * trace.n_layers];
        bool both[2] = {false, false};
        for (uint32_t i = 0; i < events[from].n; i++)
            both[0] = both[0] || events[from].experts[i] == expert;
        for (uint32_t i = 0; i < events[to].n; i++)
            both[1] = both[1] || events[to].experts[i] == follower;
        pairs += both[0] && both[1];
    }
    return pairs;
}

/* Adds the shares of the N that follow EXPERT most. */
static void add_followers(uint32_t steps, uint32_t from, uint32_t expert, uint32_t to, uint32_t n,
                          uint64_t *score)
{
    bool taken[REF_EXPERTS] = {false};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t best = REF_EXPERTS;
        uint64_t most = 0;
        for (uint32_t e = 0; e < trace.layers[to].experts; e++) {
            uint64_t pairs = count_pairs(steps, from, expert, to, e);
            if (!taken[e] && pairs > most) {
                best = e;
                most = pairs;
            }
        }
        if (best == REF_EXPERTS)
            return;
        taken[best] = true;
        score[best] += most * 1024 / count_events(steps, from, expert);
    }
}

typedef struct {
    uint32_t steps;
    uint32_t successors;
} Learnt;

static uint32_t predict_from_training(struct RefPrefetch *prefetch, uint32_t target,
                                      uint64_t *score)
{
    const Learnt *learnt = prefetch->argument;
    const RefEvent *event = &trace.events[prefetch->buffer.event];
    for (uint32_t e = 0; e < trace.layers[target].experts; e++)
        if (strcmp(prefetch->predictor, "frequency") == 0)
            score[e] = count_events(learnt->steps, target, e);
    for (uint32_t i = 0; i < event->n && strcmp(prefetch->predictor, "transition") == 0; i++)
        add_followers(learnt->steps, event->layer, event->experts[i], target, learnt->successors,
                      score);
    return event->n;
}

static Status compare_actions(void *argument, const PackedEvent *event, const BufferAction *actions,
                              uint32_t n_actions)
{
    const BufferAction **wanted = argument;
    (void)event;
    for (uint32_t i = 0; i < n_actions; i++, (*wanted)++)
        if (actions[i].kind != (*wanted)->kind || actions[i].expert != (*wanted)->expert ||
            actions[i].layer_index != (*wanted)->layer_index || actions[i].slot != (*wanted)->slot)
            fail_msg("%s of %u/%u, wanted %s of %u/%u", residency_kind_name(actions[i].kind),
                     actions[i].layer_index, actions[i].expert,
                     residency_kind_name((*wanted)->kind), (*wanted)->layer_index,
                     (*wanted)->expert);
    return OK;
}

static void trained_predictors_decide_as_plain_counts_over_the_training_part(void **unused)
{
    (void)unused;
    uint64_t state = 21;
    uint64_t prefetches = 0;
    for (int i = 0; i < 150; i++) {
        static RefPrefetch wanted;
        Plan learnt;
        ReplayFuture none = {0};
        ReplayResult result;
        ref_trace_make(&trace, random_next(&state), 25);
        Plan plan = random_budget(&state, random_below(&state, 2) ? "lru" : "lfu");
        wanted = (RefPrefetch){.predictor = i % 2 ? "transition" : "frequency",
                               .predict = predict_from_training};
        Learnt training = {1 + random_below(&state, n_steps(&trace)), 8};
        snprintf(plan.prefetch.predictor, sizeof plan.prefetch.predictor, "%s", wanted.predictor);
        plan.prefetch.table.choice = TABLE_TRAINED;
        plan.prefetch.distance = 1 + random_below(&state, 3);
        plan.prefetch.max_inflight = 1 + random_below(&state, 6);
        if (i % 2 && random_below(&state, 2))
            training.successors = plan.prefetch.successors = 1 + random_below(&state, 6);
        const TraceParts parts = {.trains = true, .train = {0, training.steps}};
        assert_ok(learn_plan(&trace.packed, NULL, &parts, &plan, &learnt));
        wanted.argument = &training;
        ref_run_prefetch(&wanted, &trace, &learnt);
        const BufferAction *at = wanted.buffer.actions;
        assert_ok(replay_run(&trace.packed, &learnt, &none, compare_actions, &at, &result));
        assert_int_equal(at - wanted.buffer.actions, wanted.buffer.n_actions);
        prefetches += result.total.counts.prefetches;
        replay_result_free(&result);
        free(wanted.buffer.actions);
        plan_free(&learnt);
        ref_trace_free(&trace);
    }
    assert_true(prefetches > 200);
}

static void tables_of_predictors_that_do_not_fit_are_refused(void **unused)
{
    (void)unused;
    static const TraceLayer LAYERS[2] = {{.layer = 1, .experts = 2, .top_k = 1, .expert_bytes = 1},
                                         {.layer = 4, .experts = 3, .top_k = 1, .expert_bytes = 1}};
    static const struct {
        const char *predictor;
        const char *table;
        const char *reason;
    } cases[] = {
        {"frequency", "{}", "layer 4 is missing"},
        {"frequency", "{\"4\": [[1, 2]]}", "layer 4: 2 numbers, it has 3 experts"},
        {"frequency", "{\"4\": [[1, 2, 3], []]}", "layer 4: 2 lists, wanted are 1"},
        {"transition", "{\"4\": [[], [], []]}", "layer 1 is missing"},
        {"transition", "{\"1\": [[]]}", "layer 1: 1 lists, wanted are 2"},
        {"transition", "{\"1\": [[], [2]]}", "layer 1: expert 1: must be pairs"},
        {"transition", "{\"1\": [[3, 1], []]}", "layer 1: expert 0: must be pairs"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[300];
        ExpertBuffer *buffer;
        snprintf(text, sizeof text,
                 "{\"moebius_plan\": 1, \"buffer\": {\"slots\": 2}, \"prefetch\": {\"predictor\": "
                 "\"%s\", \"table\": %s}}",
                 cases[i].predictor, cases[i].table);
        Plan plan = good_plan(text);
        assert_int_equal(buffer_new(&plan, LAYERS, 2, &buffer), ERR_PLAN);
        if (strstr(error_message(), cases[i].reason) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", error_message(), cases[i].reason);
        plan_free(&plan);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trained_predictors_decide_as_plain_counts_over_the_training_part),
        cmocka_unit_test(tables_of_predictors_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
