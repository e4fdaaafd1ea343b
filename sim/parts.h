/* Which steps of a trace are learnt from, and which are scored.
 *
 * What a plan learns (hot sets, residents at the start, budgets, tables of predictors) it learns
 * from the training part, and it is scored on the test part, where the buffer starts cold unless
 * the plan says with what. A part is FROM:TO, shares of the steps of the trace, after regrouping:
 * steps floor(FROM * steps) to floor(TO * steps) - 1. */
#ifndef SIM_PARTS_H
#define SIM_PARTS_H

#include <stdbool.h>

#include "traces/packed.h"

typedef struct {
    bool given;
    double from; /* 0 <= from < to <= 1 */
    double to;
} TracePart;

/* What the user asked for. Zero-initialised: nothing. */
typedef struct {
    TracePart train;
    TracePart test;
} PartsAsked;

/* Steps FIRST to END - 1. */
typedef struct {
    uint64_t first;
    uint64_t end;
} Steps;

typedef struct {
    bool trains;
    Steps train; /* empty unless TRAINS */
    Steps test;
} TraceParts;

/* Reads "0:0.5". Fails with ERR_INPUT; the caller names the option. */
Status trace_part_parse(const char *text, TracePart *part);

/* Chooses the parts of a trace of N_STEPS. Where something is to be LEARNT, what is not asked for
 * has its default: the first half for training, or what lies before the test part; for the test
 * what lies behind the training part. Else all steps are scored. Fails with ERR_INPUT when a
 * training part is asked for and nothing is learnt, when nothing is left for one of them, or when a
 * part has no step. The two may overlap where both were asked for. */
Status trace_parts_choose(const PartsAsked *asked, bool learnt, uint64_t n_steps,
                          TraceParts *parts);

/* True when steps are scored that were learnt from. */
bool trace_parts_overlap(const TraceParts *parts);

#endif
