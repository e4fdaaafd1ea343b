/* moebius forward against transformers' outputs, where the folder of fixtures is: $MOEBIUS_SHARED
 * or ../shared (conformance/ARCH/{config.json, model.safetensors, reference.safetensors}). */
#include "tests/cli_run.h"

#include <math.h>

#include "base/files.h"
#include "base/memory.h"
#include "exec/checkpoint.h"

static const char *const ARCHITECTURES[] = {
    "deepseek_v2", "deepseek_v3", "gpt_oss",   "mixtral",   "nllb-moe",
    "olmoe",       "phimoe",      "qwen2_moe", "qwen3_moe", "switch_transformers",
};

enum { MOST_PATH = 600 };

static const char *shared(void)
{
    const char *folder = getenv("MOEBIUS_SHARED");
    return folder != NULL ? folder : "../shared";
}

static void fixture_path(const char *architecture, const char *file, char path[MOST_PATH])
{
    snprintf(path, MOST_PATH, "%s/conformance/%s/%s", shared(), architecture, file);
}

/* Element I of an integer tensor. */
static int id_at(const Tensor *tensor, size_t i)
{
    int32_t id;
    assert_int_equal(tensor->dtype, DTYPE_I32);
    memcpy(&id, (const unsigned char *)tensor->data + i * sizeof id, sizeof id);
    return id;
}

static float float_at(const Tensor *tensor, size_t i)
{
    float value;
    tensor_to_f32(tensor, i, 1, &value);
    return value;
}

static const Tensor *need(const SafeTensors *file, const char *name)
{
    const Tensor *tensor = safetensors_find(file, name);
    if (tensor == NULL)
        fail_msg("no tensor %s", name);
    return tensor;
}

static size_t elements(const Tensor *tensor)
{
    return tensor->bytes / dtype_bytes(tensor->dtype);
}

static double logits_difference(const SafeTensors *ours, const SafeTensors *reference)
{
    const Tensor *a = need(ours, "logits");
    const Tensor *b = need(reference, "logits");
    double worst = 0;
    assert_int_equal(elements(a), elements(b));
    for (size_t i = 0; i < elements(a); i++)
        worst = fmax(worst, fabs((double)float_at(a, i) - (double)float_at(b, i)));
    return worst;
}

/* What the reference's router chose for (TOKEN, SLOT): ids, or one-hot rows. */
static int reference_id(const Tensor *ids, uint32_t top_k, size_t token, uint32_t slot)
{
    if (ids->rank != 3)
        return id_at(ids, token * top_k + slot);
    size_t experts = ids->shape[2];
    for (size_t e = 0; e < experts; e++)
        if (id_at(ids, token * experts + e) != 0)
            return (int)e;
    return -1;
}

/* Our weight of EXPERT at TOKEN, or -1. */
static double our_weight(const Tensor *ids, const Tensor *weights, uint32_t top_k, size_t token,
                         int expert)
{
    for (size_t at = token * top_k; at < (token + 1) * top_k; at++)
        if (id_at(ids, at) == expert)
            return float_at(weights, at);
    return -1;
}

/* Compares the layer's choices and weights; the order within a token is the framework's own.
 * Returns how many were compared. */
static size_t compare_layer(const SafeTensors *ours, const SafeTensors *reference,
                            const TraceLayer *layer, const char *router)
{
    char name[300];
    bool pair = false;
    snprintf(name, sizeof name, "%s.2", router);
    pair = safetensors_find(reference, name) == NULL ||
           safetensors_find(reference, name)->dtype != DTYPE_I32;
    snprintf(name, sizeof name, "%s.%d", router, pair ? 1 : 2);
    const Tensor *ids = need(reference, name);
    snprintf(name, sizeof name, "%s.%d", router, pair ? 0 : 1);
    const Tensor *weights = need(reference, name);
    snprintf(name, sizeof name, "layer%u.expert_ids", layer->layer);
    const Tensor *our_ids = need(ours, name);
    snprintf(name, sizeof name, "layer%u.weights", layer->layer);
    const Tensor *our_weights = need(ours, name);
    size_t tokens = our_ids->shape[0];
    assert_int_equal(elements(weights), tokens * layer->top_k);
    for (size_t token = 0; token < tokens; token++)
        for (uint32_t slot = 0; slot < layer->top_k; slot++) {
            int expert = reference_id(ids, layer->top_k, token, slot);
            double wanted = float_at(weights, token * layer->top_k + slot);
            double got = our_weight(our_ids, our_weights, layer->top_k, token, expert);
            if (fabs(got - wanted) > 1e-4)
                fail_msg("%s: token %zu: expert %d at %g, wanted %g", router, token, expert, got,
                         wanted);
        }
    return tokens * layer->top_k;
}

/* The name of LAYER's router in the reference: its module's, and what the framework calls it. */
static bool find_router(const SafeTensors *reference, const char *module, char router[256])
{
    static const char *const NAMES[] = {"gate", "router"};
    for (size_t i = 0; i < 2; i++) {
        char name[300];
        snprintf(router, 256, "router.%s.%s", module, NAMES[i]);
        snprintf(name, sizeof name, "%s.0", router);
        if (safetensors_find(reference, name) != NULL)
            return true;
    }
    return false;
}

static size_t compare_routing(const char *architecture, const SafeTensors *ours,
                              const SafeTensors *reference)
{
    char path[MOST_PATH];
    Checkpoint *checkpoint;
    size_t compared = 0;
    snprintf(path, sizeof path, "%s/conformance/%s", shared(), architecture);
    assert_ok(checkpoint_open(path, &checkpoint));
    const ModelConfig *config = checkpoint_config(checkpoint);
    for (uint32_t i = 0; i < config->n_layers; i++) {
        TraceLayer layer = {.layer = i, .top_k = config->layers[i].top_k};
        char router[256];
        if (!config->layers[i].moe)
            continue;
        checkpoint_moe_name(checkpoint, i, layer.name);
        if (!find_router(reference, layer.name, router))
            fail_msg("%s: the reference has no router of %s", architecture, layer.name);
        compared += compare_layer(ours, reference, &layer, router);
    }
    checkpoint_close(checkpoint);
    return compared;
}

static void check_architecture(const char *architecture)
{
    static CliRun run;
    char folder[MOST_PATH];
    char reference_path[MOST_PATH];
    const char *out = scratch_path("out.safetensors");
    SafeTensors *reference;
    SafeTensors *ours;
    snprintf(folder, sizeof folder, "%s/conformance/%s", shared(), architecture);
    fixture_path(architecture, "reference.safetensors", reference_path);
    cli_run((const char *const[]){"forward", "--model", folder, "--tokens", reference_path, "--out",
                                  out, NULL},
            &run);
    if (run.code != 0)
        fail_msg("%s: %s", architecture, run.err);
    assert_ok(safetensors_open(reference_path, &reference));
    assert_ok(safetensors_open(out, &ours));
    double difference = logits_difference(ours, reference);
    size_t compared = compare_routing(architecture, ours, reference);
    print_message("%-20s logits within %.1e, %zu routed rows equal\n", architecture, difference,
                  compared);
    assert_true(difference <= 1e-3);
    safetensors_close(reference);
    safetensors_close(ours);
    remove(out);
}

static void logits_and_routing_are_those_of_transformers(void **state)
{
    (void)state;
    char path[MOST_PATH];
    fixture_path(ARCHITECTURES[0], "config.json", path);
    if (!file_exists(path)) {
        print_message("skipped: %s is not there\n", path);
        skip();
    }
    for (size_t i = 0; i < sizeof ARCHITECTURES / sizeof *ARCHITECTURES; i++)
        check_architecture(ARCHITECTURES[i]);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_and_routing_are_those_of_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
