/* The shipped model against reference.safetensors, which another implementation made from the same
 * weights. MOEBIUS_REFERENCE_MODEL names another directory of that kind to test instead. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "exec/executor.h"

enum { MAX_LENGTH = 1024 };

static const char SHIPPED[] = "models/tiny-32x4";

typedef struct {
    Checkpoint *checkpoint;
    SafeTensors *reference;
    Executor *executor;
    uint64_t routed; /* (token, layer) rows compared, and those at a near tie */
    uint64_t ties;
    double worst_logit;
    double worst_weight;
} Fixture;

static Fixture fixture;

static const char *directory(void)
{
    const char *named = getenv("MOEBIUS_REFERENCE_MODEL");
    return named != NULL && named[0] != '\0' ? named : SHIPPED;
}

static int open_model(void **state)
{
    (void)state;
    static Plan plan;
    char path[512];
    plan = plan_default();
    snprintf(path, sizeof path, "%s/reference.safetensors", directory());
    assert_ok(checkpoint_open(directory(), &fixture.checkpoint));
    assert_ok(safetensors_open(path, &fixture.reference));
    const ExecutorOptions options = {.plan = &plan,
                                     .device = "cpu",
                                     .max_requests = 1,
                                     .max_length = MAX_LENGTH,
                                     .max_tokens = MAX_LENGTH,
                                     .logits = LOGITS_ALL};
    assert_ok(executor_open(fixture.checkpoint, &options, &fixture.executor));
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    executor_close(fixture.executor);
    safetensors_close(fixture.reference);
    checkpoint_close(fixture.checkpoint);
    return 0;
}

static const Tensor *find(const char *domain, const char *name, uint32_t rank, Dtype dtype)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", domain, name);
    const Tensor *tensor = safetensors_find(fixture.reference, full);
    if (tensor == NULL || tensor->rank != rank || tensor->dtype != dtype)
        fail_msg("%s: missing, or of another rank or dtype", full);
    return tensor;
}

static int64_t integer_at(const Tensor *tensor, size_t i)
{
    int32_t narrow;
    int64_t wide;
    if (tensor->dtype == DTYPE_I32) {
        memcpy(&narrow, (const char *)tensor->data + 4 * i, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, (const char *)tensor->data + 8 * i, sizeof wide);
    return wide;
}

static float float_at(const Tensor *tensor, size_t i)
{
    float value;
    tensor_to_f32(tensor, i, 1, &value);
    return value;
}

/* True when the order of the chosen experts, or the choice itself, hangs on less than 1e-4 of a
 * score. */
static bool is_near_tie(const float *scores, uint32_t n_experts, const uint16_t *chosen, uint32_t k)
{
    float next = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        bool taken = false;
        for (uint32_t slot = 0; slot < k; slot++)
            taken = taken || chosen[slot] == e;
        next = !taken && scores[e] > next ? scores[e] : next;
    }
    for (uint32_t slot = 0; slot < k; slot++) {
        float below = slot + 1 < k ? scores[chosen[slot + 1]] : next;
        if (scores[chosen[slot]] - below <= 1e-4f * scores[chosen[slot]])
            return true;
    }
    return false;
}

static void compare_layer(const char *domain, uint32_t layer, const LayerConfig *shape,
                          uint32_t tokens, const uint16_t *experts, const float *weights,
                          const float *scores)
{
    char name[64];
    uint32_t k = shape->top_k;
    snprintf(name, sizeof name, "layer%u.expert_ids", layer);
    const Tensor *ids = find(domain, name, 2, DTYPE_I32);
    snprintf(name, sizeof name, "layer%u.weights", layer);
    const Tensor *wanted = find(domain, name, 2, DTYPE_F32);
    assert_true(ids->shape[0] == tokens && ids->shape[1] == k);
    assert_true(wanted->shape[0] == tokens && wanted->shape[1] == k);
    for (uint32_t i = 0; i < tokens; i++, fixture.routed++) {
        const float *row = scores + (size_t)i * shape->experts;
        if (is_near_tie(row, shape->experts, experts + (size_t)i * k, k)) {
            fixture.ties++;
            continue;
        }
        for (uint32_t slot = 0; slot < k; slot++) {
            size_t at = (size_t)i * k + slot;
            if (experts[at] != integer_at(ids, at))
                fail_msg("%s: layer %u: token %u: slot %u: expert %u, the reference has %lld",
                         domain, layer, i, slot, experts[at], (long long)integer_at(ids, at));
            double difference = fabs((double)weights[at] - float_at(wanted, at));
            if (difference > fixture.worst_weight)
                fixture.worst_weight = difference;
        }
    }
}

static void compare_logit(const char *domain, uint32_t token, int64_t id, float got, float wanted)
{
    double difference = fabs((double)got - wanted);
    if (!(difference <= 2e-3))
        fail_msg("%s: token %u: logit %lld: %g, the reference has %g", domain, token, (long long)id,
                 (double)got, (double)wanted);
    if (difference > fixture.worst_logit)
        fixture.worst_logit = difference;
}

static void compare_logits(const char *domain, uint32_t tokens, const float *logits)
{
    size_t vocabulary = checkpoint_config(fixture.checkpoint)->vocabulary;
    const Tensor *ids = find(domain, "top5_ids", 2, DTYPE_I32);
    const Tensor *top = find(domain, "top5_logits", 2, DTYPE_F32);
    const Tensor *last = find(domain, "last_logits", 1, DTYPE_F32);
    assert_true(ids->shape[0] == tokens && last->shape[0] == vocabulary);
    for (uint32_t i = 0; i < tokens; i++)
        for (uint32_t j = 0; j < ids->shape[1]; j++) {
            size_t at = i * ids->shape[1] + j;
            int64_t id = integer_at(ids, at);
            compare_logit(domain, i, id, logits[i * vocabulary + (size_t)id], float_at(top, at));
        }
    for (size_t id = 0; id < vocabulary; id++)
        compare_logit(domain, tokens - 1, (int64_t)id, logits[(tokens - 1) * vocabulary + id],
                      float_at(last, id));
}

static void compare_domain(const char *domain)
{
    const ModelConfig *config = checkpoint_config(fixture.checkpoint);
    const Tensor *ids = find(domain, "input_ids", 1, DTYPE_I32);
    uint32_t token[MAX_LENGTH];
    uint32_t kv_slot[MAX_LENGTH] = {0};
    uint32_t position[MAX_LENGTH];
    uint32_t tokens = (uint32_t)ids->shape[0];
    assert_true(ids->shape[0] <= MAX_LENGTH);
    for (uint32_t i = 0; i < tokens; i++) {
        token[i] = (uint32_t)integer_at(ids, i);
        position[i] = i;
    }
    StepOutput output;
    const StepInput input = {.tokens = tokens,
                             .scores = true,
                             .token = token,
                             .kv_slot = kv_slot,
                             .position = position,
                             .logits = LOGITS_ALL};
    assert_ok(executor_step(fixture.executor, &input, &output));
    executor_release(fixture.executor, 0);
    size_t routed = 0;
    size_t scored = 0;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const LayerConfig *layer = &config->layers[i];
        if (!layer->moe)
            continue;
        compare_layer(domain, i, layer, tokens, output.experts + routed, output.weights + routed,
                      output.router_scores + scored);
        routed += (size_t)tokens * layer->top_k;
        scored += (size_t)tokens * layer->experts;
    }
    compare_logits(domain, tokens, output.logits);
}

static void every_domain_routes_and_predicts_as_the_reference(void **state)
{
    (void)state;
    static const char ENDING[] = ".input_ids";
    uint32_t domains = 0;
    for (size_t i = 0; i < safetensors_count(fixture.reference); i++) {
        const char *name = safetensors_at(fixture.reference, i)->name;
        size_t length = strlen(name);
        char domain[64];
        if (length < sizeof ENDING || strcmp(name + length - strlen(ENDING), ENDING) != 0)
            continue;
        snprintf(domain, sizeof domain, "%.*s", (int)(length - strlen(ENDING)), name);
        compare_domain(domain);
        domains++;
    }
    print_message("%s: %u domains, %llu (token, layer) rows, %llu at a near tie; largest "
                  "differences: weights %.2g, logits %.2g\n",
                  directory(), domains, (unsigned long long)fixture.routed,
                  (unsigned long long)fixture.ties, fixture.worst_weight, fixture.worst_logit);
    assert_true(domains >= 5);
    assert_true(fixture.worst_weight <= 1e-3);
    assert_true(fixture.ties * 50 < fixture.routed);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_domain_routes_and_predicts_as_the_reference),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
