/* How fast the model runs: prefill, and decoding one request or many at a time. */
#include "cli/bench.h"

#include <stdio.h>

#include "cli/bench_model.h"
#include "cli/online.h"

enum { ROUNDS = 5 };

/* The best rate of ROUNDS runs: other work on the machine only ever slows one down. */
static Status measure(const BenchModel *model, bool decode, double *tokens_per_s)
{
    *tokens_per_s = 0;
    for (int i = 0; i < ROUNDS; i++) {
        RunTotals totals;
        TRY(bench_model_run(model, NULL, &totals));
        double rate = decode ? per_second(totals.decode_tokens, totals.decode_ns)
                             : per_second(totals.prefill_tokens, totals.prefill_ns);
        *tokens_per_s = rate > *tokens_per_s ? rate : *tokens_per_s;
    }
    return OK;
}

static Status bench_load(const BenchOptions *options, const BenchLoad *load, BenchFigure *figure,
                         BenchReport *report)
{
    BenchModel model;
    TRY(bench_model_open(options, load, &model));
    Status status = measure(&model, load->generate > 0, &figure->value);
    bench_model_close(&model);
    return status == OK ? bench_report_add(report, figure) : status;
}

static Status bench_prefill(const BenchOptions *options, BenchReport *report)
{
    const BenchLoad load = {.requests = 8, .length = 256, .batch = 8};
    BenchFigure figure = {.bench = "forward", .unit = "tokens/s", .wanted = 2000};
    snprintf(figure.name, sizeof figure.name, "prefill, %u prompts of %u", load.requests,
             load.length);
    return bench_load(options, &load, &figure, report);
}

static Status bench_decode(const BenchOptions *options, uint32_t batch, BenchReport *report)
{
    const BenchLoad load = {.requests = batch, .length = 32, .batch = batch, .generate = 64};
    BenchFigure figure = {.bench = "forward", .unit = "tokens/s"};
    snprintf(figure.name, sizeof figure.name, "decode, batch %u", batch);
    return bench_load(options, &load, &figure, report);
}

Status bench_forward(const BenchOptions *options, BenchReport *report)
{
    TRY(bench_prefill(options, report));
    TRY(bench_decode(options, 1, report));
    return bench_decode(options, 16, report);
}
