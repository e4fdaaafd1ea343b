#include "sim/timed_replay.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "sim/ranked_replay.h"

typedef struct {
    Timing *timing;
    const StepFeatures *steps; /* of the next one on */
    uint64_t left;
    const StepFeatures *step; /* that is played; NULL: none */
    uint32_t *rows;           /* [most active] of an event */
    StepObserver observer;
    void *argument;
} Player;

static Status end_step(Player *player)
{
    StepTime time;
    if (player->step == NULL)
        return OK;
    TRY(timing_end(player->timing, &time));
    return player->observer != NULL ? player->observer(player->argument, player->step, &time) : OK;
}

static Status begin_step(Player *player, uint32_t step)
{
    TRY(end_step(player));
    if (player->left == 0 || player->steps->step != step)
        return fail(ERR_INPUT, "simulated time: step %u of the trace is not where it was", step);
    player->step = player->steps++;
    player->left--;
    return timing_begin(player->timing, player->step, 0);
}

/* Rows of each expert, MOST at the most. */
static void read_rows(const PackedEvent *event, uint32_t most, uint32_t *rows)
{
    packed_rows(event, rows);
    for (uint32_t i = 0; i < event->n_active; i++)
        rows[i] = rows[i] < most ? rows[i] : most;
}

Status timing_packed_event(Timing *timing, const PackedEvent *event, const BufferAction *actions,
                           uint32_t n_actions, uint32_t *rows)
{
    if (event->counts != NULL)
        read_rows(event, timing_most_rows(timing), rows);
    const TimingEvent timed = {.layer_index = event->layer_index,
                               .n = event->n_active,
                               .experts = event->experts,
                               .rows = event->counts != NULL ? rows : NULL,
                               .sums = event->summed ? &event->sums : NULL};
    return timing_event(timing, &timed, actions, n_actions);
}

/* HIT has N numbers, 0 or 1: eight of them are a word. */
static uint32_t count_hits(const uint8_t *hit, uint32_t n)
{
    uint64_t hits = 0;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, hit + i, sizeof word);
        hits += word * 0x0101010101010101u >> 56;
    }
    for (; i < n; i++)
        hits += hit[i];
    return (uint32_t)hits;
}

static Status play_hits(void *argument, const PackedEvent *event, const uint8_t *hit)
{
    Player *player = argument;
    uint32_t hits = count_hits(hit, event->n_active);
    if (player->step == NULL || player->step->step != event->step)
        TRY(begin_step(player, event->step));
    if (event->counts != NULL)
        read_rows(event, timing_most_rows(player->timing), player->rows);
    const TimingEvent timed = {.layer_index = event->layer_index,
                               .n = event->n_active,
                               .experts = event->experts,
                               .rows = event->counts != NULL ? player->rows : NULL};
    return timing_event_hits(player->timing, &timed, hit, event->n_active - hits);
}

static Status play_event(void *argument, const PackedEvent *event, const BufferAction *actions,
                         uint32_t n_actions)
{
    Player *player = argument;
    if (player->step == NULL || player->step->step != event->step)
        TRY(begin_step(player, event->step));
    return timing_packed_event(player->timing, event, actions, n_actions, player->rows);
}

static bool play_sums(Timing *timing, PackedCursor *cursor)
{
    const PackedTrace *trace = cursor->trace;
    if (!timing_summed_events(timing, cursor->layer_index, cursor->left,
                              trace->n_active + cursor->event, trace->counts + cursor->count_at))
        return false;
    packed_skip_summed(cursor);
    return true;
}

/* The step at which CURSOR stands, if all its events are of as many experts with a token each, or
 * have sums. */
static bool play_plainly(Timing *timing, PackedCursor *cursor)
{
    const uint16_t *n_active = cursor->trace->n_active + cursor->event;
    if (cursor->counts == COUNTS_SUMMED)
        return play_sums(timing, cursor);
    if (cursor->counts != COUNTS_SINGLE)
        return false;
    for (uint32_t i = 1; i < cursor->left; i++)
        if (n_active[i] != n_active[0])
            return false;
    if (!timing_plain_events(timing, cursor->layer_index, cursor->left, n_active[0]))
        return false;
    packed_skip_events(cursor, n_active[0]);
    return true;
}

static Status play_ranks(void *argument, const PackedEvent *event, const RankDecision *decided)
{
    Player *player = argument;
    if (player->step == NULL || player->step->step != event->step)
        TRY(begin_step(player, event->step));
    return timing_event_split(player->timing, event->layer_index, decided);
}

/* Without a buffer there is nothing to decide. */
static Status play_resident(Player *player, const PackedTrace *trace, ReplayResult *result)
{
    PackedCursor cursor = packed_cursor(trace);
    PackedEvent event;
    uint64_t start_ns = clock_ns();
    while (packed_next_step(&cursor)) {
        TRY(begin_step(player, trace->step_id[cursor.step]));
        if (play_plainly(player->timing, &cursor))
            continue;
        while (cursor.left > 0 && packed_next(&cursor, &event))
            TRY(timing_packed_event(player->timing, &event, NULL, 0, player->rows));
    }
    result->replay_ns += clock_ns() - start_ns;
    return OK;
}

/* Decisions, and what comes of them. */
static Status play(Player *player, const PackedTrace *trace, const ReplayFuture *future,
                   const Plan *plan, ReplayResult *result)
{
    if (plan->buffer.on && timing_split(player->timing) != NULL)
        return ranked_replay_run(trace, plan, future, timing_split(player->timing), play_ranks,
                                 player, result);
    if (timing_takes_hits(player->timing, trace->max_active))
        return replay_run_hits(trace, plan, future, play_hits, player, result);
    if (plan->buffer.on)
        return replay_run(trace, plan, future, play_event, player, result);
    TRY(plan_replay_run(trace, plan, future, result));
    return play_resident(player, trace, result);
}

Status timed_replay(const PackedTrace *trace, const ReplayFuture *future, Timing *timing,
                    const TraceFeatures *features, uint64_t first, const Plan *plan,
                    StepObserver observer, void *argument, ReplayResult *result)
{
    Player player = {.timing = timing,
                     .steps = features->steps + first,
                     .left = features->n_steps - first,
                     .observer = observer,
                     .argument = argument};
    TRY(mem_new(&player.rows, (size_t)trace->max_active + 1, sizeof *player.rows, "replay"));
    Status status = play(&player, trace, future, plan, result);
    if (status == OK)
        status = end_step(&player);
    if (status != OK)
        replay_result_free(result);
    mem_free(player.rows);
    return status;
}

static CostGuesses guesses_of(const TimingTotals *totals)
{
    CostGuesses guesses = {0};
    for (Op op = 0; op < OPS; op++)
        if (totals->op_use[op].n[COST_EXTRAPOLATED] > 0)
            guesses.ops |= UINT32_C(1) << op;
    for (uint32_t i = 0; i < totals->n_missing && i < GUESSED_TABLES; i++)
        guesses.missing[guesses.n_missing++] = totals->missing[i];
    return guesses;
}

void cost_guesses_add(CostGuesses *sum, const CostGuesses *more)
{
    sum->ops |= more->ops;
    for (uint32_t i = 0; i < more->n_missing; i++) {
        uint32_t known = 0;
        while (known < sum->n_missing && strcmp(sum->missing[known], more->missing[i]) != 0)
            known++;
        if (known == sum->n_missing && known < GUESSED_TABLES)
            sum->missing[sum->n_missing++] = more->missing[i];
    }
}

PlanTime timing_plan_time(const Timing *timing, const TimingMemory *memory)
{
    const TimingTotals totals = timing_totals(timing);
    const uint64_t ns = timing_now(timing);
    return (PlanTime){.known = true,
                      .total_ns = ns,
                      .tokens_per_s = ns > 0 ? 1e9 * (double)totals.total.tokens / (double)ns : 0,
                      .exposed_load_ns = totals.total.exposed_load_ns,
                      .peak_bytes = memory->total,
                      .guesses = guesses_of(&totals)};
}
