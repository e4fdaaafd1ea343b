/* What a device does only once, before the first step: kernels that were never launched are loaded
 * at their first call, and which of them a product takes depends on how many rows it has. Steps of
 * many sizes, of which nothing is kept, run when an executor is opened for steps that count, so
 * that none of them loads any. */
#include "exec/executor_state.h"
#include "base/layout.h"

enum {
    MOST_TOKENS = 4096,
    WARM_UP_LAYERS = 8, /* of which some have experts, in models that have any */
    /* Where a number of rows comes for the first time, cuBLAS looks for a kernel, a tenth of a
     * millisecond for each product: it meets every number up to here, and then some. */
    EVERY_ROWS = 768,
    SOME_ROWS = 255,
    ROW_LAYERS = 4,
    GRAPHS = 16 /* of each of two sizes */
};

typedef struct {
    uint32_t *token; /* [max_tokens], as are the next two */
    uint32_t *kv_slot;
    uint32_t *position;
    uint16_t *dropped; /* [max_tokens * routed entries]: forced routing to no expert */
    Arena arena;
} WarmUp;

static void lay_out_warm_up(WarmUp *warm_up, const Executor *executor)
{
    size_t tokens = executor->options.max_tokens;
    Arena *arena = &warm_up->arena;
    warm_up->token = lay_out(arena, tokens, sizeof *warm_up->token);
    warm_up->kv_slot = lay_out(arena, tokens, sizeof *warm_up->kv_slot);
    warm_up->position = lay_out(arena, tokens, sizeof *warm_up->position);
    warm_up->dropped =
        lay_out(arena, times(tokens, model_routed(executor->config)), sizeof *warm_up->dropped);
}

/* Requests of LENGTH tokens each, the last maybe of fewer, until there are TOKENS. */
static uint32_t make_spans(const Executor *executor, const WarmUp *warm_up, uint32_t tokens,
                           uint32_t length)
{
    const ForwardHost *host = &executor->forward.host;
    uint32_t n = 0;
    for (uint32_t first = 0; first < tokens; first += length, n++) {
        uint32_t count = tokens - first < length ? tokens - first : length;
        host->spans[n] = (Span){n, first, count, 0, count};
        host->source_spans[n] = (Span){n, first, count, 0, 1};
        for (uint32_t i = first; i < first + count; i++) {
            warm_up->kv_slot[i] = n;
            warm_up->position[i] = i - first;
            if (model_adds_positions(executor->config))
                host->places[i] = i - first + 1;
        }
    }
    return n;
}

static StepInput step_input(const Executor *executor, const WarmUp *warm_up, Stack stack,
                            uint32_t tokens, bool dropped)
{
    bool logits = stack == STACK_DECODER && executor->options.logits != LOGITS_NONE;
    return (StepInput){.stack = stack,
                       .tokens = tokens,
                       .token = warm_up->token,
                       .kv_slot = warm_up->kv_slot,
                       .position = warm_up->position,
                       .logits = logits ? LOGITS_LAST : LOGITS_NONE,
                       .greedy = logits,
                       .forced_experts = dropped ? warm_up->dropped : NULL};
}

/* A step of requests of LENGTH. With DROPPED no token has an expert, so that it does not matter
 * which experts are where. */
static Status run_step(Executor *executor, const WarmUp *warm_up, Stack stack, uint32_t tokens,
                       uint32_t length, bool dropped, uint32_t layers)
{
    uint32_t n_spans = make_spans(executor, warm_up, tokens, length);
    const StepInput input = step_input(executor, warm_up, stack, tokens, dropped);
    return forward_warm_up(&executor->forward, &input, n_spans, layers);
}

/* A token each of TOKENS requests, and TOKENS of as few as can be, as far as there is room. */
static Status run_both(Executor *executor, const WarmUp *warm_up, Stack stack, uint32_t tokens)
{
    const ExecutorOptions *options = &executor->options;
    bool buffered = executor->plan.buffer.on;
    uint64_t room = (uint64_t)options->max_requests * options->max_length;
    if (tokens <= options->max_requests)
        TRY(run_step(executor, warm_up, stack, tokens, 1, buffered, WARM_UP_LAYERS));
    if (tokens > room)
        return OK;
    TRY(run_step(executor, warm_up, stack, tokens, options->max_length, true, WARM_UP_LAYERS));
    return buffered ? OK
                    : run_step(executor, warm_up, stack, tokens, options->max_length, false,
                               WARM_UP_LAYERS);
}

static Status run_sizes(Executor *executor, const WarmUp *warm_up, Stack stack)
{
    const ExecutorOptions *options = &executor->options;
    uint64_t room = (uint64_t)options->max_requests * options->max_length;
    for (uint32_t n = 1; n <= options->max_tokens && n <= MOST_TOKENS; n *= 2)
        TRY(run_both(executor, warm_up, stack, n));
    for (uint32_t n = 1; n <= options->max_tokens && n <= room && n <= MOST_TOKENS;
         n += n < EVERY_ROWS ? 1 : SOME_ROWS)
        TRY(run_step(executor, warm_up, stack, n, options->max_length, true, ROW_LAYERS));
    return OK;
}

/* Some of the first graphs take the driver up to 15 ms, not 1 to 3, as it gets memory for them: so
 * many are made while nobody waits. */
static Status make_graphs(Executor *executor, const WarmUp *warm_up)
{
    const ExecutorOptions *options = &executor->options;
    uint64_t room = (uint64_t)options->max_requests * options->max_length;
    uint32_t most = 1;
    while (2 * most <= options->max_tokens && 2 * most <= room && 2 * most <= MOST_TOKENS)
        most *= 2;
    const uint32_t sizes[] = {most, 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        TRY(run_step(executor, warm_up, STACK_DECODER, sizes[i], options->max_length, true,
                     UINT32_MAX));
        const StepInput input = step_input(executor, warm_up, STACK_DECODER, sizes[i], true);
        uint32_t n_spans = make_spans(executor, warm_up, sizes[i], options->max_length);
        TRY(forward_warm_up_graphs(&executor->forward, &input, n_spans, GRAPHS));
    }
    return OK;
}

static Status warm_up_with(Executor *executor, WarmUp *warm_up)
{
    lay_out_warm_up(warm_up, executor);
    TRY(arena_commit(&warm_up->arena, "executor: a first step"));
    lay_out_warm_up(warm_up, executor);
    size_t routed = executor->options.max_tokens * (size_t)model_routed(executor->config);
    for (size_t i = 0; i < routed; i++)
        warm_up->dropped[i] = EXPERT_DROPPED;
    if (model_is_encoder_decoder(executor->config))
        TRY(run_sizes(executor, warm_up, STACK_ENCODER));
    TRY(run_sizes(executor, warm_up, STACK_DECODER));
    return executor->plan.buffer.on ? OK : make_graphs(executor, warm_up);
}

Status executor_warm_up(Executor *executor)
{
    WarmUp warm_up = {0};
    if (!executor->forward.backend->loads_at_first_call)
        return OK;
    Status status = warm_up_with(executor, &warm_up);
    arena_free(&warm_up.arena);
    return status;
}
