/* Runs of encoder-decoder models: what is generated and recorded, against generation without a
 * cache, where every continuation is scored from the start. */
#include "tests/plain_model.h"
#include "tests/random_checkpoint.h"

#include "base/memory.h"
#include "exec/run.h"
#include "traces/reader.h"

static const char CONFIG[] =
    "{\"model_type\": \"nllb-moe\", \"vocab_size\": 23, \"d_model\": 24, "
    "\"max_position_embeddings\": 64, \"num_experts\": 4, \"activation_function\": \"relu\", "
    "\"encoder_attention_heads\": 4, \"decoder_attention_heads\": 4, \"encoder_ffn_dim\": 14, "
    "\"decoder_ffn_dim\": 14, \"eos_token_id\": 2, \"pad_token_id\": 1, "
    "\"decoder_start_token_id\": 2, \"encoder_layers\": 2, \"decoder_layers\": 2, "
    "\"encoder_sparse_step\": 2, \"decoder_sparse_step\": 2}";

enum { REQUESTS = 5, GENERATE = 7, BEAMS = 3 };

static Checkpoint *checkpoint;
static TokenSet sources;
static TokenSet targets;

static void add_request(TokenSet *set, const uint32_t *tokens, uint32_t n)
{
    TokenRequest *request = &set->requests[set->n_requests++];
    assert_ok(mem_new(&request->label, 1, 1, "label"));
    assert_ok(mem_new(&request->tokens, n, sizeof *tokens, "tokens"));
    memcpy(request->tokens, tokens, n * sizeof *tokens);
    request->n_tokens = n;
}

static int set_up(void **state)
{
    (void)state;
    uint64_t random = 17;
    assert_ok(checkpoint_open(random_checkpoint("seq2seq", CONFIG, 11, NULL), &checkpoint));
    assert_ok(mem_new(&sources.requests, REQUESTS, sizeof *sources.requests, "requests"));
    assert_ok(mem_new(&targets.requests, REQUESTS, sizeof *targets.requests, "requests"));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint32_t tokens[16];
        uint32_t n = 3 + random_below(&random, 9);
        for (uint32_t t = 0; t < n; t++)
            tokens[t] = 3 + random_below(&random, 20);
        add_request(&sources, tokens, n);
        add_request(&targets, (uint32_t[]){2, 3 + i}, 2);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    checkpoint_close(checkpoint);
    tokens_free(&sources);
    tokens_free(&targets);
    return 0;
}

/* Log probabilities of what follows TOKENS [n] for request R. */
static void log_probabilities(uint32_t r, const uint32_t *tokens, uint32_t n, double *out)
{
    const TokenRequest *source = &sources.requests[r];
    size_t vocabulary = checkpoint_config(checkpoint)->vocabulary;
    PlainOutput encoded =
        plain_forward(checkpoint, STACK_ENCODER, source->tokens, source->n_tokens, NULL, 0);
    PlainOutput plain =
        plain_forward(checkpoint, STACK_DECODER, tokens, n, encoded.hidden, source->n_tokens);
    const double *logits = plain.logits + (n - 1) * vocabulary;
    double sum = 0;
    for (size_t i = 0; i < vocabulary; i++)
        sum += exp(logits[i]);
    for (size_t i = 0; i < vocabulary; i++)
        out[i] = logits[i] - log(sum);
    plain_free(&encoded);
    plain_free(&plain);
}

typedef struct {
    uint32_t tokens[GENERATE + 2]; /* prompt included */
    uint32_t n;
    double score;
} Line;

/* Beam search as it is described: all continuations of all lines, sorted. */
static Line plain_beams(uint32_t r, uint32_t beams)
{
    size_t vocabulary = checkpoint_config(checkpoint)->vocabulary;
    Line lines[BEAMS] = {{.n = 2}};
    Line finished[64];
    uint32_t n_lines = 1;
    uint32_t n_finished = 0;
    Line *all = calloc(beams * vocabulary, sizeof *all);
    double *next = plain_new(vocabulary);
    memcpy(lines[0].tokens, targets.requests[r].tokens, 2 * sizeof(uint32_t));
    for (uint32_t length = 1; length <= GENERATE; length++) {
        size_t n_all = 0;
        for (uint32_t l = 0; l < n_lines; l++) {
            log_probabilities(r, lines[l].tokens, lines[l].n, next);
            for (uint32_t v = 0; v < vocabulary; v++) {
                all[n_all] = lines[l];
                all[n_all].tokens[all[n_all].n++] = v;
                all[n_all++].score += next[v];
            }
        }
        uint32_t kept = 0;
        double best = -INFINITY;
        for (uint32_t rank = 0; kept < beams && rank < n_all; rank++) {
            size_t at = rank;
            for (size_t i = rank; i < n_all; i++)
                at = all[i].score > all[at].score ? i : at;
            Line taken = all[at];
            all[at] = all[rank];
            all[rank] = taken;
            best = rank == 0 ? taken.score : best;
            bool ends = taken.tokens[taken.n - 1] == 2;
            if ((ends || length == GENERATE) && rank < beams) {
                finished[n_finished] = taken;
                finished[n_finished++].score /= length;
            }
            if (!ends)
                lines[kept++] = taken;
        }
        n_lines = kept;
        /* The worst of the BEAMS best so far. */
        uint32_t better = 0;
        for (uint32_t i = 0; i < n_finished; i++)
            better += finished[i].score >= best / length;
        if (better >= beams)
            break;
    }
    Line *best = &finished[0];
    for (uint32_t i = 1; i < n_finished; i++)
        best = finished[i].score > best->score ? &finished[i] : best;
    Line result = *best;
    free(all);
    free(next);
    return result;
}

typedef struct {
    uint32_t tokens[REQUESTS][GENERATE];
    uint32_t n[REQUESTS];
} Generation;

static void generate(uint32_t batch, uint32_t beams, uint32_t max_tokens, const char *trace,
                     Generation *made)
{
    Plan plan = plan_default();
    const ModelConfig *config = checkpoint_config(checkpoint);
    ExecutorOptions options = {.plan = &plan,
                               .device = "cpu",
                               .threads = 1,
                               .max_requests = batch * beams,
                               .max_length = 2 + GENERATE + 8,
                               .max_tokens = max_tokens,
                               .logits = LOGITS_LAST};
    RunOptions run = {.batch = batch,
                      .generate = GENERATE,
                      .beams = beams,
                      .length_penalty = 1,
                      .targets = &targets,
                      .max_tokens = max_tokens};
    uint32_t *rows[REQUESTS];
    Executor *executor;
    Recorder *recorder = NULL;
    RunTotals totals;
    uint32_t n_layers;
    for (uint32_t i = 0; i < REQUESTS; i++)
        rows[i] = made->tokens[i];
    assert_ok(executor_open(checkpoint, &options, &executor));
    const TraceLayer *layers = executor_layers(executor, &n_layers);
    const TraceRun origin = {.notes = beams > 1 ? "{\"beams\":3}" : NULL};
    if (trace != NULL)
        assert_ok(recorder_open(trace, &origin, layers, n_layers, NULL, &recorder));
    assert_ok(run_requests(executor, config, &sources, &run, recorder, NULL, NULL, rows, made->n,
                           &totals));
    if (recorder != NULL)
        assert_ok(recorder_close(recorder));
    executor_close(executor);
}

static void assert_best(uint32_t r, uint32_t beams, const Generation *made)
{
    Line wanted = plain_beams(r, beams);
    assert_int_equal(made->n[r], wanted.n - 2);
    assert_memory_equal(made->tokens[r], wanted.tokens + 2, made->n[r] * sizeof(uint32_t));
}

static void greedy_takes_the_likeliest_token_each_time(void **state)
{
    (void)state;
    Generation made;
    generate(2, 1, 32, NULL, &made);
    for (uint32_t r = 0; r < REQUESTS; r++)
        assert_best(r, 1, &made);
}

static void beams_find_what_a_search_without_caches_finds(void **state)
{
    (void)state;
    Generation made;
    uint32_t differ = 0;
    Generation greedy;
    generate(2, BEAMS, 32, NULL, &made);
    generate(2, 1, 32, NULL, &greedy);
    for (uint32_t r = 0; r < REQUESTS; r++) {
        assert_best(r, BEAMS, &made);
        differ += made.n[r] != greedy.n[r] ||
                  memcmp(made.tokens[r], greedy.tokens[r], made.n[r] * sizeof(uint32_t)) != 0;
    }
    assert_true(differ > 0);
}

static void what_is_generated_does_not_depend_on_batch_or_step_size(void **state)
{
    (void)state;
    for (uint32_t beams = 1; beams <= BEAMS; beams += BEAMS - 1) {
        Generation first;
        generate(1, beams, 64, NULL, &first);
        for (uint32_t batch = 2; batch <= REQUESTS; batch++)
            for (uint32_t max_tokens = 12; max_tokens < 40; max_tokens += 9) {
                Generation made;
                generate(batch, beams, max_tokens, NULL, &made);
                assert_memory_equal(made.n, first.n, sizeof made.n);
                for (uint32_t r = 0; r < REQUESTS; r++)
                    assert_memory_equal(made.tokens[r], first.tokens[r],
                                        made.n[r] * sizeof(uint32_t));
            }
    }
}

/* Every source token is recorded once, in an encode step; the trace can be run again with its own
 * routing, which comes out as it went in. */
static void a_recording_of_both_stacks_runs_again(void **state)
{
    (void)state;
    for (uint32_t beams = 1; beams <= BEAMS; beams += BEAMS - 1) {
        char first[600];
        char again[600];
        Generation made;
        snprintf(first, sizeof first, "%s", scratch_path(beams > 1 ? "b1.db" : "g1.db"));
        snprintf(again, sizeof again, "%s", scratch_path(beams > 1 ? "b2.db" : "g2.db"));
        generate(2, beams, 32, first, &made);
        Plan plan = plan_default();
        RunTraceOptions run = {.trace = first, .forced = true};
        RunTraceShape shape;
        const ModelConfig *config = checkpoint_config(checkpoint);
        assert_ok(run_trace_shape(&run, config, &shape));
        ExecutorOptions options = {.plan = &plan,
                                   .device = "cpu",
                                   .threads = 1,
                                   .max_requests = shape.max_requests,
                                   .max_length = shape.max_length,
                                   .max_tokens = shape.max_tokens};
        Executor *executor;
        Recorder *recorder;
        RunTotals totals;
        uint32_t n_layers;
        assert_ok(executor_open(checkpoint, &options, &executor));
        const TraceLayer *layers = executor_layers(executor, &n_layers);
        assert_ok(recorder_open(again, &(TraceRun){0}, layers, n_layers, NULL, &recorder));
        assert_ok(run_trace(executor, config, &run, recorder, NULL, NULL, &totals));
        assert_ok(recorder_close(recorder));
        run.forced = false;
        Status status = run_trace(executor, config, &run, NULL, NULL, NULL, &totals);
        assert_int_equal(status, beams > 1 ? ERR_UNSUPPORTED : OK);
        executor_close(executor);

        TraceReader *a;
        TraceReader *b;
        TraceStep x;
        TraceStep y;
        uint64_t encoded = 0;
        uint64_t wanted = 0;
        assert_ok(trace_reader_open(first, &a));
        assert_ok(trace_reader_open(again, &b));
        while (trace_reader_next_step(a, &x) == OK) {
            assert_ok(trace_reader_next_step(b, &y));
            assert_int_equal(x.phase, y.phase);
            assert_int_equal(x.stack, x.phase == PHASE_ENCODE ? STACK_ENCODER : STACK_DECODER);
            assert_int_equal(x.tokens, y.tokens);
            assert_memory_equal(x.experts, y.experts, x.tokens * 2 * sizeof *x.experts);
            encoded += x.phase == PHASE_ENCODE ? x.tokens : 0;
        }
        for (uint32_t r = 0; r < REQUESTS; r++)
            wanted += sources.requests[r].n_tokens;
        assert_int_equal(encoded, wanted);
        trace_reader_close(a);
        trace_reader_close(b);
    }
}

static void sources_and_targets_must_go_together(void **state)
{
    (void)state;
    Plan plan = plan_default();
    ExecutorOptions options = {.plan = &plan,
                               .device = "cpu",
                               .threads = 1,
                               .max_requests = 4,
                               .max_length = 20,
                               .max_tokens = 20,
                               .logits = LOGITS_LAST};
    TokenSet fewer = targets;
    fewer.n_requests--;
    RunOptions run = {.batch = 2, .generate = 3, .max_tokens = 20, .targets = &fewer};
    Executor *executor;
    RunTotals totals;
    assert_ok(executor_open(checkpoint, &options, &executor));
    assert_int_equal(run_requests(executor, checkpoint_config(checkpoint), &sources, &run, NULL,
                                  NULL, NULL, NULL, NULL, &totals),
                     ERR_INPUT);
    assert_non_null(strstr(error_message(), "5 sources, but tokens for the decoder of 4"));
    run = (RunOptions){.batch = 2, .generate = 3, .beams = 9, .max_tokens = 20};
    assert_int_equal(run_requests(executor, checkpoint_config(checkpoint), &sources, &run, NULL,
                                  NULL, NULL, NULL, NULL, &totals),
                     ERR_INPUT);
    const StepInput unencoded = {.tokens = 1,
                                 .token = (uint32_t[]){2},
                                 .kv_slot = (uint32_t[]){1},
                                 .position = (uint32_t[]){0}};
    StepOutput output;
    assert_int_equal(executor_step(executor, &unencoded, &output), ERR_INPUT);
    assert_non_null(strstr(error_message(), "slot 1 holds no encoded source"));
    executor_close(executor);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_likeliest_token_each_time),
        cmocka_unit_test(beams_find_what_a_search_without_caches_finds),
        cmocka_unit_test(what_is_generated_does_not_depend_on_batch_or_step_size),
        cmocka_unit_test(a_recording_of_both_stacks_runs_again),
        cmocka_unit_test(sources_and_targets_must_go_together),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
