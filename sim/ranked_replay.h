/* A replay in which each of several ranks has a buffer of its own (policies/buffer.h): the plan's,
 * of the experts that the placement gives it. Every rank decides on its part of an event
 * (sim/rank_split.h); one that has nothing of it does not look, unless it prefetches. */
#ifndef SIM_RANKED_REPLAY_H
#define SIM_RANKED_REPLAY_H

#include "sim/rank_split.h"
#include "sim/replay.h"

/* PLAN of each rank: the same of one. Shares PLAN's tables; not freed. */
static inline Plan plan_of_one_rank(const Plan *plan)
{
    Plan one = *plan;
    one.placement.ranks = 1;
    return one;
}

/* Called with the event, which SPLIT has by ranks, and DECIDED[ranks], in order. A failure stops
 * the replay and is returned. */
typedef Status (*RankedObserver)(void *argument, const PackedEvent *event,
                                 const RankDecision *decided);

/* Fails with ERR_PLAN for a plan whose decisions on several ranks are not defined: that
 * names experts, computes on the host, or decides by scores; that knows the future with copies of
 * experts, which may have no token of an event; or whose predictor knows it, or was trained. */
Status ranked_replay_check(const Plan *plan);

/* Replays TRACE under PLAN, as replay_run() does; PLAN's placement is SPLIT's. RESULT has the sums
 * of all ranks: a lookup is one of a rank. OBSERVER may be NULL. Freed with replay_result_free().
 */
Status ranked_replay_run(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                         RankSplit *split, RankedObserver observer, void *argument,
                         ReplayResult *result);

/* Replays TRACE under PLAN, of one rank or of several, and tells nobody. Fails as replay_run(), and
 * for several ranks as rank_split_open() and ranked_replay_check() do. */
Status plan_replay_run(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                       ReplayResult *result);

/* The same over a trace that grows, as replay_open() and those that follow. */
typedef struct RankedReplay RankedReplay;
Status ranked_replay_open(const PackedTrace *trace, const Plan *plan, const ReplayFuture *future,
                          RankSplit *split, RankedObserver observer, void *argument,
                          RankedReplay **replay);
Status ranked_replay_go_on(RankedReplay *replay);
void ranked_replay_close(RankedReplay *replay, ReplayResult *result);

#endif
