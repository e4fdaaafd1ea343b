/* Tensors under other names, stacked, missing and left over. */
#include "tests/plain_model.h"
#include "tests/random_checkpoint.h"

#include "base/memory.h"
#include "tests/architecture_maker.h"

/* Writes the checkpoint of PATH again with the experts of each layer as one stack, as transformers
 * 5 keeps them in memory: gate over up, then down; and the router under the name it has there. */
typedef struct {
    const char *each[3]; /* "model.layers.%u.<...>.%u.<gate, up, down>" */
    const char *router;  /* "model.layers.%u.<...>" */
    const char *new_router;
    uint32_t layers;
    uint32_t experts;
} Restack;

static void add_spec(TensorList *list, const char *name, const uint64_t *shape, uint32_t rank)
{
    list_tensor(list, name, shape, rank);
}

static const char *layer_name(const char *format, uint32_t layer, uint32_t expert)
{
    static char names[4][128];
    static unsigned next;
    char *name = names[next++ % 4];
    snprintf(name, 128, format, layer, expert);
    return name;
}

static bool is_replaced(const Restack *restack, const char *name)
{
    for (uint32_t l = 0; l < restack->layers; l++)
        if (strcmp(layer_name(restack->router, l, 0), name) == 0)
            return true;
    return strstr(name, ".experts.") != NULL;
}

static void restack(const char *from, const char *to, const Restack *how)
{
    static const Harm NONE = {0};
    SafeTensors *file;
    SafeTensorsWriter *writer;
    TensorList *list = calloc(1, sizeof *list);
    list->harm = &NONE;
    assert_ok(safetensors_open(from, &file));
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const Tensor *tensor = safetensors_at(file, i);
        if (!is_replaced(how, tensor->name))
            add_spec(list, tensor->name, tensor->shape, tensor->rank);
    }
    size_t plain = list->n;
    for (uint32_t l = 0; l < how->layers; l++) {
        const Tensor *up = safetensors_find(file, layer_name(how->each[1], l, 0));
        const Tensor *router = safetensors_find(file, layer_name(how->router, l, 0));
        add_spec(list, layer_name("model.layers.%u.mlp.experts.gate_up_proj", l, 0),
                 (uint64_t[]){how->experts, 2 * up->shape[0], up->shape[1]}, 3);
        add_spec(list, layer_name("model.layers.%u.mlp.experts.down_proj", l, 0),
                 (uint64_t[]){how->experts, up->shape[1], up->shape[0]}, 3);
        add_spec(list, layer_name(how->new_router, l, 0), router->shape, 2);
    }
    assert_ok(safetensors_writer_open(to, list->specs, list->n, &writer));
    for (size_t i = 0; i < plain; i++) {
        const Tensor *tensor = safetensors_find(file, list->names[i]);
        assert_ok(safetensors_writer_append(writer, i, tensor->data, tensor->bytes));
    }
    for (uint32_t l = 0; l < how->layers; l++) {
        const Tensor *router = safetensors_find(file, layer_name(how->router, l, 0));
        for (uint32_t e = 0; e < how->experts; e++)
            for (size_t part = 0; part < 3; part++) {
                const Tensor *tensor = safetensors_find(file, layer_name(how->each[part], l, e));
                assert_ok(safetensors_writer_append(writer, plain + 3 * l + part / 2, tensor->data,
                                                    tensor->bytes));
            }
        assert_ok(
            safetensors_writer_append(writer, plain + 3 * l + 2, router->data, router->bytes));
    }
    assert_ok(safetensors_writer_commit(writer));
    safetensors_close(file);
    for (size_t i = 0; i < list->n; i++)
        free(list->names[i]);
    free(list);
}

static void stacked_experts_are_the_same_experts(void **state)
{
    (void)state;
    static const struct {
        size_t variant;
        Restack how;
    } CASES[] = {
        {8,
         {{"model.layers.%u.block_sparse_moe.experts.%u.w1.weight",
           "model.layers.%u.block_sparse_moe.experts.%u.w3.weight",
           "model.layers.%u.block_sparse_moe.experts.%u.w2.weight"},
          "model.layers.%u.block_sparse_moe.gate.weight",
          "model.layers.%u.mlp.gate.weight",
          3,
          5}},
        {10,
         {{"model.layers.%u.mlp.experts.%u.gate_proj.weight",
           "model.layers.%u.mlp.experts.%u.up_proj.weight",
           "model.layers.%u.mlp.experts.%u.down_proj.weight"},
          "model.layers.%u.mlp.gate.weight",
          "model.layers.%u.mlp.gate.weight",
          3,
          6}},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char file[600];
        Computed each;
        Computed stacked;
        Checkpoint *checkpoint;
        Plan plan = plan_default();
        Sequences rows = make_sequences(ROWS, 40 + i);
        const char *folder =
            random_checkpoint("stacked", VARIANTS[CASES[i].variant].config, 9, NULL);
        snprintf(file, sizeof file, "%s/model.safetensors", folder);
        assert_ok(checkpoint_open(folder, &checkpoint));
        size_t vocabulary = checkpoint_config(checkpoint)->vocabulary;
        uint64_t expert_bytes = checkpoint_expert_bytes(checkpoint, 1);
        compute(checkpoint, &plan, &rows, false, &each);
        checkpoint_close(checkpoint);
        restack(file, file, &CASES[i].how);
        assert_ok(checkpoint_open(folder, &checkpoint));
        assert_int_equal(checkpoint_expert_bytes(checkpoint, 1), expert_bytes);
        compute(checkpoint, &plan, &rows, false, &stacked);
        checkpoint_close(checkpoint);
        assert_memory_equal(each.logits, stacked.logits,
                            (size_t)ROWS * MOST * vocabulary * sizeof(float));
        computed_free(&each);
        computed_free(&stacked);
    }
}

static void assert_refused(const char *config, const Harm *harm, const char *why)
{
    Checkpoint *checkpoint = NULL;
    Status status = checkpoint_open(random_checkpoint("bad", config, 5, harm), &checkpoint);
    if (status == OK)
        fail_msg("accepted, wanted: %s", why);
    assert_int_equal(status, ERR_INPUT);
    if (strstr(error_message(), why) == NULL)
        fail_msg("\"%s\", wanted: %s", error_message(), why);
}

/* Any tensor of any architecture that is missing, misshapen or holds NaN is named. */
static void every_bad_tensor_is_named(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (size_t i = 0; i < N_VARIANTS; i++) {
        TensorList *list = calloc(1, sizeof *list);
        static const Harm NONE = {0};
        ModelConfig model = {0};
        const Architecture *architecture;
        list->harm = &NONE;
        random_checkpoint("bad", VARIANTS[i].config, 5, NULL);
        assert_ok(model_config_load(scratch_path("bad"), &model, &architecture));
        assert_ok(architecture_visit(architecture, &model, list_tensor, list));
        for (size_t pass = 0; pass < (exhaustive() ? 3 * list->n : 9); pass++) {
            char why[400];
            const char *name = list->names[random_below(&random, (uint32_t)list->n)];
            Harm harm = {.leave_out = pass % 3 == 0 ? name : NULL,
                         .misshape = pass % 3 == 1 ? name : NULL,
                         .poison = pass % 3 == 2 ? name : NULL};
            snprintf(why, sizeof why, "tensor %s: %s", name,
                     (const char *[]){"missing", "shape [", "element "}[pass % 3]);
            assert_refused(VARIANTS[i].config, &harm, why);
        }
        for (size_t t = 0; t < list->n; t++)
            free(list->names[t]);
        free(list);
        model_config_free(&model);
    }
}

static void a_tensor_without_a_use_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_VARIANTS; i++)
        assert_refused(VARIANTS[i].config, &(Harm){.add = "model.layers.0.mystery.weight"},
                       "tensor model.layers.0.mystery.weight: no part of a");
}

/* Old files hold buffers, and the head that is tied all the same. */
static void known_leftovers_are_ignored(void **state)
{
    (void)state;
    static const struct {
        size_t variant;
        const char *name;
    } LEFTOVERS[] = {{8, "model.layers.0.self_attn.rotary_emb.inv_freq"}, {9, "lm_head.weight"}};
    for (size_t i = 0; i < sizeof LEFTOVERS / sizeof *LEFTOVERS; i++) {
        Checkpoint *checkpoint;
        const char *config = VARIANTS[LEFTOVERS[i].variant].config;
        assert_ok(checkpoint_open(
            random_checkpoint("old", config, 5, &(Harm){.add = LEFTOVERS[i].name}), &checkpoint));
        checkpoint_close(checkpoint);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stacked_experts_are_the_same_experts),
        cmocka_unit_test(every_bad_tensor_is_named),
        cmocka_unit_test(a_tensor_without_a_use_is_named),
        cmocka_unit_test(known_leftovers_are_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
