/* Beam search of one request, as transformers does it (BeamSearchScorer, early_stopping false): the
 * best 2 * beams continuations of all beams are looked at; those that end become hypotheses, ranked
 * by the sum of log probabilities over length^length_penalty, the next best go on. */
#ifndef EXEC_BEAM_H
#define EXEC_BEAM_H

#include <stdbool.h>

#include "base/memory.h"

typedef struct {
    uint32_t beams;
    uint32_t vocabulary;
    uint32_t max_tokens; /* of a hypothesis, its end token included */
    double length_penalty;
    const uint32_t *ends; /* [n_ends] tokens that end a hypothesis */
    uint32_t n_ends;
} BeamOptions;

/* A continuation of one beam by one token. */
typedef struct {
    float score; /* sum of log probabilities */
    uint32_t beam;
    uint32_t token;
} BeamCandidate;

typedef struct {
    double score; /* normalised by length */
    uint32_t n_tokens;
} BeamHypothesis;

typedef struct {
    BeamOptions options;
    float *scores;             /* [beams] */
    uint32_t *tokens;          /* [beams][max_tokens] so far */
    uint32_t *spare;           /* the same, of the step before */
    BeamCandidate *candidates; /* [most] in descending order */
    uint32_t most;
    BeamHypothesis *finished; /* [beams] */
    uint32_t *finished_tokens;
    uint32_t n_finished;
    uint32_t n_tokens; /* of each beam */
    uint32_t *parent;  /* [beams] what beam_advance() decided: the beam that each goes on from */
    uint32_t *next;    /* [beams] ... and its token */
    bool done;
} BeamSearch;

/* Lays the arrays out (exec/layout.h); OPTIONS must be set. */
void beam_lay_out(BeamSearch *search, Arena *arena);
/* Begins a search. The beams are alike, and the first step looks at the first alone. */
void beam_start(BeamSearch *search);
/* Takes the LOGITS [beams][vocabulary] of the beams' last tokens (rows STRIDE floats apart): sets
 * parent, next and done. With done there is nothing to go on with. */
void beam_advance(BeamSearch *search, const float *logits, size_t stride);
/* The best hypothesis once done: *N tokens. */
const uint32_t *beam_best(const BeamSearch *search, uint32_t *n);

#endif
