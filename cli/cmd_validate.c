#include <string.h>
#include <sys/stat.h>

#include "base/files.h"
#include "cli/command.h"
#include "cli/part_input.h"
#include "cli/plan_input.h"
#include "cli/validate.h"

static Status check(const OptionTable *table, ValidateArguments *arguments)
{
    TRY(model_input_check(table, &arguments->model));
    if (arguments->tokens.file == NULL &&
        (arguments->tokens.key != NULL || arguments->tokens.prompt_length > 0))
        return options_fail(table, "--key and --prompt-length need --tokens");
    if (arguments->out != NULL && arguments->plans.count > 1)
        return options_fail(table, "--out keeps the run of one plan, there are %zu",
                            arguments->plans.count);
    if (arguments->hardware == NULL && (arguments->runs > 0 || arguments->timeline != NULL))
        return options_fail(table, "--runs and --timeline need --hardware");
    if (arguments->runs == 0)
        arguments->runs = 5;
    return routing_input(table, arguments->routing, "gate and trace:FILE", &arguments->forced);
}

static Status parse(int argc, char **argv, ValidateArguments *arguments)
{
    const Option options[] = {
        TEXT_OPTION("trace", "FILE", "its steps are run again", &arguments->trace,
                    .required = true),
        LIST_OPTION("plan", "FILE",
                    "the plan (default: all experts resident); several run one after the other",
                    &arguments->plans),
        LIST_OPTION("set", "PATH=VALUE", "change one value of each plan", &arguments->sets),
        TRAIN_OPTION(&arguments->train),
        MODEL_OPTIONS(&arguments->model, false),
        TEXT_OPTION("tokens", "FILE", "token ids that the trace lacks", &arguments->tokens.file),
        TEXT_OPTION("key", "K", "of --tokens: only the stream of this name",
                    &arguments->tokens.key),
        U32_OPTION("prompt-length", "N", "of --tokens: cut streams into requests of N tokens", 1,
                   TRACE_MAX_TOKENS, &arguments->tokens.prompt_length),
        TEXT_OPTION("routing", "gate|trace:FILE", "the router's (default), or that of the trace",
                    &arguments->routing),
        TEXT_OPTION("out", "FILE", "keep the trace of the run", &arguments->out, .writes = true),
        DEVICE_OPTIONS(&arguments->device),
        TEXT_OPTION("hardware", "FILE",
                    "a profile of this machine: compare times and memory as well",
                    &arguments->hardware),
        U32_OPTION(
            "runs", "N",
            "with --hardware: runs that are measured, with each operation's time and as many "
            "without; of requests that arrive, without (default 5)",
            1, 1000, &arguments->runs),
        TEXT_OPTION("timeline", "FILE",
                    "with --hardware: write the first plan's time line, predicted and measured "
                    "(Chrome trace format)",
                    &arguments->timeline, .writes = true),
        GOAL_OPTIONS(&arguments->goals),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "validate",
        .summary =
            "Runs the steps of a trace in the executor under a plan, replays the routing of that "
            "very run in the simulator under the same plan, and compares what both say of every "
            "expert: hit, load, evict, bypass or computed on the host, and in which slot. Without "
            "--model the trace names the model. Exit status 1 on a difference. A trace without "
            "token ids runs with its own routing, as with --routing trace:FILE; policies that know "
            "the future can only be run so. With --hardware it also says how far simulated times "
            "and memory are from measured ones. With batching.mode \"continuous\" the requests of "
            "the trace arrive again, and steps are composed anew. Beside a device, runs during "
            "which others disturb the host's processor are measured again, within bounds.",
        .example = "moebius validate --trace trace.db --plan plan.json --model models/tiny-32x4\n"
                   "moebius validate --trace trace.db --plan lru.json --plan lfu.json\n"
                   "moebius validate --trace trace.db --plan lru.json --hardware hw.json --runs 5",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    return check(&table, arguments);
}

static Status check_routing(const ValidateArguments *arguments)
{
    if (arguments->forced == NULL || file_is_same(arguments->forced, arguments->trace))
        return OK;
    TRY(file_check_readable(arguments->trace));
    TRY(file_check_readable(arguments->forced));
    return fail(ERR_INPUT, "--routing trace:%s: the steps of %s can only run with its own routing",
                arguments->forced, arguments->trace);
}

/* The steps that carry token ids can be routed by the model again. */
static Status has_tokens(TraceReader *reader, bool *has)
{
    TraceStep step;
    Status status = trace_reader_next_step(reader, &step);
    *has = status == OK && step.token != NULL;
    return status == STATUS_END ? OK : status;
}

/* Takes from the trace what the command line leaves open: the model, and whether routing must be
 * forced. */
static Status read_origin(Validation *validation)
{
    const ValidateArguments *arguments = validation->arguments;
    TraceReader *reader;
    bool has;
    TRY(trace_reader_open(arguments->trace, &reader));
    const char *model =
        arguments->model.name != NULL ? arguments->model.name : trace_reader_run(reader)->model;
    Status status = mem_new(&validation->model, strlen(model) + 1, 1, "model path");
    if (status == OK) {
        memcpy(validation->model, model, strlen(model) + 1);
        status = has_tokens(reader, &has);
    }
    trace_reader_close(reader);
    TRY(status);
    bool gate = arguments->routing != NULL && arguments->forced == NULL;
    validation->forced =
        arguments->forced != NULL || (!gate && !has && arguments->tokens.file == NULL);
    if (arguments->model.name != NULL || checkpoint_is_shape(validation->model) ||
        file_exists(validation->model))
        return OK;
    return fail(ERR_INPUT, "%s: its model \"%s\" is not here: name one with --model",
                arguments->trace, validation->model);
}

/* Requests arrive under all plans, or under none. */
static Status check_batching(Validation *validation)
{
    const ValidateArguments *arguments = validation->arguments;
    validation->serves = validation->plans[0].batching.mode == BATCHING_CONTINUOUS;
    for (size_t i = 1; i < validation->n_plans; i++)
        if ((validation->plans[i].batching.mode == BATCHING_CONTINUOUS) != validation->serves)
            return fail(ERR_INPUT, "%s: batching.mode: all plans are \"continuous\", or none",
                        arguments->plans.items[i]);
    TRY(service_goals_check(&arguments->goals, validation->serves));
    if (validation->serves && (arguments->timeline != NULL || arguments->tokens.file != NULL))
        return fail(ERR_USAGE, "--timeline and --tokens do not go with batching.mode "
                               "\"continuous\"");
    return OK;
}

static Status read_plans(Validation *validation)
{
    const ValidateArguments *arguments = validation->arguments;
    size_t n = arguments->plans.count > 0 ? arguments->plans.count : 1;
    TRY(mem_new(&validation->plans, n, sizeof *validation->plans, "plans"));
    TRY(mem_new(&validation->results, n, sizeof *validation->results, "plans"));
    for (size_t i = 0; i < n; i++) {
        Plan *plan = &validation->plans[i];
        const char *file = arguments->plans.count > 0 ? arguments->plans.items[i] : NULL;
        TRY(plan_input(file, &arguments->sets, plan));
        validation->n_plans++;
        validation->results[i].name = plan->name[0] != '\0' || file == NULL ? plan->name : file;
    }
    return check_batching(validation);
}

static Status validate(Validation *validation)
{
    const ValidateArguments *arguments = validation->arguments;
    uint64_t left_out;
    TRY(read_plans(validation));
    TRY(check_routing(arguments));
    TRY(read_origin(validation));
    TRY(checkpoint_open_model(validation->model, &validation->checkpoint));
    if (arguments->tokens.file != NULL)
        TRY(token_input_load(&arguments->tokens, arguments->model.name,
                             checkpoint_config(validation->checkpoint), 0, &validation->set,
                             &left_out));
    return validation_run(validation);
}

static void free_validation(Validation *validation)
{
    executor_close(validation->executor);
    timeline_abandon(validation->timeline);
    hardware_free(&validation->hardware);
    for (size_t i = 0; i < validation->n_plans; i++) {
        replay_result_free(&validation->results[i].predicted);
        validation_free_time(&validation->results[i].time);
        mem_free(validation->results[i].served.runs);
        plan_free(&validation->plans[i]);
    }
    mem_free(validation->results);
    mem_free(validation->plans);
    tokens_free(&validation->set);
    checkpoint_close(validation->checkpoint);
    mem_free(validation->model);
    scratch_close(&validation->folder);
}

Status command_validate(int argc, char **argv)
{
    ValidateArguments arguments = {.device = {.name = "cpu"}, .tokens = {.can_cut = true}};
    Validation validation = {.arguments = &arguments};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = validate(&validation);
    if (arguments.plans.count <= 1)
        status =
            plan_input_blame(status, arguments.plans.count > 0 ? arguments.plans.items[0] : NULL);
    if (status == OK)
        status = validation_print(&validation);
    if (status == OK)
        status = validation_status(&validation);
    free_validation(&validation);
    option_list_free(&arguments.plans);
    option_list_free(&arguments.sets);
    return status;
}
