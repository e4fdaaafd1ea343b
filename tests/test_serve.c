/* Requests served in simulated time: queues that can be computed by hand come out exact, and the
 * executor's steps are those of the simulator where all requests are there from the start. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "exec/run.h"
#include "sim/serve.h"
#include "tests/checkpoint_maker.h"
#include "traces/reader.h"

enum { REQUESTS = 40, PROMPT = 5, OUTPUT = 3, STEP_NS = 1000, MAX_STEPS = 4096 };

/* A trace of requests that ran one after the other: PROMPT tokens at once, then OUTPUT one by one.
 */
static const char *record_line(const char *name)
{
    const char *path = scratch_path(name);
    const TraceLayer layer = {.layer = 0, .experts = 4, .top_k = 1, .expert_bytes = 10};
    const TraceRun run = {.tool = "test"};
    const RecorderOptions options = {.durability = DURABLE_NOT};
    Recorder *recorder;
    uint32_t number = 0;
    unlink(path);
    assert_ok(recorder_open(path, &run, &layer, 1, &options, &recorder));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint32_t request[PROMPT] = {i, i, i, i, i};
        uint32_t position[PROMPT] = {0, 1, 2, 3, 4};
        uint16_t experts[PROMPT] = {0, 1, 2, 3, 0};
        assert_ok(recorder_request(
            recorder,
            &(TraceRequest){.request = i, .arrival_ns = 5000 + 700 * i, .prompt_tokens = PROMPT}));
        TraceStep step = {.phase = PHASE_PREFILL,
                          .tokens = PROMPT,
                          .request = request,
                          .position = position,
                          .experts = experts};
        for (uint32_t j = 0; j <= OUTPUT; j++) {
            step.step = number++;
            assert_ok(recorder_step(recorder, &step, NULL, 0, NULL, 0));
            step.phase = PHASE_DECODE;
            step.tokens = 1;
            position[0] = PROMPT + j;
        }
    }
    assert_ok(recorder_close(recorder));
    return path;
}

static Status constant_cost(void *argument, const TraceStep *step, uint64_t start_ns,
                            uint64_t *duration_ns)
{
    const uint64_t *cost = argument;
    (void)step;
    (void)start_ns;
    *duration_ns = *cost;
    return OK;
}

static ServingReport serve_for(const Batching *batching, const Arrivals *arrivals,
                               const ServiceGoals *goals)
{
    const char *path = record_line("line.db");
    uint64_t cost = STEP_NS;
    TraceShards *shards;
    Rebatch *rebatch;
    ServingReport report;
    assert_ok(trace_shards_open(&path, 1, &shards));
    assert_ok(rebatch_open(shards, batching, arrivals, &rebatch));
    assert_ok(serve_run(rebatch, constant_cost, &cost, goals, &report));
    rebatch_close(rebatch);
    trace_shards_close(shards);
    return report;
}

static ServingReport serve_line(const Batching *batching, const Arrivals *arrivals)
{
    return serve_for(batching, arrivals, NULL);
}

/* One server, a request takes (1 + OUTPUT) steps. */
enum { SERVICE_NS = (1 + OUTPUT) * STEP_NS };
static const Batching ONE = {BATCHING_CONTINUOUS, 1, 64};

static void assert_all(const LatencySummary *summary, uint64_t n, uint64_t ns)
{
    assert_int_equal(summary->n, n);
    assert_int_equal(summary->median, ns);
    assert_int_equal(summary->p99, ns);
    assert_int_equal(summary->most, ns);
    assert_true(summary->mean == (double)ns);
}

static void a_slow_d_d_1_queue_never_waits(void **unused)
{
    (void)unused;
    const Arrivals slow = {.kind = ARRIVALS_FIXED, .requests_per_s = 1e9 / 5000};
    ServingReport report = serve_line(&ONE, &slow);
    assert_int_equal(report.requests, REQUESTS);
    assert_int_equal(report.output_tokens, REQUESTS * (1 + OUTPUT));
    assert_int_equal(report.steps, REQUESTS * (1 + OUTPUT));
    assert_int_equal(report.duration_ns, (REQUESTS - 1) * 5000 + SERVICE_NS);
    assert_int_equal(report.busy_ns, REQUESTS * SERVICE_NS);
    assert_all(&report.ttft, REQUESTS, STEP_NS);
    assert_all(&report.tbt, REQUESTS * OUTPUT, STEP_NS);
    assert_all(&report.tpot, REQUESTS, STEP_NS);
    assert_all(&report.latency, REQUESTS, SERVICE_NS);
}

/* Request i waits i * (service - gap). */
static void a_fast_d_d_1_queue_grows_in_a_line(void **unused)
{
    (void)unused;
    const uint64_t gap = 2500;
    const uint64_t grows = SERVICE_NS - gap;
    const Arrivals fast = {.kind = ARRIVALS_FIXED, .requests_per_s = 1e9 / 2500};
    ServingReport report = serve_line(&ONE, &fast);
    assert_int_equal(report.duration_ns, REQUESTS * SERVICE_NS);
    assert_int_equal(report.busy_ns, report.duration_ns);
    assert_int_equal(report.ttft.most, (REQUESTS - 1) * grows + STEP_NS);
    assert_int_equal(report.ttft.median, (REQUESTS / 2 - 1) * grows + STEP_NS);
    assert_int_equal(report.ttft.p90, (REQUESTS * 9 / 10 - 1) * grows + STEP_NS);
    assert_int_equal(report.latency.p99, (REQUESTS - 1) * grows + SERVICE_NS);
    assert_true(serving_output_tokens_per_s(&report) == 1e9 / STEP_NS);
}

/* As above: the first token of request i comes after i * grows and a step, all after a service. */
static void goodput_counts_the_requests_that_keep_every_goal(void **unused)
{
    (void)unused;
    const double grows = SERVICE_NS - 2500;
    const Arrivals fast = {.kind = ARRIVALS_FIXED, .requests_per_s = 1e9 / 2500};
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const double within = (i * grows + 1) * 1e-6;
        const double step = STEP_NS * 1e-6;
        const double service = SERVICE_NS * 1e-6;
        const struct {
            ServiceGoals goals;
            uint64_t kept;
        } cases[] = {{{.ttft_ms = within + step}, i + 1},
                     {{.latency_ms = within + service}, i + 1},
                     {{.ttft_ms = within + step, .latency_ms = service * 1.001}, 1},
                     {{.ttft_ms = within + step, .tpot_ms = step * 1.001}, i + 1},
                     {{.ttft_ms = within + step, .tpot_ms = step * 0.999}, 0}};
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            ServingReport report = serve_for(&ONE, &fast, &cases[c].goals);
            assert_int_equal(report.kept, cases[c].kept);
            double per_s = (double)cases[c].kept * 1e9 / (double)report.duration_ns;
            assert_true(fabs(serving_goodput_per_s(&report) - per_s) <= 1e-9 * per_s);
        }
    }
}

static void all_at_once_with_room_for_all_share_every_step(void **unused)
{
    (void)unused;
    const Batching all = {BATCHING_CONTINUOUS, REQUESTS, REQUESTS * PROMPT};
    const Arrivals at_once = {.kind = ARRIVALS_AT_ONCE};
    ServingReport report = serve_line(&all, &at_once);
    assert_int_equal(report.steps, 1 + OUTPUT);
    assert_int_equal(report.duration_ns, SERVICE_NS);
    assert_all(&report.ttft, REQUESTS, STEP_NS);
    assert_all(&report.latency, REQUESTS, SERVICE_NS);
}

static void arrivals_of_the_trace_are_kept(void **unused)
{
    (void)unused;
    const Arrivals trace = {.kind = ARRIVALS_TRACE};
    ServingReport report = serve_line(&ONE, &trace);
    assert_int_equal(report.duration_ns, REQUESTS * SERVICE_NS);
    assert_int_equal(report.ttft.most, (REQUESTS - 1) * (SERVICE_NS - 700) + STEP_NS);
}

static void a_clock_that_runs_over_is_refused(void **unused)
{
    (void)unused;
    const char *path = record_line("over.db");
    const Arrivals at_once = {.kind = ARRIVALS_AT_ONCE};
    uint64_t cost = UINT64_MAX / 3;
    TraceShards *shards;
    Rebatch *rebatch;
    ServingReport report;
    assert_ok(trace_shards_open(&path, 1, &shards));
    assert_ok(rebatch_open(shards, &ONE, &at_once, &rebatch));
    assert_int_equal(serve_run(rebatch, constant_cost, &cost, NULL, &report), ERR_INPUT);
    assert_non_null(strstr(error_message(), "step 2: the simulated time is out of range"));
    rebatch_close(rebatch);
    trace_shards_close(shards);
}

/* The executor's side. */
enum { RUN_REQUESTS = 11, MAX_PROMPT = 23, GENERATE = 7, VOCABULARY = 96 };

typedef struct {
    char path[512];
    Batching batching;
    RunTotals totals;
} Recorded;

static void fill_set(TokenSet *set, TokenRequest *requests, uint32_t (*prompts)[MAX_PROMPT])
{
    static char none[] = "";
    uint64_t random = 5;
    for (uint32_t i = 0; i < RUN_REQUESTS; i++) {
        requests[i] = (TokenRequest){
            .label = none, .tokens = prompts[i], .n_tokens = 1 + random_below(&random, MAX_PROMPT)};
        for (uint32_t j = 0; j < requests[i].n_tokens; j++)
            prompts[i][j] = random_below(&random, VOCABULARY);
    }
    *set = (TokenSet){.requests = requests, .n_requests = RUN_REQUESTS};
}

/* Runs requests through a small model; OUTPUT[RUN_REQUESTS][GENERATE]. ARRIVALS NULL: in groups. */
static void run_set(const char *name, const Batching *batching, const Arrivals *arrivals,
                    uint32_t output[][GENERATE], Recorded *recorded)
{
    const CheckpointSpec spec = {.seed = 11, .eos = 7};
    static TokenRequest requests[RUN_REQUESTS];
    static uint32_t prompts[RUN_REQUESTS][MAX_PROMPT];
    uint32_t *outputs[RUN_REQUESTS];
    uint32_t n_output[RUN_REQUESTS];
    TokenSet set;
    Plan plan = plan_default();
    Checkpoint *checkpoint;
    Executor *executor;
    Recorder *recorder;
    uint32_t n_layers;
    fill_set(&set, requests, prompts);
    for (uint32_t i = 0; i < RUN_REQUESTS; i++)
        outputs[i] = output[i];
    memset(output, 0xFF, RUN_REQUESTS * sizeof *output);
    make_checkpoint(scratch_path("model"), &spec);
    assert_ok(checkpoint_open(scratch_path("model"), &checkpoint));
    const ExecutorOptions options = {.plan = &plan,
                                     .device = "cpu",
                                     .threads = 1,
                                     .max_requests = batching->sequences,
                                     .max_length = MAX_PROMPT + GENERATE,
                                     .max_tokens = batching->max_tokens,
                                     .logits = LOGITS_LAST};
    const RunOptions run = {.batch = batching->sequences,
                            .arrivals = arrivals,
                            .generate = GENERATE,
                            .max_tokens = batching->max_tokens};
    assert_ok(executor_open(checkpoint, &options, &executor));
    snprintf(recorded->path, sizeof recorded->path, "%s", scratch_path(name));
    recorded->batching = *batching;
    unlink(recorded->path);
    const TraceLayer *layers = executor_layers(executor, &n_layers);
    assert_ok(recorder_open(recorded->path, &(TraceRun){.tool = "test"}, layers, n_layers, NULL,
                            &recorder));
    assert_ok(run_requests(executor, checkpoint_config(checkpoint), &set, &run, recorder, NULL,
                           NULL, outputs, n_output, &recorded->totals));
    assert_ok(recorder_close(recorder));
    executor_close(executor);
    checkpoint_close(checkpoint);
}

static void assert_same_steps(const Recorded *recorded)
{
    const char *path = recorded->path;
    const Arrivals at_once = {.kind = ARRIVALS_AT_ONCE};
    TraceReader *reader;
    TraceShards *shards;
    Rebatch *rebatch;
    TraceStep ran;
    TraceStep simulated;
    uint32_t n = 0;
    assert_ok(trace_reader_open(path, &reader));
    assert_ok(trace_shards_open(&path, 1, &shards));
    assert_ok(rebatch_open(shards, &recorded->batching, &at_once, &rebatch));
    while (trace_reader_next_step(reader, &ran) == OK) {
        assert_ok(rebatch_next_step(rebatch, &simulated));
        assert_int_equal(ran.phase, simulated.phase);
        assert_int_equal(ran.tokens, simulated.tokens);
        assert_memory_equal(ran.request, simulated.request, 4 * ran.tokens);
        assert_memory_equal(ran.position, simulated.position, 4 * ran.tokens);
        n++;
    }
    assert_int_equal(rebatch_next_step(rebatch, &simulated), STATUS_END);
    assert_int_equal(n, recorded->totals.steps);
    rebatch_close(rebatch);
    trace_shards_close(shards);
    trace_reader_close(reader);
}

static void steps_of_executor_and_simulator_are_equal_where_all_are_there_at_once(void **unused)
{
    (void)unused;
    static const Batching CASES[] = {{BATCHING_CONTINUOUS, 1, 4},
                                     {BATCHING_CONTINUOUS, 3, 8},
                                     {BATCHING_CONTINUOUS, 5, 64},
                                     {BATCHING_CONTINUOUS, 11, 11}};
    const Arrivals at_once = {.kind = ARRIVALS_AT_ONCE};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Recorded recorded;
        uint32_t output[RUN_REQUESTS][GENERATE];
        run_set("served.db", &CASES[i], &at_once, output, &recorded);
        assert_int_equal(recorded.totals.serving.requests, RUN_REQUESTS);
        assert_int_equal(recorded.totals.serving.output_tokens, recorded.totals.generated);
        assert_int_equal(recorded.totals.serving.steps, recorded.totals.steps);
        assert_same_steps(&recorded);
    }
}

static void continuous_batching_changes_no_token(void **unused)
{
    (void)unused;
    static const Batching SHARED = {BATCHING_CONTINUOUS, 4, 10};
    const Arrivals poisson = {.kind = ARRIVALS_POISSON, .requests_per_s = 2000, .seed = 1};
    Recorded recorded;
    uint32_t alone[RUN_REQUESTS][GENERATE];
    uint32_t shared[RUN_REQUESTS][GENERATE];
    run_set("alone.db", &(Batching){BATCHING_CONTINUOUS, 1, 64}, NULL, alone, &recorded);
    run_set("shared.db", &SHARED, &poisson, shared, &recorded);
    assert_memory_equal(alone, shared, sizeof alone);
}

/* No step begins with a request that had not arrived. */
static void the_trace_tells_when_requests_arrived(void **unused)
{
    (void)unused;
    static const Batching SHARED = {BATCHING_CONTINUOUS, 4, 16};
    const Arrivals fixed = {.kind = ARRIVALS_FIXED, .requests_per_s = 500};
    uint32_t output[RUN_REQUESTS][GENERATE];
    uint64_t arrivals[RUN_REQUESTS];
    Recorded recorded;
    TraceReader *reader;
    TraceRequest request;
    TraceStep step;
    run_set("arrived.db", &SHARED, &fixed, output, &recorded);
    assert_true(recorded.totals.serving.duration_ns >= (RUN_REQUESTS - 1) * 2000000u);
    assert_ok(trace_reader_open(recorded.path, &reader));
    for (uint32_t i = 0; i < RUN_REQUESTS; i++) {
        assert_ok(trace_reader_next_request(reader, &request));
        arrivals[request.request] = request.arrival_ns;
        assert_true(request.output_tokens >= 1 && request.output_tokens <= GENERATE);
    }
    for (uint32_t i = 1; i < RUN_REQUESTS; i++)
        assert_int_equal(arrivals[i] - arrivals[i - 1], 2000000);
    while (trace_reader_next_step(reader, &step) == OK)
        for (uint32_t i = 0; i < step.tokens; i++)
            assert_true(step.start_ns + 1000000 >= arrivals[step.request[i]]);
    trace_reader_close(reader);
}

static void every_failed_allocation_is_reported_and_frees_all(void **unused)
{
    (void)unused;
    const char *path = record_line("memory.db");
    const Arrivals trace = {.kind = ARRIVALS_TRACE};
    uint64_t cost = STEP_NS;
    for (FailingAllocation failing = {.sparse = 20, .may_do_without = true};
         failing_next(&failing);) {
        TraceShards *shards = NULL;
        Rebatch *rebatch = NULL;
        ServingReport report;
        Status status = trace_shards_open(&path, 1, &shards);
        if (status == OK)
            status = rebatch_open(shards, &ONE, &trace, &rebatch);
        if (status == OK)
            status = serve_run(rebatch, constant_cost, &cost, NULL, &report);
        failing_end(&failing, status);
        rebatch_close(rebatch);
        trace_shards_close(shards);
    }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_d_d_1_queue_never_waits),
        cmocka_unit_test(a_fast_d_d_1_queue_grows_in_a_line),
        cmocka_unit_test(goodput_counts_the_requests_that_keep_every_goal),
        cmocka_unit_test(all_at_once_with_room_for_all_share_every_step),
        cmocka_unit_test(arrivals_of_the_trace_are_kept),
        cmocka_unit_test(a_clock_that_runs_over_is_refused),
        cmocka_unit_test(steps_of_executor_and_simulator_are_equal_where_all_are_there_at_once),
        cmocka_unit_test(continuous_batching_changes_no_token),
        cmocka_unit_test(the_trace_tells_when_requests_arrived),
        cmocka_unit_test(every_failed_allocation_is_reported_and_frees_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
