/* Shards, their index, and the tensors in them. */
#include "base/status.h"

#include "tests/checkpoint_maker.h"

#include <unistd.h>

#include "base/files.h"
#include "tests/harmed_checkpoint.h"

static void assert_harm_named(const CheckpointSpec *base, const char *name, int kind,
                              const char *why)
{
    Harm harm = {.name = name, .harm = kind};
    char wanted[256];
    CheckpointSpec spec = *base;
    spec.edit = harm_tensor;
    spec.edit_argument = &harm;
    snprintf(wanted, sizeof wanted, "tensor %s: %s", name, why);
    assert_open_fails(make(&spec), ERR_INPUT, wanted);
    assert_true(harm.done);
}

static void a_tensor_that_is_missing_or_wrong_is_named(void **state)
{
    (void)state;
    static const char *const NAMES[] = {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.k_proj.bias",
        "model.layers.1.self_attn.k_norm.weight",
        "model.layers.1.post_attention_layernorm.weight",
        "model.layers.1.mlp.gate.weight",
        "model.layers.1.mlp.experts.7.down_proj.weight",
        "model.layers.2.self_attn.o_proj.bias",
    };
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        CheckpointSpec spec = {.dense_layers = 1, .untied = true, .bias = true, .shards = i % 3};
        assert_harm_named(&spec, NAMES[i], LEAVE_OUT, "missing");
        assert_harm_named(&spec, NAMES[i], OTHER_ROWS, "shape [");
        assert_harm_named(&spec, NAMES[i], OTHER_RANK, "shape [");
        assert_harm_named(&spec, NAMES[i], OTHER_DTYPE, "dtype I32, wanted F32, F16 or BF16");
        assert_harm_named(&spec, NAMES[i], ADD_NAN, "element ");
        assert_harm_named(&spec, NAMES[i], ADD_INFINITY, "element ");
    }
    CheckpointSpec plain = {0};
    assert_harm_named(&plain, "model.layers.1.mlp.experts.3.gate_proj.weight", OTHER_ROWS,
                      "shape [32, 32], wanted [16, 32]");
    assert_harm_named(&plain, "model.norm.weight", ADD_NAN, "element 31 is NaN");
    assert_harm_named(&plain, "model.norm.weight", ADD_INFINITY, "element 31 is infinite");
}

static bool widen_one_expert(void *argument, Tensor *tensor, float *values, size_t count)
{
    (void)argument;
    (void)values;
    (void)count;
    if (strcmp(tensor->name, "model.layers.1.mlp.experts.3.up_proj.weight") == 0)
        tensor->dtype = DTYPE_F32;
    return true;
}

static void experts_of_one_layer_must_share_their_dtype(void **state)
{
    (void)state;
    CheckpointSpec spec = {.edit = widen_one_expert};
    assert_open_fails(make(&spec), ERR_INPUT,
                      "tensor model.layers.1.mlp.experts.3.up_proj.weight: dtype F32, but");
}

static void tensors_that_are_not_used_are_not_looked_at(void **state)
{
    (void)state;
    /* a tied checkpoint may carry a head, and it may be anything */
    Harm harm = {.name = "lm_head.weight", .harm = ADD_NAN};
    CheckpointSpec spec = {.untied = true,
                           .edit = harm_tensor,
                           .edit_argument = &harm,
                           .config_from = "\"tie_word_embeddings\": false",
                           .config_to = "\"tie_word_embeddings\": true"};
    Checkpoint *checkpoint = NULL;
    assert_ok(checkpoint_open(make(&spec), &checkpoint));
    assert_true(harm.done);
    assert_string_equal(checkpoint_tensors(checkpoint)->head.name, "model.embed_tokens.weight");
    checkpoint_close(checkpoint);
}

static void write_text(const char *directory, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    assert_ok(file_write_all(path, text, strlen(text)));
}

static void remove_file(const char *directory, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    assert_int_equal(unlink(path), 0);
}

static void a_shard_that_is_missing_or_cut_is_named(void **state)
{
    (void)state;
    CheckpointSpec spec = {.shards = 3};
    char path[512];
    const char *directory = make(&spec);
    remove_file(directory, "model-00002-of-00003.safetensors");
    assert_open_fails(directory, ERR_INPUT, "model-00002-of-00003.safetensors: cannot open");
    directory = make(&spec);
    snprintf(path, sizeof path, "%s/model-00003-of-00003.safetensors", directory);
    FileMap map;
    assert_ok(file_map_open(path, &map));
    off_t bytes = (off_t)map.bytes;
    file_map_close(&map);
    assert_int_equal(truncate(path, bytes - 1), 0);
    assert_open_fails(directory, ERR_INPUT, "model-00003-of-00003.safetensors: ");
    assert_non_null(strstr(error_message(), "truncated"));
    remove_file(directory, "config.json");
    assert_open_fails(directory, ERR_INPUT, "config.json: cannot open");
    assert_open_fails(scratch_path("no-model"), ERR_INPUT, "config.json: cannot open");
}

static void an_index_that_cannot_be_followed_is_refused(void **state)
{
    (void)state;
    static const char INDEX[] = "model.safetensors.index.json";
    static const char *const OUTSIDE[] = {
        "../model.safetensors",
        "/etc/model.safetensors",
        "a/b.safetensors",
        "..",
        "",
        ".safetensors",
        "model.bin",
        ".hidden.safetensors",
    };
    const char *directory = make(&(CheckpointSpec){.shards = 1});
    for (size_t i = 0; i < sizeof OUTSIDE / sizeof *OUTSIDE; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"weight_map\": {\"model.norm.weight\": \"%s\"}}",
                 OUTSIDE[i]);
        write_text(directory, INDEX, text);
        assert_open_fails(directory, ERR_INPUT, "is not the name of a .safetensors file");
        assert_non_null(strstr(error_message(), "tensor model.norm.weight"));
    }
    write_text(directory, INDEX,
               "{\"weight_map\": {\"x.y\": \"model-00001-of-00001.safetensors\"}}");
    assert_open_fails(directory, ERR_INPUT, "tensor x.y: missing, though");
    write_text(directory, INDEX,
               "{\"weight_map\": {\"model.norm.weight\": \"model-00001-of-00001.safetensors\"}}");
    assert_open_fails(directory, ERR_INPUT, "tensor model.embed_tokens.weight: missing");
    write_text(directory, INDEX, "{\"weight_map\": {\"a\": 1}}");
    assert_open_fails(directory, ERR_INPUT, "tensor a: must be a string");
    write_text(directory, INDEX, "{\"weight_map\": {}}");
    assert_open_fails(directory, ERR_INPUT, "weight_map: must be an object");
    write_text(directory, INDEX, "{\"weight_map\": []}");
    assert_open_fails(directory, ERR_INPUT, "weight_map: must be an object");
    write_text(directory, INDEX, "{}");
    assert_open_fails(directory, ERR_INPUT, "\"weight_map\" is missing");
    write_text(directory, INDEX, "[");
    assert_open_fails(directory, ERR_INPUT, "not JSON");
    /* without an index, the one file there is */
    remove_file(directory, INDEX);
    Checkpoint *checkpoint = NULL;
    assert_ok(checkpoint_open(directory, &checkpoint));
    checkpoint_close(checkpoint);
    write_text(directory, "second.safetensors", "");
    assert_open_fails(directory, ERR_INPUT, "holds 2 .safetensors files");
    remove_file(directory, "second.safetensors");
    remove_file(directory, "model-00001-of-00001.safetensors");
    assert_open_fails(directory, ERR_INPUT, "holds no .safetensors file");
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tensor_that_is_missing_or_wrong_is_named),
        cmocka_unit_test(experts_of_one_layer_must_share_their_dtype),
        cmocka_unit_test(tensors_that_are_not_used_are_not_looked_at),
        cmocka_unit_test(a_shard_that_is_missing_or_cut_is_named),
        cmocka_unit_test(an_index_that_cannot_be_followed_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
