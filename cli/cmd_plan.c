#include <inttypes.h>
#include <stdio.h>

#include "base/memory.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/plan_output.h"
#include "cli/print.h"
#include "cli/table.h"
#include "sim/study_pick.h"

typedef struct {
    const char *from;
    const char *out;
    int best;
    bool json;
    PickOptions pick;
} Arguments;

static const char *const BEST_NAMES[] = {"time", "misses", "memory", NULL};
_Static_assert(PICK_TIME == 0 && PICK_MISSES == 1 && PICK_MEMORY == 2, "as in BEST_NAMES");

static Status check(const OptionTable *table, Arguments *arguments)
{
    arguments->pick.best = (PickBest)arguments->best;
    if (arguments->pick.misses_at_most < 0) {
        if (arguments->pick.best == PICK_MEMORY)
            return options_fail(table, "--best memory needs --misses-at-most");
        arguments->pick.misses_at_most = 1;
    }
    return OK;
}

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        {.name = "from",
         .argument = "FILE",
         .help = "study.db, as sweep wrote it",
         .kind = OPTION_TEXT,
         .required = true,
         .value = &arguments->from},
        {.name = "best",
         .argument = "time|misses|memory",
         .help = "misses: fewest bytes loaded; memory: least for the experts",
         .kind = OPTION_CHOICE,
         .required = true,
         .value = &arguments->best,
         .choices = BEST_NAMES},
        {.name = "where",
         .argument = "SQL",
         .help = "only rows of result with this expression",
         .kind = OPTION_TEXT,
         .value = &arguments->pick.where},
        {.name = "misses-at-most",
         .argument = "RATIO",
         .help = "only plans with this miss ratio",
         .kind = OPTION_F64,
         .value = &arguments->pick.misses_at_most,
         .low = 0,
         .high = 1},
        {.name = "with-bounds",
         .help = "also policies that know the future",
         .kind = OPTION_FLAG,
         .value = &arguments->pick.with_bounds},
        {.name = "out",
         .argument = "FILE",
         .help = "where the plan is written",
         .kind = OPTION_TEXT,
         .required = true,
         .value = &arguments->out},
        {.name = "json",
         .help = "print one JSON document",
         .kind = OPTION_FLAG,
         .value = &arguments->json},
    };
    const OptionTable table = {
        .command = "plan",
        .summary =
            "Writes the best plan of a study, by what was scored of the trace. What the plan "
            "learnt stands in it,\nso that it runs without the trace. Columns for --where: name, "
            "evict, slots, "
            "budget_bytes, scope,\nreplay_order, bound, lookups, hits, misses, miss_ratio, "
            "assignments, assignment_hits, loads,\nbytes_loaded, evictions, "
            "evicted_newest, memory_bytes, replay_ns.",
        .example = "moebius plan --from study.db --best misses --where \"slots <= 8\" "
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

static void print_pick(const Arguments *arguments, const Pick *pick)
{
    char lookups[NUMBER_BYTES];
    char loaded[NUMBER_BYTES];
    char memory[NUMBER_BYTES];
    printf("%s: \"%s\", the best of %" PRIu64 " by %s\n", arguments->out, pick->plan.name,
           pick->candidates, BEST_NAMES[arguments->best]);
    printf("miss ratio %.4f of %s lookups, %s loaded, %s for experts\n", miss_ratio(pick),
           number_text(pick->lookups, lookups), bytes_text(pick->bytes_loaded, loaded),
           bytes_text(pick->memory_bytes, memory));
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

Status command_plan(int argc, char **argv)
{
    Arguments arguments = {.pick.misses_at_most = -1};
    Pick pick;
    TRY(parse(argc, argv, &arguments));
    TRY(study_pick(arguments.from, &arguments.pick, &pick));
    Status status = write_pick(&arguments, &pick);
    plan_free(&pick.plan);
    return status;
}
