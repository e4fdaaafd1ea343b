#include "cli/bench_model.h"

#include "cli/online.h"

static Status make_request(uint32_t length, uint32_t vocabulary, uint64_t *state,
                           TokenRequest *request)
{
    TRY(mem_new(&request->label, 1, 1, "request label"));
    TRY(mem_new(&request->tokens, length, sizeof *request->tokens, "request tokens"));
    request->n_tokens = length;
    for (uint32_t i = 0; i < length; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        request->tokens[i] = (uint32_t)((*state >> 33) % vocabulary);
    }
    return OK;
}

static Status make_requests(const BenchLoad *load, uint32_t vocabulary, TokenSet *set)
{
    uint64_t state = 1;
    TRY(mem_new(&set->requests, load->requests, sizeof *set->requests, "requests"));
    for (uint32_t i = 0; i < load->requests; i++) {
        set->n_requests++;
        TRY(make_request(load->length, vocabulary, &state, &set->requests[i]));
    }
    return OK;
}

static Status open_all(const BenchOptions *options, const BenchLoad *load, BenchModel *model)
{
    ExecutorOptions executor = {.plan = &model->plan,
                                .device = options->device,
                                .threads = options->threads,
                                .logits = load->generate > 0 ? LOGITS_LAST : LOGITS_NONE};
    TRY(checkpoint_open(options->model, &model->checkpoint));
    const ModelConfig *config = checkpoint_config(model->checkpoint);
    if ((uint64_t)load->length + load->generate > config->max_positions)
        return fail(ERR_UNSUPPORTED, "%s: the benchmark wants %u positions, the model allows %u",
                    options->model, load->length + load->generate, config->max_positions);
    TRY(make_requests(load, config->vocabulary, &model->set));
    return executor_for_requests(model->checkpoint, &model->set, &model->run, &executor,
                                 &model->executor);
}

Status bench_model_open(const BenchOptions *options, const BenchLoad *load, BenchModel *model)
{
    *model =
        (BenchModel){.plan = plan_default(),
                     .run = {.batch = load->batch, .generate = load->generate, .ignore_eos = true}};
    model->run.max_tokens = model->plan.batching.max_tokens;
    Status status = open_all(options, load, model);
    if (status != OK)
        bench_model_close(model);
    return status;
}

void bench_model_close(BenchModel *model)
{
    executor_close(model->executor);
    tokens_free(&model->set);
    checkpoint_close(model->checkpoint);
    *model = (BenchModel){0};
}

Status bench_model_run(const BenchModel *model, Recorder *recorder, RunTotals *totals)
{
    return run_requests(model->executor, checkpoint_config(model->checkpoint), &model->set,
                        &model->run, recorder, NULL, NULL, NULL, NULL, totals);
}
