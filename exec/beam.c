#include "exec/beam.h"

#include <math.h>
#include <string.h>

#include "base/layout.h"

void beam_lay_out(BeamSearch *search, Arena *arena)
{
    const BeamOptions *options = &search->options;
    size_t beams = options->beams;
    size_t tokens = times(beams, options->max_tokens);
    search->most = options->beams * (options->n_ends > 0 ? 1 + options->n_ends : 2);
    search->scores = lay_out(arena, beams, sizeof *search->scores);
    search->tokens = lay_out(arena, tokens, sizeof *search->tokens);
    search->spare = lay_out(arena, tokens, sizeof *search->spare);
    search->candidates = lay_out(arena, search->most, sizeof *search->candidates);
    search->finished = lay_out(arena, beams, sizeof *search->finished);
    search->finished_tokens = lay_out(arena, tokens, sizeof *search->finished_tokens);
    search->parent = lay_out(arena, beams, sizeof *search->parent);
    search->next = lay_out(arena, beams, sizeof *search->next);
}

void beam_start(BeamSearch *search)
{
    search->n_tokens = 0;
    search->n_finished = 0;
    search->done = false;
    search->scores[0] = 0;
    for (uint32_t i = 1; i < search->options.beams; i++)
        search->scores[i] = -1e9f;
}

/* Keeps CANDIDATE if it is among the best; of equals the one that came first stays ahead. */
static void offer(BeamSearch *search, uint32_t *n, const BeamCandidate *candidate)
{
    uint32_t at = *n;
    if (at == search->most) {
        if (candidate->score <= search->candidates[at - 1].score)
            return;
        at--;
    } else {
        (*n)++;
    }
    for (; at > 0 && search->candidates[at - 1].score < candidate->score; at--)
        search->candidates[at] = search->candidates[at - 1];
    search->candidates[at] = *candidate;
}

static void offer_row(BeamSearch *search, uint32_t *n, uint32_t beam, const float *logits)
{
    uint32_t vocabulary = search->options.vocabulary;
    float most = logits[0];
    double sum = 0;
    for (uint32_t i = 1; i < vocabulary; i++)
        most = logits[i] > most ? logits[i] : most;
    for (uint32_t i = 0; i < vocabulary; i++)
        sum += exp((double)(logits[i] - most));
    float log_sum = (float)log(sum);
    for (uint32_t i = 0; i < vocabulary; i++) {
        float log_probability = logits[i] - most - log_sum;
        offer(search, n,
              &(BeamCandidate){
                  .score = log_probability + search->scores[beam], .beam = beam, .token = i});
    }
}

static bool is_end(const BeamOptions *options, uint32_t token)
{
    for (uint32_t i = 0; i < options->n_ends; i++)
        if (options->ends[i] == token)
            return true;
    return false;
}

static uint32_t worst_finished(const BeamSearch *search)
{
    uint32_t worst = 0;
    for (uint32_t i = 1; i < search->n_finished; i++)
        if (search->finished[i].score < search->finished[worst].score)
            worst = i;
    return worst;
}

static double normalised(const BeamSearch *search, float score, uint32_t n_tokens)
{
    return score / pow(n_tokens, search->options.length_penalty);
}

/* The hypothesis of CANDIDATE joins the finished ones when it is better than the worst of them. */
static void finish(BeamSearch *search, const BeamCandidate *candidate)
{
    size_t room = search->options.max_tokens;
    uint32_t n = search->n_tokens;
    BeamHypothesis made = {normalised(search, candidate->score, n + 1), n + 1};
    uint32_t at = search->n_finished;
    if (at == search->options.beams) {
        at = worst_finished(search);
        if (made.score <= search->finished[at].score)
            return;
    } else {
        search->n_finished++;
    }
    uint32_t *tokens = search->finished_tokens + at * room;
    search->finished[at] = made;
    memcpy(tokens, search->tokens + candidate->beam * room, n * sizeof *tokens);
    tokens[n] = candidate->token;
}

/* CANDIDATE becomes beam AT of the next step; its tokens go to spare. */
static void go_on(BeamSearch *search, uint32_t at, const BeamCandidate *candidate)
{
    size_t room = search->options.max_tokens;
    uint32_t *tokens = search->spare + at * room;
    search->parent[at] = candidate->beam;
    search->next[at] = candidate->token;
    memcpy(tokens, search->tokens + candidate->beam * room, search->n_tokens * sizeof *tokens);
    tokens[search->n_tokens] = candidate->token;
}

/* True when no beam can still beat the worst finished hypothesis, as far as the best sum so far
 * tells. */
static bool is_decided(const BeamSearch *search)
{
    if (search->n_finished < search->options.beams)
        return false;
    double reachable = normalised(search, search->candidates[0].score, search->n_tokens);
    return search->finished[worst_finished(search)].score >= reachable;
}

void beam_advance(BeamSearch *search, const float *logits, size_t stride)
{
    const BeamOptions *options = &search->options;
    uint32_t n = 0;
    uint32_t kept = 0;
    bool last = search->n_tokens + 1 == options->max_tokens;
    for (uint32_t beam = 0; beam < options->beams; beam++)
        offer_row(search, &n, beam, logits + beam * stride);
    for (uint32_t rank = 0; rank < n && kept < options->beams; rank++) {
        const BeamCandidate *candidate = &search->candidates[rank];
        bool ends = is_end(options, candidate->token);
        /* An end that is not among the best BEAMS is nothing. */
        if ((ends || last) && rank < options->beams)
            finish(search, candidate);
        if (!ends)
            go_on(search, kept++, candidate);
    }
    for (uint32_t i = 0, rank = 0; i < kept; rank++)
        if (!is_end(options, search->candidates[rank].token))
            search->scores[i++] = search->candidates[rank].score;
    uint32_t *tokens = search->tokens;
    search->tokens = search->spare;
    search->spare = tokens;
    search->n_tokens++;
    search->done = last || kept < options->beams || is_decided(search);
}

const uint32_t *beam_best(const BeamSearch *search, uint32_t *n)
{
    uint32_t best = 0;
    *n = 0;
    if (search->n_finished == 0)
        return NULL;
    for (uint32_t i = 1; i < search->n_finished; i++)
        if (search->finished[i].score > search->finished[best].score)
            best = i;
    *n = search->finished[best].n_tokens;
    return search->finished_tokens + best * (size_t)search->options.max_tokens;
}
