/* Tables of how many tokens each expert got, where nobody kept which token went where.
 *
 * Two forms: a .npy array [layer, expert] or [step, layer, expert] of integers; or a CSV with the
 * columns layer, expert, count and, for more than one step, step (ascending).
 *
 * What becomes of them: a trace whose events are right - for each (step, layer) the set of experts
 * with how many assignments each has - and whose tokens are not tokens. Every "token" of it is one
 * assignment: its layers have top_k 1, a step is as long as its busiest layer has assignments, and
 * lesser layers are filled up with EXPERT_DROPPED. No routing of a token is made up.
 * run.notes.import.counts_only says so; trace_counts_only() asks for it. Replay, sweeps, loads and
 * placement are exact on such a trace; what asks which experts a token took together, or regroups
 * tokens, must refuse it. */
#ifndef TRACES_IMPORT_COUNTS_H
#define TRACES_IMPORT_COUNTS_H

#include "base/json.h"
#include "traces/import.h"
#include "traces/safetensors.h"

/* Whether the tokens of a trace are assignments: see above. */
bool trace_counts_only(const TraceRun *run);
/* Why the tokens of a trace cannot be put into other steps, or NULL: they can. */
const char *trace_cannot_regroup(const TraceRun *run);

/* Imports ARRAY, [layer, expert] or [step, layer, expert] of integers; a layer without any count is
 * no MoE layer and is left out. NOTES as below. */
Status import_counts_array(const ImportOptions *options, const Tensor *array, cJSON *notes,
                           ImportReport *report);

/* Writes steps of counts. */
typedef struct CountsWriter CountsWriter;

/* A table of N_LAYERS x EXPERTS. LAYERS: the model's layer numbers [n_layers], or NULL: they count
 * from OPTIONS->first_layer. NOTES, an object, gets what is worth knowing. */
Status counts_writer_open(const ImportOptions *options, const uint32_t *layers, uint32_t n_layers,
                          uint32_t experts, cJSON *notes, CountsWriter **writer);
/* COUNTS is [n_layers][experts] of step STEP; a step without an assignment is left out. */
Status counts_writer_step(CountsWriter *writer, uint32_t step, const uint64_t *counts);
/* Frees WRITER in any case. */
Status counts_writer_close(CountsWriter *writer, ImportReport *report);
void counts_writer_abandon(CountsWriter *writer);

#endif
