/* Hardware profiles: their way to JSON and back, refusals, merging. */
#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "policies/hardware.h"

static const char *const AXES[] = {"a", "b", "c"};

/* Of the layers with experts, which ascend over both stacks. */
static void put_slots(HardwareModel *model)
{
    assert_ok(mem_new(&model->slots, 16, sizeof *model->slots, "slots"));
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++)
        for (uint32_t i = 0; i < model->n_ops[stack]; i++)
            if (model->ops[stack][i].op == OP_EXPERTS)
                model->slots[model->n_slots++] = (HardwareSlots){
                    .layer = model->ops[stack][i].layer, .experts = 3, .slot_bytes = 9};
}

static void fill_model(HardwareModel *model, uint64_t *state)
{
    for (Stack stack = STACK_DECODER; stack <= STACK_ENCODER; stack++) {
        uint32_t n = random_below(state, 5);
        assert_ok(mem_new(&model->ops[stack], n + 1, sizeof *model->ops[stack], "ops"));
        model->n_ops[stack] = n;
        for (uint32_t i = 0; i < n; i++) {
            HardwareOp *op = &model->ops[stack][i];
            *op = (HardwareOp){.layer = 8 * stack + i, .op = random_below(state, OPS)};
            snprintf(op->shape, sizeof op->shape, "d%u", random_below(state, 9));
        }
    }
    put_slots(model);
    model->memory = (HardwareMemory){1, 2.5, 3, 4};
    model->host = (HardwareHost){30000, 31000.5, 400 + model->n_slots, 3, 2, 1};
    model->measured_layers = 2;
    snprintf(model->compute, sizeof model->compute, "bf16");
}

static Hardware random_hardware(uint64_t seed)
{
    Hardware hardware = {.device = "cuda: \"one\"",
                         .backend = "cuda",
                         .driver = "580.159",
                         .created = "2026-11-23T09:00:00Z",
                         .version = "0.5",
                         .commit = "abc",
                         .command = "moebius calibrate",
                         .host_threads = 16,
                         .least_clock_mhz = 1500,
                         .most_clock_mhz = 1980};
    for (uint32_t t = 0; t < 6; t++) {
        CostTable *table;
        char name[48];
        snprintf(name, sizeof name, "made up/%u", t);
        assert_ok(hardware_add_table(&hardware, name, t % 2 ? "d8" : "", (CostUnit)(t % 3), AXES,
                                     t % 4, &table));
        for (int i = 0; i < 20; i++) {
            double at[COST_AXES];
            for (int a = 0; a < COST_AXES; a++)
                at[a] = random_below(&seed, 4);
            assert_ok(cost_table_put(table, at, random_float(&seed) * 1e5, 0.1));
        }
    }
    HardwareModel *model;
    assert_ok(hardware_add_model(&hardware, "shape:a", &model));
    fill_model(model, &seed);
    assert_ok(hardware_add_model(&hardware, "models/tiny", &model));
    fill_model(model, &seed);
    return hardware;
}

static char *text_of(const Hardware *hardware)
{
    cJSON *json;
    char *text;
    assert_ok(hardware_to_json(hardware, &json));
    assert_ok(json_print(json, false, &text));
    cJSON_Delete(json);
    return text;
}

static void profiles_survive_the_way_to_json_and_back(void **unused)
{
    (void)unused;
    for (uint64_t seed = 0; seed < 20; seed++) {
        const char *path = scratch_path("hw.json");
        Hardware first = random_hardware(seed);
        Hardware second;
        assert_ok(hardware_save(&first, path));
        assert_ok(hardware_load(path, &second));
        char *left = text_of(&first);
        char *right = text_of(&second);
        assert_string_equal(left, right);
        assert_int_equal(hardware_crc(&first), hardware_crc(&second));
        assert_int_equal(second.n_tables, first.n_tables);
        assert_int_equal(second.models[0].memory.weights_bytes, 1);
        mem_free(left);
        mem_free(right);
        hardware_free(&first);
        hardware_free(&second);
    }
}

/* All that a profile says, a part at a time. */
static void the_checksum_of_a_profile_tells_it_from_any_other(void **unused)
{
    (void)unused;
    for (int part = 0; part < 22; part++) {
        Hardware hardware = random_hardware(6);
        CostTable *table = &hardware.tables[1];
        HardwareModel *model = &hardware.models[1];
        assert_true(model->n_slots > 0 && model->n_ops[STACK_DECODER] > 0);
        uint32_t before = hardware_crc(&hardware);
        double *const numbers[] = {&table->at[0],
                                   &table->value[table->n_points - 1],
                                   &table->spread[0],
                                   &model->memory.position_bytes,
                                   &model->memory.request_bytes,
                                   &model->memory.length_bytes};
        uint32_t *const whole[] = {&hardware.host_threads,   &hardware.most_clock_mhz,
                                   &table->n_points,         &model->measured_layers,
                                   &model->slots[0].experts, &model->ops[0][0].layer};
        char *const texts[] = {hardware.device, table->name, table->axis[0],
                               model->ops[0][0].shape};
        uint64_t *const counts[] = {&model->host.best_ns, &model->host.rounds,
                                    &model->host.disturbed, &model->host.again,
                                    &model->host.waited_ns};
        if (part < 6)
            *numbers[part] += 1;
        else if (part < 12)
            --*whole[part - 6];
        else if (part < 16)
            texts[part - 12][0]++;
        else if (part < 21)
            ++*counts[part - 16];
        else
            model->host.mean_ns++;
        if (hardware_crc(&hardware) == before)
            fail_msg("part %d is not in it", part);
        hardware_free(&hardware);
    }
}

static void points_lie_in_order_each_place_once(void **unused)
{
    (void)unused;
    Hardware hardware = random_hardware(3);
    for (uint32_t t = 0; t < hardware.n_tables; t++) {
        const CostTable *table = &hardware.tables[t];
        for (uint32_t i = 1; i < table->n_points; i++)
            assert_true(cost_place_compare(table, table->at + (size_t)(i - 1) * table->n_axes,
                                           table->at + (size_t)i * table->n_axes) < 0);
    }
    CostTable *table = &hardware.tables[1];
    uint32_t n = table->n_points;
    assert_ok(cost_table_put(table, &(double){0}, 77, 0.5));
    assert_int_equal(table->n_points, n);
    assert_true(table->value[0] == 77 && table->spread[0] == 0.5);
    hardware_free(&hardware);
}

/* A profile of little, with one part replaced. */
static Status parse_with(const char *from, const char *to)
{
    static const char TEXT[] =
        "{\"moebius_hardware\": 1, \"device\": \"d\", \"backend\": \"cpu\", \"driver\": null,"
        " \"created\": \"now\", \"version\": \"1\", \"commit\": \"c\", \"command\": \"x\","
        " \"host_threads\": 2, \"clock_mhz\": null, \"tables\": ["
        "{\"name\": \"gpu/embed\", \"shape\": \"\", \"unit\": \"ns\", \"axes\": [\"tokens\"],"
        " \"points\": [[1, 5, 0], [2, 6.5, 0.1]]},"
        "{\"name\": \"wake\", \"shape\": \"\", \"unit\": \"ns\", \"axes\": [],"
        " \"points\": [[5, 0]]}],"
        " \"models\": [{\"name\": \"m\", \"compute\": \"f32\", \"measured_layers\": 1,"
        " \"ops\": {\"decoder\": [{\"layer\": 0, \"op\": \"embed\", \"shape\": \"\"}],"
        " \"encoder\": [{\"layer\": 0, \"op\": \"experts\", \"shape\": \"\"}]}, \"slots\": "
        "[{\"layer\": 0, \"experts\": 2, \"bytes\": 5}],"
        " \"memory\": {\"weights\": 1, \"position\": 2, \"request\": 0, \"length\": 0}}]}";
    char text[2 * sizeof TEXT];
    const char *at = strstr(TEXT, from);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - TEXT), TEXT, to, at + strlen(from));
    Hardware hardware;
    Status status = hardware_parse(text, strlen(text), "hw.json", &hardware);
    if (status == OK)
        hardware_free(&hardware);
    return status;
}

static void refusals_name_the_path_and_what_is_allowed(void **unused)
{
    (void)unused;
    static const struct {
        const char *from;
        const char *to;
        const char *message;
    } CASES[] = {
        {"\"moebius_hardware\": 1", "\"moebius_hardware\": 2",
         "hw.json: moebius_hardware: 2, allowed is 1"},
        {"\"device\": \"d\", ", "", "hw.json: the key \"device\" is missing"},
        {"\"version\"", "\"verse\"", "hw.json: verse: unknown key"},
        {"\"unit\": \"ns\"", "\"unit\": \"ms\"",
         "hw.json: tables[0].unit: \"ms\", allowed are ns, bytes, factor"},
        {"[1, 5, 0]", "[2, 5, 0]", "hw.json: tables[0].points[1]: points must ascend"},
        {"[1, 5, 0]", "[1, 5]", "hw.json: tables[0].points[0]: must be a list of 3 numbers"},
        {"[1, 5, 0]", "[-1, 5, 0]", "hw.json: tables[0].points[0][0]: -1, allowed is 0 to"},
        {"[1, 5, 0]", "[1, \"5\", 0]", "hw.json: tables[0].points[0][1]: must be a number"},
        {"[[5, 0]]", "[[5, 0], [6, 0]]", "hw.json: tables[1].points[1]: points must ascend"},
        {"[1, 5, 0]", "[1, 5, 0, 0]", "hw.json: tables[0].points[0]: must be a list of 3 numbers"},
        {"[[5, 0]]", "[[5, 0, 1]]", "hw.json: tables[1].points[0]: must be a list of 2 numbers"},
        {"[[5, 0]]", "[[5, -1]]", "hw.json: tables[1].points[0][1]: -1, allowed is 0 to"},
        {"[[5, 0]]", "[5, 0]", "hw.json: tables[1].points[0]: must be a list of 2 numbers"},
        {"[[5, 0]]", "[[[5, 0]]]", "hw.json: tables[1].points[0]: must be a list of 2 numbers"},
        {"[[5, 0]]", "{}", "hw.json: tables[1].points: must be a list"},
        {"[[5, 0]]", "[]", "hw.json: tables[1].points: has 0 items, allowed are 1 to"},
        {"\"axes\": []", "\"axes\": [[1]]", "hw.json: tables[1].axes: must not be a list of lists"},
        {"{\"layer\": 0, \"op\": \"embed\", \"shape\": \"\"}", "[1]",
         "hw.json: models[0].ops.decoder: must not be a list of lists"},
        {"{\"layer\": 0, \"experts\": 2, \"bytes\": 5}", "[1, 2], [3]",
         "hw.json: models[0].slots: must not be a list of lists"},
        {"\"wake\"", "\"gpu/embed\"", "hw.json: tables[1]: the table \"gpu/embed\""},
        {"\"op\": \"embed\"", "\"op\": \"sing\"",
         "hw.json: models[0].ops.decoder[0].op: \"sing\" is no operation"},
        {"\"experts\": 2", "\"experts\": 0", "hw.json: models[0].slots[0].experts: 0, allowed"},
        {"\"position\": 2", "\"position\": null", "hw.json: models[0].memory.position: must be"},
        {"\"position\": 2", "\"position\": 1e18", "hw.json: models[0].memory.position: 1e+18"},
        {"\"bytes\": 5", "\"bytes\": 1e15", "hw.json: models[0].slots[0].bytes: "},
        {"\"cpu\"", "\"tpu\"", "hw.json: backend: \"tpu\", allowed are cpu, cuda"},
        {"\"clock_mhz\": null", "\"clock_mhz\": {\"least\": 5, \"most\": 4}",
         "hw.json: clock_mhz.most: 4, allowed is 5 to"},
    };
    assert_ok(parse_with("\"d\"", "\"d\""));
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        assert_int_equal(parse_with(CASES[i].from, CASES[i].to), ERR_INPUT);
        assert_memory_equal(error_message(), CASES[i].message, strlen(CASES[i].message));
    }
}

/* Costs and lists that fit the schema, and no machine or model. */
static void what_no_machine_can_take_is_refused(void **unused)
{
    (void)unused;
    static const char OPS_OF_1[] =
        "\"decoder\": [{\"layer\": 0, \"op\": \"experts\", \"shape\": \"\"}"
        ", {\"layer\": 1, \"op\": \"experts\", \"shape\": \"\"}";
    static const char EMBED[] = "\"decoder\": [{\"layer\": 0, \"op\": \"embed\", \"shape\": \"\"}";
    static const struct {
        const char *from;
        const char *to;
        const char *message;
    } CASES[] = {
        {"[1, 5, 0]", "[1, -5, 0]",
         "hw.json: tables[0]: the table \"gpu/embed\" has the value -5,"},
        {"\"ns\"", "\"bytes\"",
         "hw.json: tables[0]: the table \"gpu/embed\" is in bytes, allowed is ns"},
        {"\"wake\"", "\"slowdown\"",
         "hw.json: tables[1]: the table \"slowdown\" is in ns, allowed is factor"},
        {"\"wake\"", "\"memory/mask\"",
         "hw.json: tables[1]: the table \"memory/mask\" is in ns, allowed is bytes"},
        {"\"tokens\"", "\"rows\"",
         "hw.json: tables[0]: the table \"gpu/embed\" has the axis \"rows\","},
        {"gpu/embed", "gpu/embeds",
         "hw.json: tables[0]: the table \"gpu/embeds\" is of no operation"},
        {"gpu/embed", "gpu/attention",
         "hw.json: tables[0]: the table \"gpu/attention\" has 1 axes, allowed are 0 and 3"},
        {"\"experts\", \"shape\"", "\"route\", \"shape\"",
         "hw.json: models[0]: there are slots of layer 0, which has"},
        {EMBED, OPS_OF_1, "hw.json: models[0]: there are slots of 1 layers, experts have 3"},
        {EMBED,
         "\"decoder\": [{\"layer\": 1, \"op\": \"embed\", \"shape\": \"\"}, {\"layer\": 0, "
         "\"op\": \"head\", \"shape\": \"\"}",
         "hw.json: models[0]: layer 0 stands behind layer 1"},
        {EMBED,
         "\"decoder\": [{\"layer\": 1, \"op\": \"route\", \"shape\": \"\"}, {\"layer\": 1, "
         "\"op\": \"route\", \"shape\": \"b\"}",
         "hw.json: models[0]: layer 1 has \"route\" twice"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        assert_int_equal(parse_with(CASES[i].from, CASES[i].to), ERR_INPUT);
        assert_memory_equal(error_message(), CASES[i].message, strlen(CASES[i].message));
    }
    assert_ok(parse_with("\"wake\"", "\"held/route\""));
    assert_ok(parse_with("[[5, 0]]", "[[-5, 0]]"));
}

/* Every object that a profile has lists the same keys in the schema, all required but for what
 * profiles did not always have. */
static void assert_schema_has(const cJSON *schema, const cJSON *node)
{
    const cJSON *properties = cJSON_GetObjectItemCaseSensitive(schema, "properties");
    const cJSON *items = cJSON_GetObjectItemCaseSensitive(schema, "items");
    const cJSON *required = cJSON_GetObjectItemCaseSensitive(schema, "required");
    int n = 0;
    if (cJSON_IsArray(node) && node->child != NULL) {
        assert_non_null(items);
        assert_schema_has(items, node->child);
    }
    for (const cJSON *child = node->child; cJSON_IsObject(node) && child != NULL;
         child = child->next, n++) {
        const cJSON *property = cJSON_GetObjectItemCaseSensitive(properties, child->string);
        if (property == NULL)
            fail_msg("the schema lacks %s", child->string);
        assert_schema_has(property, child);
    }
    if (cJSON_IsObject(node)) {
        assert_int_equal(cJSON_GetArraySize(properties), n);
        assert_int_equal(cJSON_GetArraySize(required), n - cJSON_HasObjectItem(node, "host"));
    }
}

/* As that which ships. */
static void a_profile_that_says_nothing_of_the_host_stays_as_it_was(void **unused)
{
    (void)unused;
    Hardware hardware = random_hardware(9);
    Hardware again;
    const char *path = scratch_path("old.json");
    assert_int_equal(hardware_best_loop(&hardware), 30000);
    hardware.models[1].host.best_ns = 29000;
    assert_int_equal(hardware_best_loop(&hardware), 29000);
    for (uint32_t i = 0; i < hardware.n_models; i++)
        hardware.models[i].host = (HardwareHost){.best_ns = 1};
    assert_int_equal(hardware_best_loop(&hardware), 0);
    assert_ok(hardware_save(&hardware, path));
    assert_ok(hardware_load(path, &again));
    assert_int_equal(again.models[0].host.rounds, 0);
    assert_int_equal(again.models[0].host.best_ns, 0);
    assert_int_equal(hardware_crc(&again), hardware_crc(&hardware));
    hardware_free(&again);
    hardware_free(&hardware);
}

static void the_schema_has_the_keys_of_the_writer(void **unused)
{
    (void)unused;
    Hardware hardware = random_hardware(8);
    cJSON *schema;
    cJSON *json;
    assert_ok(json_load("policies/hardware.schema.json", JSON_PLAN_BYTES, &schema));
    assert_ok(hardware_to_json(&hardware, &json));
    assert_schema_has(schema, json);
    cJSON *op = schema;
    static const char *const WAY[] = {"properties", "models",     "items",   "properties",
                                      "ops",        "properties", "decoder", "items",
                                      "properties", "op",         "enum"};
    for (size_t i = 0; i < sizeof WAY / sizeof WAY[0]; i++)
        op = cJSON_GetObjectItemCaseSensitive(op, WAY[i]);
    assert_int_equal(cJSON_GetArraySize(op), OPS);
    for (Op i = 0; i < OPS; i++)
        assert_string_equal(cJSON_GetArrayItem(op, (int)i)->valuestring, op_name(i));
    cJSON_Delete(schema);
    cJSON_Delete(json);
    hardware_free(&hardware);
}

static void merging_keeps_what_is_there_and_takes_what_is_new(void **unused)
{
    (void)unused;
    Hardware all = random_hardware(1);
    Hardware more = random_hardware(2);
    CostTable *table;
    HardwareModel *model;
    assert_ok(hardware_add_table(&more, "new", "", UNIT_NS, AXES, 1, &table));
    assert_ok(cost_table_put(table, &(double){3}, 33, 0));
    assert_ok(hardware_add_model(&more, "other", &model));
    more.least_clock_mhz = 1400;
    assert_ok(hardware_merge(&all, &more));
    assert_int_equal(all.n_tables, 7);
    assert_int_equal(all.least_clock_mhz, 1400);
    assert_int_equal(all.most_clock_mhz, 1980);
    assert_int_equal(all.n_models, 3);
    assert_memory_equal(&all.models[0].host, &more.models[0].host, sizeof(HardwareHost));
    for (uint32_t t = 0; t < more.n_tables; t++) {
        const CostTable *from = &more.tables[t];
        const CostTable *to = hardware_table(&all, from->name, from->shape);
        assert_true(to != NULL && to->n_points >= from->n_points);
    }
    snprintf(more.device, sizeof more.device, "another");
    assert_int_equal(hardware_merge(&all, &more), ERR_INPUT);
    hardware_free(&all);
    hardware_free(&more);
}

static void what_does_not_go_together_is_not_merged(void **unused)
{
    (void)unused;
    Hardware all = random_hardware(1);
    Hardware more = random_hardware(2);
    CostTable *table;
    assert_ok(hardware_add_table(&all, "new", "", UNIT_NS, AXES, 1, &table));
    assert_ok(cost_table_put(table, (double[]){3}, 33, 0));
    assert_ok(hardware_add_table(&more, "new", "", UNIT_NS, AXES, 2, &table));
    assert_ok(cost_table_put(table, (double[]){3, 4}, 33, 0));
    assert_int_equal(hardware_merge(&all, &more), ERR_INPUT);
    assert_non_null(strstr(error_message(), "\"new\""));
    assert_int_equal(hardware_check_table(&all, table), ERR_INPUT);
    assert_ok(hardware_check_table(&more, table));
    snprintf(table->name, sizeof table->name, "newer");
    assert_ok(hardware_check_table(&all, table));
    hardware_free(&more);
    more = random_hardware(2);
    snprintf(more.models[1].compute, sizeof more.models[1].compute, "f16");
    assert_int_equal(hardware_merge(&all, &more), ERR_INPUT);
    assert_non_null(strstr(error_message(), "not in f16"));
    hardware_free(&more);
    more = random_hardware(2);
    snprintf(more.backend, sizeof more.backend, "other");
    assert_int_equal(hardware_merge(&all, &more), ERR_INPUT);
    assert_non_null(strstr(error_message(), "not with other"));
    hardware_free(&all);
    hardware_free(&more);
}

static void models_in_folders_are_found_by_their_last_name(void **unused)
{
    (void)unused;
    Hardware hardware = random_hardware(4);
    assert_ptr_equal(hardware_model(&hardware, "/some/where/tiny/"), &hardware.models[1]);
    assert_ptr_equal(hardware_model(&hardware, "shape:a"), &hardware.models[0]);
    assert_null(hardware_model(&hardware, "shape:a:2"));
    assert_null(hardware_model(&hardware, "in"));
    hardware_free(&hardware);
}

static void the_profile_that_ships_is_read_and_prices_its_models_and_two_ranks(void **unused)
{
    (void)unused;
    Hardware hardware;
    assert_ok(hardware_load("hardware/h200.json", &hardware));
    assert_true(hardware.n_models >= 3);
    for (uint32_t m = 0; m < hardware.n_models; m++)
        for (uint32_t i = 0; i < hardware.models[m].n_ops[STACK_DECODER]; i++) {
            const HardwareOp *op = &hardware.models[m].ops[STACK_DECODER][i];
            char name[48];
            snprintf(name, sizeof name, "gpu/%s", op_name(op->op));
            if (hardware_table(&hardware, name, op->shape) == NULL)
                fail_msg("%s: %s of %s has no table", hardware.models[m].name, name, op->shape);
        }
    assert_non_null(hardware_table(&hardware, "all-to-all", "2 ranks"));
    hardware_free(&hardware);
}

static void every_failed_allocation_of_a_profile_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    const char *path = scratch_path("memory.json");
    Hardware written = random_hardware(6);
    assert_ok(hardware_save(&written, path));
    hardware_free(&written);
    for (FailingAllocation failing = {.sparse = 16}; failing_next(&failing);) {
        Hardware hardware = {0};
        cJSON *json = NULL;
        Status status = hardware_load(path, &hardware);
        if (status == OK)
            status = hardware_to_json(&hardware, &json);
        cJSON_Delete(json);
        hardware_free(&hardware);
        failing_end(&failing, status);
    }
}

static void assert_decide(const char *predictor, const char *name, uint32_t n_axes, double entries)
{
    char told[48];
    const char *axis[COST_AXES];
    double remembered;
    assert_int_equal(hardware_decide_table(predictor, told, axis, &remembered), n_axes);
    assert_string_equal(told, name);
    assert_string_equal(axis[0], n_axes == 1 ? "active" : "requests");
    assert_true(remembered == entries);
}

static void decisions_have_a_table_for_each_predictor(void **unused)
{
    (void)unused;
    assert_decide("transition", "decide/transition", 1, 0);
    assert_decide("oracle:3", "decide/oracle", 1, 0);
    assert_decide("synthetic:0.7,0.9", "decide/synthetic", 1, 0);
    assert_decide("activation-match:48", "decide/activation-match", 2, 48);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decisions_have_a_table_for_each_predictor),
        cmocka_unit_test(profiles_survive_the_way_to_json_and_back),
        cmocka_unit_test(the_checksum_of_a_profile_tells_it_from_any_other),
        cmocka_unit_test(points_lie_in_order_each_place_once),
        cmocka_unit_test(refusals_name_the_path_and_what_is_allowed),
        cmocka_unit_test(what_no_machine_can_take_is_refused),
        cmocka_unit_test(a_profile_that_says_nothing_of_the_host_stays_as_it_was),
        cmocka_unit_test(the_schema_has_the_keys_of_the_writer),
        cmocka_unit_test(merging_keeps_what_is_there_and_takes_what_is_new),
        cmocka_unit_test(what_does_not_go_together_is_not_merged),
        cmocka_unit_test(models_in_folders_are_found_by_their_last_name),
        cmocka_unit_test(the_profile_that_ships_is_read_and_prices_its_models_and_two_ranks),
        cmocka_unit_test(every_failed_allocation_of_a_profile_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
