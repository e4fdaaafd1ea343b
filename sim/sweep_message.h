/* What the ranks of a sweep tell each other.
 *
 *     leader                                    follower
 *     BEGIN  numbers of trace and study      ->
 *                                            <- READY   room for them, or why not
 *     GO                                     ->
 *     (shares the plans, their tables and the arrays of the trace; signals, where BEGIN says that
 *     plans read them, every rank reads itself)
 *     PLAN   item, plan                      ->          as many as READY said, then one
 *                                            <- RESULT   for each RESULT
 *     END    drop: also what has not begun   ->          at any time
 *                                            <- BYE      after the last RESULT
 *
 * FAILED and STOP come from a follower at any time after GO: it cannot go on, or it was asked to
 * stop; END answers both. Instead of BEGIN or GO, END sends the follower away without BYE. */
#ifndef SIM_SWEEP_MESSAGE_H
#define SIM_SWEEP_MESSAGE_H

#include "sim/sweep_pool.h"
#include "sim/sweep_ranks.h"

typedef enum {
    SWEEP_BEGIN,
    SWEEP_READY,
    SWEEP_GO,
    SWEEP_PLAN,
    SWEEP_RESULT,
    SWEEP_END,
    SWEEP_FAILED,
    SWEEP_STOP,
    SWEEP_BYE
} SweepMessageKind;

/* One shape for all kinds; what a kind does not need is 0. */
typedef struct {
    char version[32]; /* of the sender, first: it is compared before anything else is read */
    SweepMessageKind kind;
    bool drop;              /* END */
    uint32_t threads;       /* BEGIN: to start, 0: as many as the rank may; READY: that will run */
    uint64_t n_plans;       /* BEGIN: of the study */
    uint64_t table_bytes;   /* BEGIN: of all their tables (sim/sweep_plans.h) */
    uint64_t plan;          /* PLAN: index into them */
    bool has_signals;       /* BEGIN: plans read signals ... */
    uint32_t signals_crc;   /* ... which give this (study_signals_crc()), ... */
    uint64_t skipped;       /* ... from this event on */
    PackedTrace trace;      /* BEGIN: the numbers; the pointers mean nothing */
    SweepFinished finished; /* PLAN: item; RESULT: all, with result.layers behind the message;
                               READY, FAILED: status and error */
} SweepMessage;

/* Sends MESSAGE, its version filled in, and the layers of a RESULT. */
Status sweep_message_send(SweepRanks *ranks, uint32_t to, SweepMessage *message);

/* Takes a message that has come; *FROM is its sender. STATUS_END: none has. A RESULT that is OK has
 * its layers, to be freed with replay_result_free(). Fails with ERR_UNSUPPORTED when the sender is
 * another version of the program. */
Status sweep_message_receive(SweepRanks *ranks, uint32_t *from, SweepMessage *message);

#endif
