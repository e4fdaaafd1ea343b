/* Running encoder-decoder models: the sources of a group. */
#include "exec/run_parts.h"

/* Composes an encoder's step of the sources of lines [*first, ...) as far as it has room; a source
 * is never cut. *FIRST moves on. */
static void compose_sources(Run *run, uint32_t *first)
{
    for (; *first < run->n_group; *first += run->beams) {
        const Running *line = &run->group[*first];
        const TokenRequest *source = line->source;
        if (run->n_tokens + source->n_tokens > run->options->max_tokens)
            return;
        for (uint32_t i = 0; i < source->n_tokens; i++) {
            uint32_t at = run->n_tokens++;
            run->request[at] = run_request_number(run, line);
            run->position[at] = i;
            run->token[at] = source->tokens[i];
            run->kv_slot[at] = *first;
        }
    }
}

Status run_encode(Run *run)
{
    uint32_t first = 0;
    while (first < run->n_group && !run_must_stop(&run->context)) {
        compose_sources(run, &first);
        TraceStep step = {.step = (uint32_t)run->context.totals->steps,
                          .phase = PHASE_ENCODE,
                          .tokens = run->n_tokens,
                          .request = run->request,
                          .position = run->position,
                          .token = run->token};
        const StepInput input = {.stack = STACK_ENCODER,
                                 .tokens = run->n_tokens,
                                 .token = run->token,
                                 .kv_slot = run->kv_slot,
                                 .position = run->position,
                                 .forced_experts = run_forced(run, STACK_ENCODER),
                                 .forced_known = true,
                                 .timing = run->options->timing,
                                 .scores = run->options->scores != SCORES_NONE};
        StepOutput output;
        run->n_tokens = 0;
        TRY(run_step(&run->context, &step, &input, &output));
    }
    return OK;
}
