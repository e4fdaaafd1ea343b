/* Running requests with beam search. All beams of a request share its steps; the first beam's line
 * tells where the request is. */
#include "exec/run_parts.h"

/* The prompts without their last token: that is what the first round feeds, so that a request's
 * beams have their logits in one step. */
static Status feed_prompts(Run *run)
{
    StepOutput output;
    uint32_t place = 0;
    while (place < run->n_group && !run_must_stop(&run->context)) {
        uint32_t end = run->group[place].n_prompt - 1;
        run_add_tokens(run, place, end);
        if (run->group[place].fed == end)
            place++;
        if (run->n_tokens > 0 &&
            (run->n_tokens == run->options->max_tokens || place == run->n_group))
            TRY(run_composed(run, PHASE_PREFILL, LOGITS_NONE, &output));
    }
    return OK;
}

/* Gives the next beams their parents' caches: the first child of each parent keeps its slot, every
 * other one copies into the slot of a parent without children. */
static Status move_slots(Run *run, Running *lines, const BeamSearch *search)
{
    uint32_t beams = run->beams;
    for (uint32_t i = 0; i < beams; i++)
        run->slots[i] = lines[i].kv_slot;
    /* A parent's slot is taken once it has been given away. */
    uint32_t spare = 0;
    for (uint32_t i = 0; i < beams; i++) {
        uint32_t parent = search->parent[i];
        bool first = true;
        for (uint32_t j = 0; j < i; j++)
            first = first && search->parent[j] != parent;
        if (first) {
            lines[i].kv_slot = run->slots[parent];
            continue;
        }
        for (bool used = true; used; spare += used) {
            used = false;
            for (uint32_t j = 0; j < beams; j++)
                used = used || search->parent[j] == spare;
        }
        lines[i].kv_slot = run->slots[spare++];
        TRY(executor_copy_slot(run->context.executor, run->slots[parent], lines[i].kv_slot));
    }
    return OK;
}

static void keep_output(Run *run, Running *lines, const BeamSearch *search)
{
    uint32_t n = 0;
    const uint32_t *tokens = beam_best(search, &n);
    for (uint32_t i = 0; run->output != NULL && i < n; i++)
        run->output[lines->number][i] = tokens[i];
    run->context.totals->generated += n;
    for (uint32_t i = 0; i < run->beams; i++) {
        lines[i].n_output = n;
        lines[i].done = true;
    }
}

/* What the step says of the request whose lines begin at LINES. */
static Status advance(Run *run, Running *lines, BeamSearch *search, const StepOutput *output)
{
    size_t vocabulary = run->config->vocabulary;
    bool all = run->options->logits == LOGITS_ALL;
    size_t stride = all && run->beams > 1 ? lines[1].logit_row - lines[0].logit_row : 1;
    beam_advance(search, output->logits + lines[0].logit_row * vocabulary, stride * vocabulary);
    if (search->done) {
        keep_output(run, lines, search);
        return OK;
    }
    TRY(move_slots(run, lines, search));
    for (uint32_t i = 0; i < run->beams; i++)
        lines[i].pending = search->next[i];
    return OK;
}

/* One token for every beam of the requests that are not done, in steps of whole requests. */
static Status round_of_beams(Run *run, Phase phase, bool *any)
{
    StepOutput output;
    *any = false;
    for (uint32_t first = 0; first < run->n_group && !run_must_stop(&run->context);) {
        uint32_t place = first;
        for (; place < run->n_group && run->n_tokens + run->beams <= run->options->max_tokens;
             place += run->beams)
            for (uint32_t i = place; !run->group[place].done && i < place + run->beams; i++)
                run_add_tokens(run, i, run->group[i].fed + 1);
        if (run->n_tokens > 0) {
            TRY(run_composed(run, phase, LOGITS_LAST, &output));
            for (uint32_t i = first; i < place; i += run->beams)
                if (!run->group[i].done)
                    TRY(advance(run, &run->group[i], &run->searches[i / run->beams], &output));
            *any = true;
        }
        first = place;
    }
    return OK;
}

Status run_beams(Run *run)
{
    Phase phase = PHASE_PREFILL;
    TRY(feed_prompts(run));
    for (uint32_t i = 0; i < run->n_group / run->beams; i++)
        beam_start(&run->searches[i]);
    for (bool more = true; more && !run->context.totals->stopped; phase = PHASE_DECODE)
        TRY(round_of_beams(run, phase, &more));
    return OK;
}
