/* The traces of a command line: --trace FILE, repeated for shards. */
#ifndef CLI_TRACE_INPUT_H
#define CLI_TRACE_INPUT_H

#include "cli/options.h"
#include "policies/buffer.h"
#include "policies/packed_view.h"
#include "sim/features.h"

/* Loads TRACES as one, its tokens regrouped as PLAN says. On failure nothing is held. */
Status trace_input(const OptionList *traces, const Plan *plan, PackedTrace *trace);
/* The same with what simulated time depends on besides. IS_ONLY: no other plan is replayed. */
Status trace_input_timed(const OptionList *traces, const Plan *plan, bool is_only,
                         PackedTrace *trace, TraceFeatures *features);
/* Reads the signals that the decisions of PLANS[n_plans] need of them, which regroup tokens alike;
 * *SIGNALS is NULL where they need none. */
Status trace_input_signals(const OptionList *traces, const Plan *plans, size_t n_plans,
                           TraceSignals **signals);
/* Adds "trace": the path, or an array of them. */
Status trace_input_json(cJSON *json, const OptionList *traces);
/* One text that tells the same traces again: their paths, joined by commas. Freed with mem_free. */
Status trace_input_text(const OptionList *traces, char **text);

#endif
