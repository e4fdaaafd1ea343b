#include <inttypes.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/plan_input.h"
#include "cli/print.h"
#include "cli/table.h"
#include "cli/trace_input.h"
#include "sim/replay.h"

typedef struct {
    OptionList traces;
    const char *plan;
    OptionList sets;
    bool json;
} Arguments;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        {.name = "trace",
         .argument = "FILE",
         .help = "the trace to replay; repeated: shards, one after the other",
         .kind = OPTION_LIST,
         .required = true,
         .value = &arguments->traces},
        PLAN_OPTIONS(&arguments->plan, &arguments->sets),
        {.name = "json",
         .help = "print one JSON document",
         .kind = OPTION_FLAG,
         .value = &arguments->json},
    };
    const OptionTable table = {
        .command = "simulate",
        .summary = "Replays the routing of a trace through the expert buffer of a plan, and counts "
                   "hits,\nmisses and bytes loaded. Routing is taken as recorded.",
        .example = "moebius simulate --trace trace.db --plan plan.json --set buffer.slots=8",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    return options_parse(&table, argc, argv);
}

static void add_row(Table *table, const char *name, const ReplayLayer *layer)
{
    char text[NUMBER_BYTES];
    const BufferCounts *counts = &layer->counts;
    uint64_t lookups = counts->hits + counts->misses;
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(lookups, text));
    table_cell(table, "%s", number_text(counts->hits, text));
    table_cell(table, "%s", number_text(counts->misses, text));
    table_cell(table, "%s", ratio_text(counts->misses, lookups, text));
    table_cell(table, "%s", number_text(layer->assignments, text));
    table_cell(table, "%s", ratio_text(layer->assignment_hits, layer->assignments, text));
    table_cell(table, "%s", number_text(counts->loads, text));
    table_cell(table, "%.2f", (double)counts->bytes_loaded / 1048576.0);
    table_cell(table, "%s", number_text(counts->evictions, text));
    table_cell(table, "%s", ratio_text(counts->evicted_newest, counts->evictions, text));
}

static Status print_layers(const PackedTrace *trace, const ReplayResult *result)
{
    static const char *const TITLES[] = {
        "layer",           "lookups", "hits", "misses",    "miss ratio",    "assignments",
        "assignment hits", "loads",   "MiB",  "evictions", "newest evicted"};
    Table *table;
    char name[16];
    TRY(table_new(TITLES, "rrrrrrrrrrr", &table));
    for (uint32_t i = 0; i < result->n_layers; i++) {
        snprintf(name, sizeof name, "%" PRIu32, trace->layers[i].layer);
        add_row(table, name, &result->layers[i]);
    }
    add_row(table, "total", &result->total);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static void add_prefetch_row(Table *table, const char *name, const BufferCounts *counts)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", name);
    table_cell(table, "%s", number_text(counts->predictions, text));
    table_cell(table, "%s", ratio_text(counts->predicted_right, counts->predictable, text));
    table_cell(table, "%s", ratio_text(counts->predicted_right, counts->predicted, text));
    table_cell(table, "%s", number_text(counts->prefetches, text));
    table_cell(table, "%s", number_text(counts->prefetch_hits, text));
    table_cell(table, "%s", number_text(counts->prefetches - counts->prefetch_hits, text));
    table_cell(table, "%.2f", (double)counts->bytes_prefetched / 1048576.0);
}

/* How good the predictions were, and what became of the loads that they asked for. */
static Status prefetch_table(const PackedTrace *trace, const ReplayResult *result, Table **table)
{
    static const char *const TITLES[] = {"layer",      "predicted", "recall", "precision",
                                         "prefetched", "useful",    "wasted", "MiB"};
    char name[16];
    TRY(table_new(TITLES, "rrrrrrrr", table));
    for (uint32_t i = 0; i < result->n_layers; i++) {
        snprintf(name, sizeof name, "%" PRIu32, trace->layers[i].layer);
        if (result->layers[i].counts.predictions > 0)
            add_prefetch_row(*table, name, &result->layers[i].counts);
    }
    add_prefetch_row(*table, "total", &result->total.counts);
    return OK;
}

static Status print_tables(const PackedTrace *trace, const Plan *plan, const ReplayResult *result)
{
    Table *prefetch = NULL;
    if (plan_prefetches(plan))
        TRY(prefetch_table(trace, result, &prefetch));
    Status status = print_layers(trace, result);
    if (status == OK && prefetch != NULL) {
        puts("");
        status = table_print(prefetch, stdout);
    }
    if (prefetch != NULL)
        table_free(prefetch);
    return status;
}

static Status print_people(const PackedTrace *trace, const Plan *plan, const ReplayResult *result)
{
    char lookups[NUMBER_BYTES];
    char assignments[NUMBER_BYTES];
    char memory[NUMBER_BYTES];
    char duration[NUMBER_BYTES];
    const BufferCounts *counts = &result->total.counts;
    TRY(print_tables(trace, plan, result)); /* first: what fails must have printed nothing */
    if (plan->buffer.on)
        printf("\n%s, replay order %s, scope %s; routing as recorded.\n", plan->buffer.evict,
               plan_order_name(plan->buffer.order), plan_scope_name(plan->buffer.scope));
    else
        printf("\nAll experts resident; routing as recorded.\n");
    if (plan_prefetches(plan))
        printf("Prefetching by %s, %" PRIu32 " MoE layers ahead: recall is the share of the "
               "lookups that was predicted,\nprecision the share of the predictions that was "
               "looked up.\n",
               plan->prefetch.predictor, plan->prefetch.distance);
    if (plan->batching.mode != BATCHING_AS_RECORDED)
        printf("Tokens regrouped: %" PRIu32 " sequences at once, prompts %s, at most %" PRIu32
               " tokens a step: %s steps.\n",
               plan->batching.sequences, plan_batching_name(plan->batching.mode),
               plan->batching.max_tokens, number_text(trace->n_steps, duration));
    printf("Miss ratio is of %s lookups (one per step, layer and expert needed); assignment hits "
           "of %s\nassignments (token and slot). Newest evicted: evictions that took the expert "
           "loaded last.\nExperts take %s of device memory. Replayed in %s.\n",
           number_text(counts->hits + counts->misses, lookups),
           number_text(result->total.assignments, assignments),
           bytes_text(result->memory_bytes, memory), duration_text(result->replay_ns, duration));
    return OK;
}

static Status fill_json(cJSON *json, const OptionList *traces, const Plan *plan,
                        const ReplayResult *result)
{
    cJSON *canonical;
    TRY(trace_input_json(json, traces));
    TRY(json_add_text(json, "routing", "as recorded"));
    if (cJSON_GetObjectItemCaseSensitive(json, "memory_bytes") == NULL)
        TRY(json_add_u64(json, "memory_bytes", result->memory_bytes));
    TRY(plan_to_json(plan, &canonical));
    if (cJSON_AddItemToObject(json, "plan", canonical))
        return OK;
    cJSON_Delete(canonical);
    return fail_memory("JSON output", 0);
}

static Status print_result_json(const OptionList *traces, const PackedTrace *trace,
                                const Plan *plan, const ReplayResult *result)
{
    cJSON *json;
    TRY(replay_result_json(result, trace->layers, &json));
    Status status = fill_json(json, traces, plan, result);
    if (status == OK)
        status = print_json(json);
    cJSON_Delete(json);
    return status;
}

static Status simulate(const Arguments *arguments, const PackedTrace *trace, const Plan *plan)
{
    TraceSignals *signals;
    ReplayFuture future = {0};
    ReplayResult result;
    TRY(trace_input_signals(&arguments->traces, plan, &signals));
    future.signals = signals;
    Status status = replay_prepare(trace, plan, &future);
    if (status == OK)
        status = replay_run(trace, plan, &future, NULL, NULL, &result);
    replay_future_free(&future);
    trace_signals_free(signals);
    if (status != OK)
        return status;
    if (arguments->json)
        status = print_result_json(&arguments->traces, trace, plan, &result);
    else
        status = print_people(trace, plan, &result);
    replay_result_free(&result);
    return status;
}

Status command_simulate(int argc, char **argv)
{
    Arguments arguments = {0};
    Plan plan;
    PackedTrace trace;
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = plan_input(arguments.plan, &arguments.sets, &plan);
    if (status == OK)
        status = trace_input(&arguments.traces, &plan, &trace);
    if (status == OK) {
        status = simulate(&arguments, &trace, &plan);
        packed_trace_free(&trace);
    }
    option_list_free(&arguments.sets);
    option_list_free(&arguments.traces);
    return status;
}
