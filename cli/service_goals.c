#include "cli/service_goals.h"

Status service_goals_check(const ServiceGoals *goals, bool serves)
{
    if (serves || !service_goals_are_any(goals))
        return OK;
    return fail(ERR_USAGE, "--ttft-at-most, --tpot-at-most and --latency-at-most are of requests "
                           "that arrive, with batching.mode \"continuous\"");
}
