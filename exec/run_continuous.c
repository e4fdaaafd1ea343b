/* Continuous batching in real time: requests arrive by the wall clock, and policies/scheduler.h
 * composes each step from those that have. */
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "exec/run_parts.h"

typedef struct {
    Run *run;
    ScheduledRequest *requests; /* [n_requests] */
    uint32_t n_requests;
    Scheduler *scheduler;
    Latency *latency;
    uint64_t start_ns; /* clock_ns() at 0 of the arrivals */
    uint64_t wall_ns;  /* clock_wall_ns() then */
} Serving;

static Status check_continuous(const Run *run)
{
    if (model_is_encoder_decoder(run->config))
        return fail(ERR_PLAN, "batching.mode: \"continuous\" runs models without an encoder, "
                              "this one has one");
    if (run->beams > 1)
        return fail(ERR_PLAN, "batching.mode: \"continuous\" does not go with beams");
    if (run->options->generate == 0)
        return fail(ERR_PLAN, "batching.mode: \"continuous\" needs tokens to generate");
    if (run->options->arrivals->kind == ARRIVALS_TRACE && run->options->arrival_ns == NULL)
        return fail(ERR_PLAN,
                    "batching.arrivals: \"trace\": the requests of the token file have no "
                    "arrivals (arrival_ms of each line of a .jsonl)");
    return OK;
}

static Status fill_requests(Serving *serving)
{
    const Run *run = serving->run;
    uint64_t *arrival_ns;
    TRY(mem_new(&arrival_ns, serving->n_requests, sizeof *arrival_ns, "arrivals"));
    if (run->options->arrival_ns != NULL)
        memcpy(arrival_ns, run->options->arrival_ns, serving->n_requests * sizeof *arrival_ns);
    Status status = arrivals_fill(run->options->arrivals, serving->n_requests, arrival_ns);
    for (uint32_t i = 0; i < serving->n_requests && status == OK; i++) {
        ScheduledRequest *request = &serving->requests[i];
        request->arrival_ns = arrival_ns[i];
        run_prompt(run->config, run->set, run->options, i, &request->work[WORK_PROMPT]);
        request->work[WORK_OUTPUT] = run_generate(run, i) - 1;
    }
    mem_free(arrival_ns);
    return status;
}

/* What takes the place of a router's choices is drawn before it is needed, as a router's would cost
 * nothing between two steps. */
static Status draw_routing_ahead(const Serving *serving)
{
    uint32_t *length;
    if (serving->run->options->routing == NULL)
        return OK;
    TRY(mem_new(&length, serving->n_requests, sizeof *length, "routing"));
    for (uint32_t i = 0; i < serving->n_requests; i++)
        length[i] = serving->requests[i].work[WORK_PROMPT] + serving->requests[i].work[WORK_OUTPUT];
    Status status =
        routing_source_draw_ahead(serving->run->options->routing, length, serving->n_requests);
    mem_free(length);
    return status;
}

/* What is recorded of a step is copied, between two of them, where it is not lent. */
static Status reserve_copies(const Run *run)
{
    if (run->context.recorder == NULL)
        return OK;
    return recorder_reserve(run->context.recorder, executor_copied_tokens(run->context.executor));
}

static Status open_serving(Serving *serving)
{
    const Run *run = serving->run;
    const Batching batching = {.mode = BATCHING_CONTINUOUS,
                               .sequences = run_group_requests(run),
                               .max_tokens = run->options->max_tokens};
    TRY(check_continuous(run));
    TRY(mem_new(&serving->requests, serving->n_requests, sizeof *serving->requests, "requests"));
    TRY(fill_requests(serving));
    TRY(draw_routing_ahead(serving));
    TRY(reserve_copies(run));
    TRY(scheduler_new(&batching, serving->requests, serving->n_requests, &serving->scheduler));
    return latency_new(serving->requests, serving->n_requests, &serving->latency);
}

static void close_serving(Serving *serving)
{
    latency_free(serving->latency);
    scheduler_free(serving->scheduler);
    mem_free(serving->requests);
}

static uint64_t now_ns(const Serving *serving)
{
    return clock_ns() - serving->start_ns;
}

/* Sleeps until shortly before UNTIL_NS, as who sleeps is woken late, or for so long that a stop is
 * not noticed late. */
static void wait_until(const Serving *serving, uint64_t until_ns)
{
    const uint64_t most_ns = 20000000;
    const uint64_t late_ns = 150000;
    uint64_t now = now_ns(serving);
    uint64_t left_ns = until_ns > now + late_ns ? until_ns - now - late_ns : 0;
    const struct timespec pause = {.tv_nsec = (long)(left_ns < most_ns ? left_ns : most_ns)};
    if (left_ns > 0)
        nanosleep(&pause, NULL);
}

/* Puts the part's tokens into the step; with its first the request takes its slot. */
static Status add_part(Serving *serving, const SchedulePart *part)
{
    Run *run = serving->run;
    Running *line = &run->group[part->slot];
    if (part->kind == WORK_PROMPT && part->first == 0) {
        *line =
            (Running){.source = &run->set->requests[part->request],
                      .number = part->request,
                      .kv_slot = part->slot,
                      .arrival_ns = serving->wall_ns + serving->requests[part->request].arrival_ns};
        line->prompt =
            run_prompt(run->config, run->set, run->options, part->request, &line->n_prompt);
        TRY(run_record_request(run, line));
    }
    run_add_tokens(run, part->slot, line->fed + part->count);
    return OK;
}

static Status end_request(Serving *serving, const SchedulePart *part)
{
    Run *run = serving->run;
    const Running *line = &run->group[part->slot];
    scheduler_end(serving->scheduler, part->request);
    latency_end(serving->latency, part->request);
    executor_release(run->context.executor, part->slot);
    if (run->n_output != NULL)
        run->n_output[line->number] = line->n_output;
    return run_record_request(run, line);
}

static Status serve_step(Serving *serving, const ScheduledStep *step, uint64_t start_ns)
{
    Run *run = serving->run;
    StepOutput output;
    bool gives_tokens = false;
    for (uint32_t i = 0; i < step->n_parts; i++) {
        TRY(add_part(serving, &step->parts[i]));
        gives_tokens = gives_tokens || step->parts[i].gives_token;
    }
    TRY(run_composed(run, step->phase, gives_tokens ? LOGITS_LAST : LOGITS_NONE, &output));
    for (uint32_t i = 0; i < step->n_parts; i++)
        if (step->parts[i].gives_token)
            run_accept_token(run, &run->group[step->parts[i].slot], &output);
    latency_step(serving->latency, step, start_ns, now_ns(serving));
    for (uint32_t i = 0; i < step->n_parts; i++)
        if (run->group[step->parts[i].slot].done)
            TRY(end_request(serving, &step->parts[i]));
    return OK;
}

static Status serve(Serving *serving)
{
    ScheduledStep step;
    serving->start_ns = clock_ns();
    serving->wall_ns = clock_wall_ns();
    while (!run_must_stop(&serving->run->context)) {
        uint64_t start_ns = now_ns(serving);
        if (scheduler_next(serving->scheduler, start_ns, &step))
            TRY(serve_step(serving, &step, start_ns));
        else if (step.until_ns == SCHEDULE_OVER)
            return OK;
        else
            wait_until(serving, step.until_ns);
    }
    return OK;
}

/* A stopped run leaves requests half done: their lengths are recorded as they are. */
static Status end_stopped(Serving *serving)
{
    Run *run = serving->run;
    if (!run->context.totals->stopped)
        return OK;
    for (uint32_t i = 0; i < run_group_requests(run); i++) {
        Running *line = &run->group[i];
        if (line->source == NULL || line->done)
            continue;
        executor_release(run->context.executor, i);
        if (run->n_output != NULL)
            run->n_output[line->number] = line->n_output;
        TRY(run_record_request(run, line));
    }
    return OK;
}

Status run_continuous(Run *run)
{
    Serving serving = {.run = run, .n_requests = run->set->n_requests};
    Status status = open_serving(&serving);
    if (status == OK)
        status = serve(&serving);
    if (status == OK)
        status = end_stopped(&serving);
    if (status == OK)
        run->context.totals->serving = latency_report(serving.latency, run->options->goals);
    close_serving(&serving);
    return status;
}
