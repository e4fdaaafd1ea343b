/* The plan of a command line: --plan FILE and --set PATH=VALUE. */
#ifndef CLI_PLAN_INPUT_H
#define CLI_PLAN_INPUT_H

#include "cli/options.h"
#include "policies/plan.h"

/* The options, for a command's table: where --plan's text and --set's list go. */
#define PLAN_OPTIONS(path, sets)                                                                   \
    TEXT_OPTION("plan", "FILE", "the plan (default: all experts resident)", path),                 \
        LIST_OPTION("set", "PATH=VALUE", "change one value of the plan", sets)

/* Reads PATH (NULL: the default plan), applies the assignments of SETS in order (NULL: none), and
 * checks the whole. Errors name the file, or "--set" where there is none. */
Status plan_input(const char *path, const OptionList *sets, Plan *plan);

/* Puts the plan's file (NULL: there is none, but --set) in front of the record of ERR_PLAN, which
 * tells what of the plan does not go with the trace or the model. Returns STATUS. */
Status plan_input_blame(Status status, const char *path);

#endif
