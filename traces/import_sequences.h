/* Which tokens of a routing array belong to which sequence, from a CSV.
 *
 * Columns, by the names in its first row, in any order; others are kept only when asked for:
 *
 *   first_token      index of the sequence's first token in the array
 *   tokens           how many it has, at least 1
 *   sequence         its request number; without the column: the row's, from 0
 *   first_token_pos  position of that first token in its request (default 0): what came before is
 *                    the prompt, whose routing is not there
 *   prompt_tokens    how many of its tokens are prompt, too (default 0)
 *   label, or dataset, domain, category   what the request is labelled with
 *
 * The rows must cover the array in order, without hole or overlap. */
#ifndef TRACES_IMPORT_SEQUENCES_H
#define TRACES_IMPORT_SEQUENCES_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t first_token;
    uint64_t tokens;
    uint32_t request;
    uint32_t first_position;
    uint32_t prompt_here;   /* of its tokens, how many are prompt; they come first */
    uint32_t prompt_tokens; /* of its tokens and those before them: what was prompt */
    uint32_t output_tokens;
    const char *label; /* or NULL */
} ImportSequence;

typedef struct {
    ImportSequence *items; /* [count] */
    size_t count;
    char *labels; /* what the labels point into */
} ImportSequences;

/* Reads PATH for an array of TOKENS tokens. LABEL names the columns of the label, separated by
 * commas, or is NULL: "label", else those that are there of dataset, domain and category. Several
 * are joined with '/'. Fails with ERR_INPUT. */
Status import_sequences_read(const char *path, const char *label, uint64_t tokens,
                             ImportSequences *sequences);
/* One sequence of all TOKENS, all generated, without a label. */
Status import_sequences_one(uint64_t tokens, ImportSequences *sequences);
void import_sequences_free(ImportSequences *sequences);

#endif
