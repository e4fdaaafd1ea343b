/* What routing is like: counts against plain ones over random traces, and the command. */
#include "tests/cli_run.h"

#include <math.h>

#include "analysis/characterise.h"
#include "base/json.h"
#include "base/memory.h"
#include "tests/json_at.h"
#include "tests/reference_buffer.h"
#include "tests/routed_trace.h"

static CliRun run;
static RefTrace trace;

/* The events of one layer that need anything. */
typedef struct {
    uint32_t n;
    const RefEvent *events[REF_EVENTS];
} LayerEvents;

static LayerEvents events_of(uint32_t layer)
{
    LayerEvents of = {0};
    for (uint32_t i = 0; i < trace.n_events; i++)
        if (trace.events[i].layer == layer && trace.events[i].n > 0)
            of.events[of.n++] = &trace.events[i];
    return of;
}

static uint32_t tokens_of(const RefEvent *event, uint32_t expert)
{
    for (uint32_t i = 0; i < event->n; i++)
        if (event->experts[i] == expert)
            return event->tokens[i];
    return 0;
}

static void assert_near(double value, double wanted)
{
    if (fabs(value - wanted) > 1e-9 * (1 + fabs(wanted)))
        fail_msg("%.12g, wanted is %.12g", value, wanted);
}

static double ratio(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static void assert_skew(const LayerEvents *of, uint32_t experts, const LayerCharacter *layer)
{
    double tokens[REF_EXPERTS] = {0};
    double sum = 0;
    double squares = 0;
    double rows = 0;
    double busiest = 0;
    for (uint32_t i = 0; i < of->n; i++) {
        uint32_t fullest = 0;
        for (uint32_t e = 0; e < experts; e++) {
            uint32_t n = tokens_of(of->events[i], e);
            tokens[e] += n;
            fullest = n > fullest ? n : fullest;
        }
        rows += (double)fullest * experts;
    }
    for (uint32_t e = 0; e < experts; e++) {
        uint32_t before = 0; /* that are busier, or as busy and lower */
        for (uint32_t other = 0; other < experts; other++)
            before += tokens[other] > tokens[e] || (tokens[other] == tokens[e] && other < e);
        busiest += before < (experts + 9) / 10 ? tokens[e] : 0;
        sum += tokens[e];
        squares += tokens[e] * tokens[e];
    }
    assert_true((double)layer->assignments == sum);
    assert_near(layer->busiest_tenth, ratio(busiest, sum));
    assert_near(layer->effective_experts, ratio(sum * sum, squares));
    assert_near(layer->waste_factor, ratio(rows, sum));
}

static void assert_reuse(const LayerEvents *of, uint32_t experts, const LayerCharacter *layer)
{
    double lookups = 0;
    double after_first = 0;
    double again = 0;
    double reuses = 0;
    double distances = 0;
    double within[REUSE_WITHINS] = {0};
    for (uint32_t i = 0; i < of->n; i++)
        for (uint32_t e = 0; e < experts; e++) {
            uint32_t distance = 1;
            if (tokens_of(of->events[i], e) == 0)
                continue;
            lookups++;
            after_first += i > 0;
            while (distance <= i && tokens_of(of->events[i - distance], e) == 0)
                distance++;
            if (distance > i)
                continue;
            again += distance == 1;
            reuses++;
            distances += distance;
            for (int j = 0; j < REUSE_WITHINS; j++)
                within[j] += distance <= REUSE_WITHIN[j];
        }
    assert_true((double)layer->lookups == lookups);
    assert_true(layer->events == of->n);
    assert_near(layer->active, ratio(lookups, (double)of->n * experts));
    assert_near(layer->again, ratio(again, after_first));
    assert_true((double)layer->reuses == reuses);
    assert_near(layer->reuse_events, ratio(distances, reuses));
    for (int j = 0; j < REUSE_WITHINS; j++)
        assert_near(layer->reuse_within[j], ratio(within[j], reuses));
}

/* Pearson's r as it is defined; false where one of the two never changes. */
static bool correlate(const LayerEvents *of, uint32_t a, uint32_t b, double *r)
{
    double mean[2] = {0};
    double sums[3] = {0};
    for (uint32_t i = 0; i < of->n; i++) {
        mean[0] += (tokens_of(of->events[i], a) > 0) / (double)of->n;
        mean[1] += (tokens_of(of->events[i], b) > 0) / (double)of->n;
    }
    for (uint32_t i = 0; i < of->n; i++) {
        double x = (tokens_of(of->events[i], a) > 0) - mean[0];
        double y = (tokens_of(of->events[i], b) > 0) - mean[1];
        sums[0] += x * y;
        sums[1] += x * x;
        sums[2] += y * y;
    }
    *r = sums[0] / sqrt(sums[1] * sums[2]);
    return sums[1] > 1e-9 && sums[2] > 1e-9;
}

static void assert_correlation(const LayerEvents *of, uint32_t experts, const LayerCharacter *layer)
{
    uint64_t pairs = 0;
    double sum = 0;
    double most = -2;
    for (uint32_t a = 0; a < experts; a++)
        for (uint32_t b = a + 1; b < experts; b++) {
            double r;
            if (!correlate(of, a, b, &r))
                continue;
            pairs++;
            sum += fabs(r);
            most = r > most ? r : most;
        }
    assert_true(layer->pairs == pairs);
    assert_near(layer->correlation, ratio(sum, (double)pairs));
    if (pairs > 0) {
        double r;
        assert_near(layer->most_correlation, most);
        assert_true(correlate(of, layer->most_pair[0], layer->most_pair[1], &r));
        assert_near(r, most);
    }
}

static void layers_are_characterised_as_plain_counts_over_their_events(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 80; seed++) {
        Character character;
        double lookups = 0;
        double slots = 0;
        ref_trace_make(&trace, seed, 30);
        assert_ok(characterise(&trace.packed, ALL_PHASES, &character));
        for (uint32_t i = 0; i < trace.n_layers; i++) {
            const LayerEvents of = events_of(i);
            const LayerCharacter *layer = &character.layers[i];
            uint32_t experts = trace.layers[i].experts;
            assert_skew(&of, experts, layer);
            assert_reuse(&of, experts, layer);
            assert_correlation(&of, experts, layer);
            lookups += (double)layer->lookups;
            slots += (double)of.n * experts;
        }
        assert_near(character.total.active, ratio(lookups, slots));
        character_free(&character);
        ref_trace_free(&trace);
    }
}

/* Two experts of eight that take turns by step, with all tokens; step I has PHASE(I). */
static void add_turns(PackedTrace *packed, Phase even, Phase odd)
{
    for (uint32_t i = 0; i < 10; i++) {
        const uint32_t zeros[3] = {0};
        const uint16_t expert = (uint16_t)(i % 2 ? 6 : 1);
        const uint16_t experts[3] = {expert, expert, expert};
        const TraceStep step = {.step = i,
                                .phase = i % 2 ? odd : even,
                                .tokens = 3,
                                .request = zeros,
                                .position = zeros,
                                .experts = experts};
        assert_ok(packed_trace_add_step(packed, &step));
    }
}

static void a_phase_is_characterised_as_if_there_were_no_other(void **unused)
{
    (void)unused;
    const TraceLayer layer = {.layer = 4, .experts = 8, .top_k = 1};
    PackedTrace packed;
    Character character;
    assert_ok(packed_trace_new(&layer, 1, &packed));
    add_turns(&packed, PHASE_PREFILL, PHASE_DECODE);
    assert_ok(characterise(&packed, ALL_PHASES, &character));
    assert_near(character.total.again, 0);
    assert_near(character.total.reuse_events, 2);
    assert_near(character.layers[0].most_correlation, -1); /* the only pair that varies */
    assert_near(character.total.waste_factor, 8);
    assert_near(character.total.effective_experts, 2);
    character_free(&character);
    assert_ok(characterise(&packed, PHASE_DECODE, &character));
    assert_int_equal(character.total.events, 5);
    assert_int_equal(character.total.assignments, 15);
    assert_near(character.total.again, 1);
    assert_near(character.total.effective_experts, 1);
    assert_int_equal(character.layers[0].used, 1);
    assert_int_equal(character.layers[0].pairs, 0);
    character_free(&character);
    assert_ok(characterise(&packed, PHASE_ENCODE, &character));
    assert_int_equal(character.total.events, 0);
    assert_near(character.total.active, 0);
    character_free(&character);
    packed_trace_free(&packed);
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **unused)
{
    (void)unused;
    ref_trace_make(&trace, 3, 10);
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Character character;
        Status status = characterise(&trace.packed, ALL_PHASES, &character);
        if (status == OK)
            character_free(&character);
        failing_end(&failing, status);
    }
    ref_trace_free(&trace);
}

static void route(uint64_t *random, uint16_t *experts)
{
    (void)random;
    memcpy(experts, (const uint16_t[4]){0, 2, 2, 0}, 4 * sizeof *experts);
}

/* Layers 1 and 3 of four experts; in each step one token with experts 0 and 2. */
static const char *make_file(void)
{
    const char *path = scratch_path("routing.db");
    const TraceLayer layers[2] = {{.layer = 1, .name = "one", .experts = 4, .top_k = 2},
                                  {.layer = 3, .name = "two", .experts = 4, .top_k = 2}};
    const TraceRun of = {.tool = "test", .source = "test", .model = "model"};
    record_routed(path, &(RoutedTrace){.run = &of,
                                       .layers = layers,
                                       .n_layers = 2,
                                       .steps = 6,
                                       .requests = 1,
                                       .first = PHASE_PREFILL,
                                       .phase = PHASE_DECODE,
                                       .route = route});
    return path;
}

static void the_command_says_it_of_every_layer_and_in_all(void **unused)
{
    (void)unused;
    char path[256];
    cJSON *json;
    snprintf(path, sizeof path, "%s", make_file());
    RUN("analyze", path, "--phase", "decode", "--json");
    assert_int_equal(run.code, 0);
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(json, "per_layer");
    assert_int_equal(cJSON_GetArraySize(layers), 2);
    const cJSON *layer = cJSON_GetArrayItem(layers, 1);
    assert_true(number_at(layer, "layer") == 3);
    assert_true(number_at(layer, "events") == 5);
    assert_true(number_at(layer, "experts_used") == 2);
    assert_true(number_at(layer, "active_share") == 0.5);
    assert_true(number_at(layer, "again_share") == 1);
    assert_true(number_at(layer, "waste_factor") == 2);
    assert_true(number_at(cJSON_GetObjectItemCaseSensitive(json, "total"), "events") == 10);
    cJSON_Delete(json);
    RUN("analyze", path);
    assert_int_equal(run.code, 0);
    assert_non_null(strstr(run.out, "effective"));
    assert_non_null(strstr(run.out, "\ntotal"));
    RUN("analyze", path, "--phase", "nap");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "--phase: 'nap', allowed are prefill, decode, encode, mixed"));
    RUN("analyze", "/nonexistent.db");
    assert_int_equal(run.code, 2);
    assert_non_null(strstr(run.err, "moebius: analyze: /nonexistent.db: cannot open"));
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_are_characterised_as_plain_counts_over_their_events),
        cmocka_unit_test(a_phase_is_characterised_as_if_there_were_no_other),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(the_command_says_it_of_every_layer_and_in_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
