#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "cli/byte_size.h"
#include "cli/command.h"
#include "cli/front_print.h"
#include "cli/options.h"
#include "cli/plan_output.h"
#include "cli/print.h"
#include "cli/table.h"
#include "sim/study_pick.h"

typedef struct {
    const char *from;
    const char *out;
    int best;    /* PickBest, or NO_BEST */
    bool pareto; /* the front alone */
    const char *memory_at_most;
    bool json;
    PickOptions pick;
} Arguments;

enum { NO_BEST = -1 };

static const char *const BEST_NAMES[] = {"time", "misses", "memory", NULL};
_Static_assert(PICK_TIME == 0 && PICK_MISSES == 1 && PICK_MEMORY == 2, "as in BEST_NAMES");

static Status check_best(const OptionTable *table, const Arguments *arguments)
{
    if (arguments->pareto && (arguments->best != NO_BEST || arguments->out != NULL))
        return options_fail(table, "--pareto shows plans, it does not go with --best and --out");
    if (!arguments->pareto && arguments->best == NO_BEST)
        return options_fail(table, "--best is missing");
    if (!arguments->pareto && arguments->out == NULL)
        return options_fail(table, "--out is missing");
    return OK;
}

static Status check(const OptionTable *table, Arguments *arguments)
{
    StudyConditions *conditions = &arguments->pick.conditions;
    TRY(check_best(table, arguments));
    if (arguments->best != NO_BEST)
        arguments->pick.best = (PickBest)arguments->best;
    if (conditions->misses_at_most < 0)
        conditions->misses_at_most = 1;
    if (arguments->memory_at_most == NULL)
        return OK;
    return byte_size(table, "memory-at-most", arguments->memory_at_most,
                     &conditions->memory_at_most);
}

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        TEXT_OPTION("from", "FILE", "study.db, as sweep wrote it", &arguments->from,
                    .required = true),
        CHOICE_OPTION("best", "time|misses|memory",
                      "time: the shortest; memory: the least; misses: fewest bytes loaded",
                      BEST_NAMES, &arguments->best),
        FLAG_OPTION("pareto",
                    "only show the plans that none beats in throughput with as little memory",
                    &arguments->pareto),
        TEXT_OPTION("memory-at-most", "BYTES",
                    "only plans with this memory (80GiB, 500MB): of the device where the study has "
                    "times, else of the experts",
                    &arguments->memory_at_most),
        F64_OPTION("tokens-per-second-at-least", "X",
                   "only plans with this throughput; the study must have times", 1e-9, 1e15,
                   &arguments->pick.conditions.tokens_per_s_at_least),
        F64_OPTION(
            "slowdown-at-most", "SHARE",
            "only plans whose tokens take this much longer than the fastest plan's (0.1: 10 %)",
            1e-9, 1e9, &arguments->pick.conditions.slowdown_at_most),
        TEXT_OPTION("where", "SQL", "only rows of result with this expression",
                    &arguments->pick.conditions.where),
        F64_OPTION("misses-at-most", "RATIO", "only plans with this miss ratio", 0, 1,
                   &arguments->pick.conditions.misses_at_most),
        FLAG_OPTION("with-bounds", "also policies that know the future",
                    &arguments->pick.conditions.with_bounds),
        TEXT_OPTION("out", "FILE", "where the plan is written", &arguments->out, .writes = true),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "plan",
        .summary =
            "Writes the best plan of a study, by what was scored of the trace. What the plan "
            "learnt stands in it, so that it runs without the trace. Columns for --where: name, "
            "evict, slots, budget_bytes, scope, replay_order, bound, lookups, hits, misses, "
            "miss_ratio, assignments, assignment_hits, loads, bytes_loaded, evictions, "
            "evicted_newest, evicted_young, memory_bytes, replay_ns, predictor, prefetches, "
            "prefetch_hits, prefetch_evicted, bytes_prefetched, compute, host_computed, host_rows; "
            "of sweeps with --hardware total_ns, tokens_per_s, exposed_load_ns, peak_bytes, and of "
            "continuous batching ttft_median_ns, ttft_p99_ns, tbt_median_ns, tbt_p99_ns.",
        .example =
            "moebius plan --from study.db --best time --memory-at-most 80GiB --out plan.json\n"
            "moebius plan --from study.db --best memory --tokens-per-second-at-least 500 "
            "--out plan.json\nmoebius plan --from study.db --pareto\n"
            "moebius plan --from study.db --best misses --where \"slots <= 8\" "
            "--out plan.json",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    return check(&table, arguments);
}

static double miss_ratio(const Pick *pick)
{
    return pick->lookups > 0 ? (double)pick->misses / (double)pick->lookups : 0.0;
}

static Status fill_time(cJSON *json, const PlanTime *time)
{
    cJSON *object;
    if (!time->known)
        return OK;
    TRY(json_add_object(json, "time", &object));
    TRY(json_add_u64(object, "total_ns", time->total_ns));
    TRY(json_add_f64(object, "tokens_per_s", time->tokens_per_s));
    TRY(json_add_u64(object, "exposed_load_ns", time->exposed_load_ns));
    TRY(json_add_u64(object, "peak_bytes", time->peak_bytes));
    if (!time->served)
        return OK;
    TRY(json_add_u64(object, "ttft_median_ns", time->ttft_median_ns));
    TRY(json_add_u64(object, "ttft_p99_ns", time->ttft_p99_ns));
    TRY(json_add_u64(object, "tbt_median_ns", time->tbt_median_ns));
    return json_add_u64(object, "tbt_p99_ns", time->tbt_p99_ns);
}

static Status fill_json(cJSON *json, const Arguments *arguments, const Pick *pick)
{
    cJSON *plan;
    TRY(json_add_text(json, "study", arguments->from));
    TRY(json_add_text(json, "out", arguments->out));
    TRY(json_add_text(json, "best", BEST_NAMES[arguments->best]));
    TRY(json_add_u64(json, "plan_id", (uint64_t)pick->plan_id));
    TRY(json_add_text(json, "name", pick->plan.name));
    TRY(json_add_u64(json, "candidates", pick->candidates));
    TRY(json_add_u64(json, "plans_without_result", pick->missing));
    TRY(fill_time(json, &pick->time));
    TRY(json_add_u64(json, "lookups", pick->lookups));
    TRY(json_add_u64(json, "hits", pick->hits));
    TRY(json_add_u64(json, "misses", pick->misses));
    TRY(json_add_f64(json, "miss_ratio", miss_ratio(pick)));
    TRY(json_add_u64(json, "loads", pick->loads));
    TRY(json_add_u64(json, "bytes_loaded", pick->bytes_loaded));
    TRY(json_add_u64(json, "memory_bytes", pick->memory_bytes));
    TRY(plan_to_json(&pick->plan, &plan));
    return json_attach(json, "plan", plan);
}

/* What --json prints; freed with mem_free. */
static Status pick_text(const Arguments *arguments, const Pick *pick, char **text)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    Status status = fill_json(json, arguments, pick);
    if (status == OK)
        status = json_print(json, true, text);
    cJSON_Delete(json);
    return status;
}

static void print_time(const PlanTime *time)
{
    char total[NUMBER_BYTES];
    char exposed[NUMBER_BYTES];
    char memory[NUMBER_BYTES];
    if (!time->known)
        return;
    printf("%.1f tokens/s, %s of device memory; %s in all, of which %s waiting for misses\n",
           time->tokens_per_s, bytes_text(time->peak_bytes, memory),
           duration_text(time->total_ns, total), duration_text(time->exposed_load_ns, exposed));
}

static void print_pick(const Arguments *arguments, const Pick *pick)
{
    char lookups[NUMBER_BYTES];
    char loaded[NUMBER_BYTES];
    char memory[NUMBER_BYTES];
    const bool sizes_known = pick->memory_bytes > 0;
    printf("%s: \"%s\", the best of %" PRIu64 " by %s\n", arguments->out, pick->plan.name,
           pick->candidates, BEST_NAMES[arguments->best]);
    print_time(&pick->time);
    printf("miss ratio %.4f of %s lookups, ", miss_ratio(pick),
           number_text(pick->lookups, lookups));
    if (sizes_known)
        printf("%s loaded, %s for experts\n", bytes_text(pick->bytes_loaded, loaded),
               bytes_text(pick->memory_bytes, memory));
    else
        printf("%s loads of experts of unknown size\n", number_text(pick->loads, loaded));
    if (pick->missing > 0)
        printf("%" PRIu64 " plans of the study have no result yet\n", pick->missing);
}

/* Everything that can fail but the file itself comes before it, so that a failure leaves none. */
static Status write_pick(const Arguments *arguments, const Pick *pick)
{
    char *text = NULL;
    Status status = arguments->json ? pick_text(arguments, pick, &text) : OK;
    if (status == OK)
        status = plan_output(&pick->plan, arguments->out, "learn fewer with prefetch.successors");
    if (status == OK && arguments->json)
        puts(text);
    else if (status == OK)
        print_pick(arguments, pick);
    mem_free(text);
    return status;
}

static Status print_front_json(const Arguments *arguments, const StudyFront *front)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    Status status = json_add_text(json, "study", arguments->from);
    if (status == OK)
        status = json_add_u64(json, "candidates", front->candidates);
    if (status == OK)
        status = front_json(front, json);
    return print_json_end(json, status);
}

static Status show_front(const Arguments *arguments)
{
    StudyFront front;
    TRY(study_front(arguments->from, &arguments->pick.conditions, &front));
    if (front.n_points == 0)
        return fail(ERR_INPUT, "%s: no result meets the conditions", arguments->from);
    Status status = arguments->json ? print_front_json(arguments, &front) : front_print(&front);
    study_front_free(&front);
    return status;
}

Status command_plan(int argc, char **argv)
{
    Arguments arguments = {.best = NO_BEST, .pick.conditions.misses_at_most = -1};
    Pick pick;
    TRY(parse(argc, argv, &arguments));
    if (arguments.pareto)
        return show_front(&arguments);
    TRY(study_pick(arguments.from, &arguments.pick, &pick));
    Status status = write_pick(&arguments, &pick);
    plan_free(&pick.plan);
    return status;
}
