/* What the files that run requests share; nobody else's. */
#ifndef EXEC_RUN_PARTS_H
#define EXEC_RUN_PARTS_H

#include "exec/beam.h"
#include "exec/run_step.h"

/* One line of tokens of the group that runs: a request, or one beam of it. Its place in the group
 * is request * beams + beam. */
typedef struct {
    const TokenRequest *source; /* of the set; the prompt itself in a decoder-only model */
    const uint32_t *prompt;     /* the decoder's */
    uint32_t n_prompt;
    uint32_t number;  /* in the set */
    uint32_t fed;     /* tokens in the KV cache */
    uint32_t pending; /* the newest output token, not yet fed */
    uint32_t n_output;
    uint32_t kv_slot;
    uint64_t arrival_ns; /* for the trace */
    bool done;
    uint32_t logit_row; /* of its last token in the step */
} Running;

typedef struct {
    RunContext context;
    const ModelConfig *config;
    const TokenSet *set;
    const RunOptions *options;
    uint32_t **output;
    uint32_t *n_output;
    Arena arena; /* of the arrays */
    uint32_t beams;
    BeamSearch *searches; /* [requests of a group], with beams only */
    uint32_t *slots;      /* [beams] scratch */
    Running *group;
    uint32_t n_group; /* lines */
    uint32_t *request;
    uint32_t *position;
    uint32_t *token;
    uint32_t *kv_slot;
    uint32_t *source_slot;
    uint16_t *forced;  /* of options.routing: per MoE layer [tokens][top_k] */
    uint32_t n_tokens; /* in the step that is being composed */
    uint32_t n_spans;
} Run;

/* Requests of the largest group. */
uint32_t run_group_requests(const Run *run);
/* Tokens to generate for request NUMBER of the set. */
uint32_t run_generate(const Run *run, uint32_t number);
/* The number of a line in the trace. */
uint32_t run_request_number(const Run *run, const Running *line);
/* Adds the line's next tokens, up to END of them fed, as far as the step has room. */
void run_add_tokens(Run *run, uint32_t place, uint32_t end);
/* The composed step's forced routing, or NULL. */
const uint16_t *run_forced(Run *run, Stack stack);
/* Runs the composed step; OUTPUT is what came of it. */
Status run_composed(Run *run, Phase phase, LogitsWanted needed, StepOutput *output);

/* Gives LINE its next token, from the last row of it in OUTPUT, and finds whether it is done. */
void run_accept_token(Run *run, Running *line, const StepOutput *output);
/* Writes what is known of LINE to the trace, where there is one. */
Status run_record_request(const Run *run, const Running *line);

/* The sources of the group through the encoder. */
Status run_encode(Run *run);
/* The prompts of the group but for their last token, then beam search to the end. */
Status run_beams(Run *run);
/* All requests, as they arrive (options.arrivals). */
Status run_continuous(Run *run);

#endif
