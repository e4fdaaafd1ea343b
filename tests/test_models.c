/* moebius models. */
#include "tests/cli_run.h"

#include <cjson/cJSON.h>
#include <math.h>

#include "base/memory.h"
#include "tests/json_at.h"

static CliRun run;

/* The first model that the last run printed; the caller deletes *JSON. */
static const cJSON *first_model(cJSON **json)
{
    assert_int_equal(run.code, 0);
    *json = cJSON_Parse(run.out);
    assert_non_null(*json);
    const cJSON *model = cJSON_GetArrayItem(cJSON_GetObjectItem(*json, "models"), 0);
    assert_non_null(model);
    return model;
}

static void a_folder_of_checkpoints_is_listed_like_the_checkpoint(void **state)
{
    (void)state;
    cJSON *folder;
    cJSON *single;
    RUN("models", "models", "--json");
    const cJSON *in_folder = first_model(&folder);
    RUN("models", "models/tiny-32x4", "--json");
    assert_true(cJSON_Compare(in_folder, first_model(&single), true));
    cJSON_Delete(folder);
    cJSON_Delete(single);
}

static void sizes_are_those_of_the_tensors(void **state)
{
    (void)state;
    cJSON *json;
    RUN("models", "models/tiny-32x4", "--json");
    const cJSON *model = first_model(&json);
    const cJSON *layers = cJSON_GetObjectItem(model, "moe_layers");
    assert_int_equal(cJSON_GetArraySize(layers), 6);
    double experts = 0;
    for (int i = 0; i < 6; i++) {
        const cJSON *layer = cJSON_GetArrayItem(layers, i);
        assert_true(number_at(layer, "expert_bytes") == 3.0 * 32 * 128 * 2);
        experts += number_at(layer, "expert_bytes") * number_at(layer, "experts");
    }
    assert_true(number_at(model, "expert_bytes") == experts);
    assert_true(number_at(model, "bytes") > experts);
    cJSON_Delete(json);
}

/* What is said to fit does, and one slot more a layer would not. */
static void slots_are_as_many_as_memory_has_room_for(void **state)
{
    (void)state;
    for (int mib_64 = 1; mib_64 < 400; mib_64 += 13) {
        char memory[32];
        cJSON *json;
        snprintf(memory, sizeof memory, "%.9f", mib_64 / 64.0 / 1024.0 + 0.001);
        RUN("models", "models/tiny-32x4", "--memory", memory, "--json");
        const cJSON *model = first_model(&json);
        double slot = 6.0 * 3 * 32 * 128 * 2;
        double rest = number_at(model, "bytes") - number_at(model, "expert_bytes");
        double room = number_at(model, "memory_bytes");
        double slots = floor((room - rest) / slot);
        slots = slots < 0 ? 0 : slots > 32 ? 32 : slots;
        assert_true(number_at(model, "slots_per_layer") == slots);
        assert_true(number_at(model, "resident_bytes") == rest + slots * slot);
        assert_int_equal(cJSON_IsTrue(cJSON_GetObjectItem(model, "rest_fits")), rest <= room);
        cJSON_Delete(json);
    }
}

static void people_get_a_table(void **state)
{
    (void)state;
    RUN("models", "models", "--memory", "0.005");
    assert_int_equal(run.code, 0);
    assert_non_null(strstr(run.out, "models/tiny-32x4"));
    assert_non_null(strstr(run.out, "qwen3_moe"));
    assert_non_null(strstr(run.out, "of 32 a layer"));
}

static void what_is_no_checkpoint_is_refused(void **state)
{
    (void)state;
    RUN("models", "tests");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "neither it nor a folder in it has a config.json"));
    RUN("models", "/nonexistent");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "/nonexistent: cannot open"));
}

static void every_failing_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    RUN("models", "models", "--memory", "1", "--json");
    int64_t before = mem_live_blocks();
    bool reached = true;
    for (uint64_t k = 1; reached; k += k < 40 || exhaustive() ? 1 : 37) {
        mem_fail_at(k);
        RUN("models", "models", "--memory", "1", "--json");
        reached = mem_fail_reached();
        mem_fail_at(0);
        assert_int_equal(run.code, reached ? 1 : 0);
        assert_int_equal(mem_live_blocks(), before);
        assert_true(!reached || run.err[0] != '\0');
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_of_checkpoints_is_listed_like_the_checkpoint),
        cmocka_unit_test(sizes_are_those_of_the_tensors),
        cmocka_unit_test(slots_are_as_many_as_memory_has_room_for),
        cmocka_unit_test(people_get_a_table),
        cmocka_unit_test(what_is_no_checkpoint_is_refused),
        cmocka_unit_test(every_failing_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
