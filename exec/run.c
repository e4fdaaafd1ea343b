/* Running requests: prefill, then greedy generation, group by group. */
#include "exec/run.h"

#include "exec/best_token.h"
#include "base/layout.h"
#include "exec/run_parts.h"

const uint32_t *run_prompt(const ModelConfig *config, const TokenSet *set,
                           const RunOptions *options, uint32_t i, uint32_t *n)
{
    if (model_is_encoder_decoder(config) && options->targets == NULL) {
        *n = 1;
        return &config->decoder_start;
    }
    const TokenSet *prompts = model_is_encoder_decoder(config) ? options->targets : set;
    *n = prompts->requests[i].n_tokens;
    return prompts->requests[i].tokens;
}

/* A source goes through the encoder in one step. */
static Status check_source(const Run *run, uint32_t number)
{
    uint32_t room = executor_options(run->context.executor)->max_length;
    uint32_t n = run->set->requests[number].n_tokens;
    if (n > room || n > run->options->max_tokens)
        return fail(ERR_INPUT, "request %u: a source of %u tokens, there is room for %u", number, n,
                    room < run->options->max_tokens ? room : run->options->max_tokens);
    return OK;
}

static Status check_request(const Run *run, uint32_t number)
{
    uint32_t room = executor_options(run->context.executor)->max_length;
    uint32_t generate = run->options->generate;
    uint32_t n;
    run_prompt(run->config, run->set, run->options, number, &n);
    if (n == 0 || run->set->requests[number].n_tokens == 0)
        return fail(ERR_INPUT, "request %u: it has no tokens", number);
    if (n > room || generate > room - n)
        return fail(ERR_INPUT,
                    "request %u: %u tokens and %u to generate, a request has room for "
                    "%u",
                    number, n, generate, room);
    return model_is_encoder_decoder(run->config) ? check_source(run, number) : OK;
}

static Status check_seq2seq(const Run *run)
{
    const TokenSet *targets = run->options->targets;
    if (!model_is_encoder_decoder(run->config))
        return targets == NULL ? OK
                               : fail(ERR_INPUT, "run: the model has no encoder, so tokens "
                                                 "for its decoder alone have no place");
    if (targets == NULL && run->config->decoder_start == TOKEN_UNKNOWN)
        return fail(ERR_INPUT, "run: config.json has no decoder_start_token_id, so the decoder's "
                               "first tokens must be given");
    if (targets != NULL && targets->n_requests != run->set->n_requests)
        return fail(ERR_INPUT, "run: %u sources, but tokens for the decoder of %u",
                    run->set->n_requests, targets->n_requests);
    return OK;
}

static Status check_beams(const Run *run)
{
    if (run->beams == 1)
        return OK;
    if (run->options->generate == 0)
        return fail(ERR_INPUT, "run: beams need tokens to generate");
    if (run->options->max_tokens < run->beams)
        return fail(ERR_INPUT, "run: steps of %u tokens have no room for %u beams",
                    run->options->max_tokens, run->beams);
    if (run->set->n_requests > UINT32_MAX / run->beams)
        return fail(ERR_INPUT, "run: %u requests of %u beams are too many", run->set->n_requests,
                    run->beams);
    return OK;
}

static Status check_run(const Run *run)
{
    const ExecutorOptions *executor = executor_options(run->context.executor);
    const RunOptions *options = run->options;
    if (options->batch == 0 || options->max_tokens == 0)
        return fail(ERR_INPUT, "run: the batch and the tokens of a step must be at least 1");
    if (options->max_tokens > executor->max_tokens)
        return fail(ERR_INPUT, "run: steps of %u tokens, the executor was opened for %u",
                    options->max_tokens, executor->max_tokens);
    uint64_t together =
        options->batch < run->set->n_requests ? options->batch : run->set->n_requests;
    if (together * run->beams > executor->max_requests)
        return fail(ERR_INPUT, "run: batches of %u requests, the executor was opened for %u",
                    options->batch, executor->max_requests / run->beams);
    TRY(check_seq2seq(run));
    TRY(check_beams(run));
    TRY(executor_check_future(run->context.executor, NULL));
    for (uint32_t i = 0; i < run->set->n_requests; i++)
        TRY(check_request(run, i));
    return OK;
}

uint32_t run_group_requests(const Run *run)
{
    uint32_t requests = run->set->n_requests;
    return run->options->batch < requests ? run->options->batch : requests;
}

static void lay_out_searches(Run *run)
{
    uint32_t requests = run_group_requests(run);
    run->searches = lay_out(&run->arena, requests, sizeof *run->searches);
    run->slots = lay_out(&run->arena, run->beams, sizeof *run->slots);
    BeamSearch counted = {0};
    for (uint32_t i = 0; i < requests; i++) {
        BeamSearch *search = run->searches != NULL ? &run->searches[i] : &counted;
        search->options =
            (BeamOptions){.beams = run->beams,
                          .vocabulary = run->config->vocabulary,
                          .max_tokens = run->options->generate,
                          .length_penalty = run->options->length_penalty,
                          .ends = run->config->eos,
                          .n_ends = run->options->ignore_eos ? 0 : run->config->n_eos};
        beam_lay_out(search, &run->arena);
    }
}

static void lay_out_run(Run *run)
{
    size_t tokens = run->options->max_tokens;
    run->group =
        lay_out(&run->arena, times(run_group_requests(run), run->beams), sizeof *run->group);
    run->request = lay_out(&run->arena, tokens, sizeof *run->request);
    run->position = lay_out(&run->arena, tokens, sizeof *run->position);
    run->token = lay_out(&run->arena, tokens, sizeof *run->token);
    run->kv_slot = lay_out(&run->arena, tokens, sizeof *run->kv_slot);
    run->source_slot = lay_out(&run->arena, tokens, sizeof *run->source_slot);
    score_rows_lay_out(&run->context.scores, run->options->max_tokens, &run->arena);
    if (run->options->routing != NULL)
        run->forced =
            lay_out(&run->arena, times(tokens, model_routed(run->config)), sizeof *run->forced);
    if (run->beams > 1)
        lay_out_searches(run);
}

uint32_t run_request_number(const Run *run, const Running *line)
{
    return line->number * run->beams + (uint32_t)((line - run->group) % run->beams);
}

/* True when all of the line's prompt is in the cache. */
static bool is_past_prompt(const Running *line)
{
    return line->fed >= line->n_prompt;
}

void run_add_tokens(Run *run, uint32_t place, uint32_t end)
{
    Running *line = &run->group[place];
    uint32_t before = run->n_tokens;
    while (line->fed < end && run->n_tokens < run->options->max_tokens) {
        uint32_t at = run->n_tokens++;
        run->request[at] = run_request_number(run, line);
        run->kv_slot[at] = line->kv_slot;
        run->source_slot[at] = place - place % run->beams;
        run->position[at] = line->fed;
        run->token[at] = line->fed < line->n_prompt ? line->prompt[line->fed] : line->pending;
        line->fed++;
    }
    if (run->n_tokens == before)
        return;
    line->logit_row = run->n_spans++;
    if (run->options->logits == LOGITS_ALL)
        line->logit_row = run->n_tokens - 1;
}

static bool is_end(const ModelConfig *config, uint32_t token)
{
    for (uint32_t i = 0; i < config->n_eos; i++)
        if (config->eos[i] == token)
            return true;
    return false;
}

uint32_t run_generate(const Run *run, uint32_t number)
{
    const uint32_t *each = run->options->generate_each;
    return each != NULL ? each[number] : run->options->generate;
}

void run_accept_token(Run *run, Running *line, const StepOutput *output)
{
    size_t vocabulary = run->config->vocabulary;
    line->pending = output->best != NULL ? output->best[line->logit_row]
                                         : best_token(output->logits + line->logit_row * vocabulary,
                                                      (uint32_t)vocabulary);
    if (run->output != NULL)
        run->output[line->number][line->n_output] = line->pending;
    line->n_output++;
    run->context.totals->generated++;
    if (line->n_output == run_generate(run, line->number) ||
        (!run->options->ignore_eos && is_end(run->config, line->pending)))
        line->done = true;
}

const uint16_t *run_forced(Run *run, Stack stack)
{
    if (run->options->routing == NULL)
        return NULL;
    routing_source_fill(run->options->routing, stack, run->n_tokens, run->request, run->position,
                        run->forced);
    return run->forced;
}

Status run_composed(Run *run, Phase phase, LogitsWanted needed, StepOutput *output)
{
    TraceStep step = {.step = (uint32_t)run->context.totals->steps,
                      .phase = phase,
                      .tokens = run->n_tokens,
                      .request = run->request,
                      .position = run->position,
                      .token = run->token};
    LogitsWanted wanted = run->options->logits;
    const StepInput input = {.tokens = run->n_tokens,
                             .token = run->token,
                             .kv_slot = run->kv_slot,
                             .position = run->position,
                             .source_slot = run->source_slot,
                             .forced_experts = run_forced(run, STACK_DECODER),
                             .forced_known = true,
                             .timing = run->options->timing,
                             .scores = run->options->scores != SCORES_NONE,
                             .logits = wanted > needed ? wanted : needed,
                             .greedy =
                                 needed != LOGITS_NONE && wanted == LOGITS_NONE && run->beams == 1};
    run->n_tokens = 0;
    run->n_spans = 0;
    return run_step(&run->context, &step, &input, output);
}

/* Runs the composed step. Lines [first, end) of the group took part; those that have no unfed
 * prompt left get a token. */
static Status run_greedy(Run *run, Phase phase, uint32_t first, uint32_t end)
{
    bool generates = false;
    StepOutput output;
    for (uint32_t i = first; i < end; i++)
        generates |=
            run->options->generate > 0 && !run->group[i].done && is_past_prompt(&run->group[i]);
    TRY(run_composed(run, phase, generates ? LOGITS_LAST : LOGITS_NONE, &output));
    for (uint32_t i = first; generates && i < end; i++)
        if (!run->group[i].done && is_past_prompt(&run->group[i]))
            run_accept_token(run, &run->group[i], &output);
    return OK;
}

/* Runs the prompts of the group: each step takes what fits, in order. */
static Status prefill(Run *run)
{
    uint32_t first = 0;
    while (first < run->n_group && !run_must_stop(&run->context)) {
        uint32_t place = first;
        while (place < run->n_group && run->n_tokens < run->options->max_tokens) {
            uint32_t end = run->group[place].n_prompt;
            run_add_tokens(run, place, end);
            if (run->group[place].fed < end)
                break;
            place++;
        }
        /* A prompt that was cut takes part, but is not done. */
        TRY(run_greedy(run, PHASE_PREFILL, first, place));
        first = place;
    }
    return OK;
}

/* One output token for each request that is not done. */
static Status decode_round(Run *run, bool *any)
{
    *any = false;
    for (uint32_t first = 0; first < run->n_group && !run_must_stop(&run->context);) {
        uint32_t place = first;
        for (; place < run->n_group && run->n_tokens < run->options->max_tokens; place++)
            if (!run->group[place].done)
                run_add_tokens(run, place, run->group[place].fed + 1);
        if (run->n_tokens > 0) {
            TRY(run_greedy(run, PHASE_DECODE, first, place));
            *any = true;
        }
        first = place;
    }
    return OK;
}

Status run_record_request(const Run *run, const Running *line)
{
    const char *label = line->source->label;
    TraceRequest request = {.request = run_request_number(run, line),
                            .label = label != NULL && label[0] != 0 ? label : NULL,
                            .arrival_ns = line->arrival_ns,
                            .prompt_tokens = line->n_prompt,
                            .output_tokens = line->n_output};
    if (run->context.recorder == NULL)
        return OK;
    return recorder_request(run->context.recorder, &request);
}

static Status start_group(Run *run, uint32_t first)
{
    uint32_t left = run->set->n_requests - first;
    run->n_group = (run->options->batch < left ? run->options->batch : left) * run->beams;
    for (uint32_t i = 0; i < run->n_group; i++) {
        Running *line = &run->group[i];
        uint32_t number = first + i / run->beams;
        *line = (Running){.source = &run->set->requests[number], .number = number, .kv_slot = i};
        line->prompt = run_prompt(run->config, run->set, run->options, number, &line->n_prompt);
        TRY(run_record_request(run, line));
    }
    return OK;
}

static Status end_group(Run *run)
{
    for (uint32_t i = 0; i < run->n_group; i++) {
        executor_release(run->context.executor, i);
        if (run->n_output != NULL)
            run->n_output[run->group[i].number] = run->group[i].n_output;
        TRY(run_record_request(run, &run->group[i]));
    }
    return OK;
}

static Status run_group(Run *run, uint32_t first)
{
    TRY(start_group(run, first));
    if (model_is_encoder_decoder(run->config))
        TRY(run_encode(run));
    if (run->beams > 1) {
        TRY(run_beams(run));
    } else {
        TRY(prefill(run));
        for (bool more = run->options->generate > 0; more && !run->context.totals->stopped;)
            TRY(decode_round(run, &more));
    }
    return end_group(run);
}

static Status run_groups(Run *run)
{
    TRY(check_run(run));
    lay_out_run(run);
    TRY(arena_commit(&run->arena, "run: arrays of a step"));
    lay_out_run(run);
    if (run->options->arrivals != NULL)
        return run_continuous(run);
    for (uint32_t first = 0; first < run->set->n_requests; first += run->n_group / run->beams) {
        if (run_must_stop(&run->context))
            break;
        TRY(run_group(run, first));
    }
    return OK;
}

Status run_requests(Executor *executor, const ModelConfig *config, const TokenSet *set,
                    const RunOptions *options, Recorder *recorder, RunObserver observer,
                    void *argument, uint32_t **output, uint32_t *n_output, RunTotals *totals)
{
    *totals = (RunTotals){0};
    Run run = {.context = {.executor = executor,
                           .recorder = recorder,
                           .observer = observer,
                           .argument = argument,
                           .residency = options->residency,
                           .stop = options->stop,
                           .totals = totals},
               .config = config,
               .set = set,
               .options = options,
               .beams = options->beams > 1 ? options->beams : 1,
               .output = output,
               .n_output = n_output};
    run.context.scores.keep = options->scores;
    run.context.scores.layers = executor_layers(executor, &run.context.scores.n_layers);
    Status status = run_groups(&run);
    run_settle(&run.context);
    arena_free(&run.arena);
    for (uint32_t i = 0; status != OK && i < executor_options(executor)->max_requests; i++)
        executor_release(executor, i);
    return status;
}
