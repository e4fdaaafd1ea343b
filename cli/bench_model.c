#include "cli/bench_model.h"

#include "cli/online.h"

static Status open_all(const BenchOptions *options, const BenchLoad *load, BenchModel *model)
{
    ExecutorOptions executor = {.plan = &model->plan,
                                .device = options->device,
                                .threads = options->threads,
                                .predictions = load->predictions,
                                .logits = load->generate > 0 ? LOGITS_LAST : LOGITS_NONE};
    TRY(checkpoint_open_model(options->model, &model->checkpoint));
    const ModelConfig *config = checkpoint_config(model->checkpoint);
    if ((uint64_t)load->length + load->generate > config->max_positions)
        return fail(ERR_UNSUPPORTED, "%s: the benchmark wants %u positions, the model allows %u",
                    options->model, load->length + load->generate, config->max_positions);
    TRY(tokens_random(load->requests, load->length, config->vocabulary, 1, &model->set));
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
