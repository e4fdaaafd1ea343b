#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/part_input.h"
#include "cli/plan_input.h"
#include "cli/plan_output.h"
#include "cli/print.h"
#include "cli/table.h"
#include "cli/trace_input.h"
#include "sim/place.h"
#include "traces/packed_part.h"

typedef struct {
    OptionList traces;
    const char *plan;
    OptionList sets;
    const char *train;
    const char *test;
    const char *out;
    uint32_t ranks;
    uint32_t replicas;
    int method;
    bool json;
} Arguments;

/* What is printed. */
typedef struct {
    const Arguments *arguments;
    const Plan *plan; /* with its map */
    const PackedTrace *trace;
    TraceParts parts;
    PlaceScore score;      /* on the test part */
    PlaceScore contiguous; /* of blocks, to compare with */
} Placing;

static Status check(const OptionTable *table, const Arguments *arguments)
{
    PlacementMethod method = (PlacementMethod)arguments->method;
    if (method == PLACEMENT_GIVEN && arguments->plan == NULL)
        return options_fail(table, "--method given scores the map of --plan");
    for (size_t i = 0; i < arguments->sets.count; i++)
        if (strncmp(arguments->sets.items[i], "placement.", strlen("placement.")) == 0)
            return options_fail(table,
                                "--set %s: the placement is what --ranks, --method and --replicas "
                                "ask for",
                                arguments->sets.items[i]);
    if (arguments->replicas > 0 && method != PLACEMENT_REPLICATE)
        return options_fail(table, "--replicas needs --method replicate");
    if (arguments->replicas == 0 && method == PLACEMENT_REPLICATE)
        return options_fail(table, "--method replicate needs --replicas");
    return OK;
}

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        LIST_OPTION("trace", "FILE", "the trace to learn from and to score on; repeated: shards",
                    &arguments->traces, .required = true),
        U32_OPTION("ranks", "N", "how many ranks share the experts", 1, PLACEMENT_MAX_RANKS,
                   &arguments->ranks, .required = true),
        CHOICE_OPTION("method", "METHOD", "see above", PLACEMENT_METHOD_NAMES, &arguments->method,
                      .required = true),
        U32_OPTION("replicas", "N", "replicate: copies in each layer beyond one of every expert", 1,
                   PLACEMENT_MAX_REPLICAS, &arguments->replicas),
        PLAN_OPTIONS(&arguments->plan, &arguments->sets),
        TRAIN_OPTION(&arguments->train),
        TEST_OPTION(&arguments->test),
        TEXT_OPTION("out", "FILE", "where the plan is written, with its placement", &arguments->out,
                    .required = true, .writes = true, .grows = "plan"),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "place",
        .summary =
            "Places the experts of every MoE layer on ranks, learnt from one part of a trace (the "
            "first half), and scores on another (the second half) how evenly they share the work.\n"
            "\n"
            "  contiguous, round-robin, random   follow from the ids (and the plan's seed)\n"
            "  greedy                            hottest first, each on the least loaded rank\n"
            "  anticorrelated                    and apart from those it is active with, by the "
            "published formula\n"
            "  anticorrelated-scaled             the same with loads and correlations of one size\n"
            "  replicate                         copies of the hottest, then greedy\n"
            "  given                             the map that --plan has",
        .example = "moebius place --trace trace.db --ranks 4 --method greedy --out plan.json\n"
                   "moebius place --trace trace.db --ranks 8 --method replicate --replicas 8 "
                   "--out plan.json",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    return check(&table, arguments);
}

static void add_scores(Table *table, const char *name, const PlaceLayer *layer,
                       const PlaceLayer *contiguous)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(layer->events, text));
    table_cell(table, "%s", number_text(layer->assignments, text));
    for (int i = 0; i < 2; i++) {
        const PlaceLayer *of = i == 0 ? layer : contiguous;
        table_cell(table, "%.4f", of->max_load);
        table_cell(table, "%.4f", of->avg_max_load);
        table_cell(table, "%.3f", of->imbalance);
    }
}

static Status make_table(const Placing *placing, Table **table)
{
    static const char *const TITLES[] = {"layer",      "events",       "assignments",
                                         "max load",   "avg max load", "max/mean",
                                         "contiguous", "avg max load", "max/mean"};
    char name[16];
    TRY(table_new(TITLES, "rrrrrrrrr", table));
    for (uint32_t i = 0; i < placing->score.n_layers; i++) {
        snprintf(name, sizeof name, "%" PRIu32, placing->trace->layers[i].layer);
        add_scores(*table, name, &placing->score.layers[i], &placing->contiguous.layers[i]);
    }
    add_scores(*table, "total", &placing->score.total, &placing->contiguous.total);
    return OK;
}

static void print_people(const Placing *placing)
{
    const TraceParts *parts = &placing->parts;
    printf("\n%s: %s on %" PRIu32 " ranks", placing->arguments->out,
           PLACEMENT_METHOD_NAMES[placing->plan->placement.method], placing->plan->placement.ranks);
    if (placing->plan->placement.replicas > 0)
        printf(", %" PRIu32 " copies more in each layer", placing->plan->placement.replicas);
    printf("; scored on steps %" PRIu64 " to %" PRIu64, parts->test.first, parts->test.end - 1);
    if (placement_learns(placing->plan->placement.method))
        printf(", learnt from %" PRIu64 " to %" PRIu64 "%s", parts->train.first,
               parts->train.end - 1, trace_parts_overlap(parts) ? "; some were learnt from" : "");
    printf(".\nA load is a rank's share of an event's assignments, %.4f in balance; max/mean: the "
           "fullest rank's\nassignments over a mean rank's, summed over events. The last three "
           "are those of contiguous.\n",
           1.0 / placing->plan->placement.ranks);
}

static Status add_layer(cJSON *json, const PlaceLayer *layer)
{
    TRY(json_add_f64(json, "max_load", layer->max_load));
    TRY(json_add_f64(json, "avg_max_load", layer->avg_max_load));
    return json_add_f64(json, "max_over_mean", layer->imbalance);
}

static Status fill_layer(cJSON *json, const PlaceLayer *layer, const PlaceLayer *contiguous)
{
    cJSON *object;
    TRY(json_add_u64(json, "events", layer->events));
    TRY(json_add_u64(json, "assignments", layer->assignments));
    TRY(add_layer(json, layer));
    TRY(json_add_object(json, "contiguous", &object));
    return add_layer(object, contiguous);
}

static Status fill_layers(cJSON *json, const Placing *placing)
{
    cJSON *list;
    cJSON *total;
    TRY(json_add_object(json, "total", &total));
    TRY(fill_layer(total, &placing->score.total, &placing->contiguous.total));
    TRY(json_add_array(json, "per_layer", &list));
    for (uint32_t i = 0; i < placing->score.n_layers; i++) {
        cJSON *object = cJSON_CreateObject();
        TRY(json_push(list, object));
        TRY(json_add_u64(object, "layer", placing->trace->layers[i].layer));
        TRY(fill_layer(object, &placing->score.layers[i], &placing->contiguous.layers[i]));
    }
    return OK;
}

static Status fill_json(cJSON *json, const Placing *placing)
{
    cJSON *plan;
    const Plan *placed = placing->plan;
    TRY(trace_input_json(json, &placing->arguments->traces));
    TRY(json_add_text(json, "out", placing->arguments->out));
    TRY(json_add_text(json, "method", PLACEMENT_METHOD_NAMES[placed->placement.method]));
    TRY(json_add_u64(json, "ranks", placed->placement.ranks));
    TRY(json_add_u64(json, "replicas", placed->placement.replicas));
    TRY(part_input_json(json, &placing->parts));
    TRY(fill_layers(json, placing));
    TRY(plan_to_json(placed, &plan));
    return json_attach(json, "plan", plan);
}

static Status score(const PackedTrace *test, const Plan *plan, PlaceScore *found)
{
    const PlanTable *map;
    TRY(placement_map(plan, test->layers, test->n_layers, &map));
    Status status = place_score(test, map, plan->placement.ranks, found);
    plan_table_release(map);
    return status;
}

/* Scores the plan, and blocks on as many ranks. */
static Status score_both(Placing *placing)
{
    const Steps *steps = &placing->parts.test;
    const PackedTrace test = packed_trace_part(placing->trace, steps->first, steps->end);
    Plan blocks = plan_default();
    blocks.placement.ranks = placing->plan->placement.ranks;
    TRY(score(&test, placing->plan, &placing->score));
    Status status = score(&test, &blocks, &placing->contiguous);
    if (status != OK)
        place_score_free(&placing->score);
    return status;
}

static Status write_plan(const Placing *placing)
{
    return plan_output(placing->plan, placing->arguments->out, "place on fewer ranks");
}

static Status write_with_json(const Placing *placing)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    Status status = fill_json(json, placing);
    if (status == OK)
        status = write_plan(placing);
    return print_json_end(json, status);
}

static Status write_with_table(const Placing *placing)
{
    Table *table;
    TRY(make_table(placing, &table));
    Status status = write_plan(placing);
    if (status == OK)
        status = table_print(table, stdout);
    if (status == OK)
        print_people(placing);
    table_free(table);
    return status;
}

/* Puts the placement that is asked for into PLAN, learnt from the training part. */
static Status place(const Arguments *arguments, const PackedTrace *trace, const TraceParts *parts,
                    Plan *plan)
{
    const PackedTrace train = packed_trace_part(trace, parts->train.first, parts->train.end);
    if (arguments->method == PLACEMENT_GIVEN) {
        if (plan->placement.method == PLACEMENT_GIVEN && plan->placement.ranks == arguments->ranks)
            return OK;
        return fail(ERR_INPUT,
                    "--method given: --plan has method \"%s\" on %" PRIu32 " ranks, needs "
                    "\"given\" on %" PRIu32,
                    PLACEMENT_METHOD_NAMES[plan->placement.method], plan->placement.ranks,
                    arguments->ranks);
    }
    plan_table_release(plan->placement.map.table);
    plan->placement.map = (PlanLearned){0};
    plan->placement.ranks = arguments->ranks;
    plan->placement.method = (PlacementMethod)arguments->method;
    plan->placement.replicas = arguments->replicas;
    return place_learn(&train, plan);
}

static Status run(const Arguments *arguments, const PackedTrace *trace, Plan *plan)
{
    Placing placing = {.arguments = arguments, .plan = plan, .trace = trace};
    PartsAsked asked;
    TRY(part_input(arguments->train, arguments->test, &asked));
    TRY(trace_parts_choose(&asked, true, trace->n_steps, &placing.parts));
    TRY(place(arguments, trace, &placing.parts, plan));
    TRY(score_both(&placing));
    Status status = arguments->json ? write_with_json(&placing) : write_with_table(&placing);
    place_score_free(&placing.score);
    place_score_free(&placing.contiguous);
    return status;
}

Status command_place(int argc, char **argv)
{
    Arguments arguments = {0};
    Plan plan = {0};
    PackedTrace trace;
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = plan_input(arguments.plan, &arguments.sets, &plan);
    if (status == OK)
        status = plan_input_blame(trace_input(&arguments.traces, &plan, &trace), arguments.plan);
    if (status == OK) {
        status = run(&arguments, &trace, &plan); /* by a placement that is not the file's */
        packed_trace_free(&trace);
    }
    plan_free(&plan);
    option_list_free(&arguments.sets);
    option_list_free(&arguments.traces);
    return status;
}
