/* The processes that share one sweep, and how they speak with each other.
 *
 * Rank 0 leads: it reads the inputs, hands out the plans one by one and alone writes study.db
 * (sim/sweep.h). The others follow: the study and the packed trace come to them from rank 0, so
 * that they need no file, and their results go back. Every failure of a follower is told to rank 0
 * and reported there, once. */
#ifndef SIM_SWEEP_RANKS_H
#define SIM_SWEEP_RANKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct SweepRanks SweepRanks;

/* A message that has come; BYTES are the transport's and valid until the next receive. */
typedef struct {
    const void *data; /* NULL: none has come */
    size_t bytes;
    uint32_t from;
} SweepMail;

/* A transport keeps the order of the messages between two ranks. One thread of each process calls
 * it. After a failure the ranks cannot speak any more. */
typedef struct {
    /* Copies MESSAGE and returns without waiting for the receiver. */
    Status (*send)(SweepRanks *ranks, uint32_t to, const void *message, size_t bytes);
    /* Never waits. */
    Status (*receive)(SweepRanks *ranks, SweepMail *mail);
    /* Rank 0's BLOCK becomes everybody's. Waits for all ranks, each of which calls it with as many
     * BYTES. */
    Status (*share)(SweepRanks *ranks, void *block, size_t bytes);
} SweepTransport;

struct SweepRanks {
    const SweepTransport *transport;
    uint32_t rank;
    uint32_t count;
    uint32_t threads; /* that this rank may keep busy */
    bool dismissed;   /* rank 0: the followers have been told to leave */
};

/* Joins the ranks of this run: *RANKS is NULL where it was not started by mpirun or its like, or as
 * the only process. Fails with ERR_UNSUPPORTED where this build cannot join, or not with the MPI
 * that started it; all but one of the processes then get STATUS_END instead, to end in silence. */
Status sweep_ranks_join(SweepRanks **ranks);
/* Waits until every rank leaves; but not when they cannot speak any more, when rank 0 has not
 * dismissed the others, or when another rank leaves with a failure: the launcher then ends the
 * rest. Accepts NULL. Returns STATUS, and keeps the error record. */
Status sweep_ranks_leave(SweepRanks *ranks, Status status);

#endif
