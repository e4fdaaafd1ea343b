/* The ranks of expert parallelism: one GPU for each process of an MPI run, and what the GPUs send
 * one another, by NCCL.
 *
 * What is said here of all ranks is called by each of them in the same order. Whoever waits for
 * another rank for too long, or is told by NCCL that one is gone, gives up the communicator and
 * fails: it may only be closed then. */
#ifndef EXEC_RANKS_H
#define EXEC_RANKS_H

#include <stdbool.h>

#include "base/processes.h"

typedef struct Ranks Ranks;

enum { RANKS_MARKS = 2 };

typedef struct {
    size_t bytes;      /* of device memory */
    uint64_t limit_ns; /* how long a rank waits for the others, at the most */
} RanksOptions;

/* What every rank sends to every rank, itself included: parts without gaps, by rank. What rank A
 * sends to B is as long as what B receives from A; parts may be empty. */
typedef struct {
    const void *send;              /* device */
    const uint64_t *send_bytes;    /* [ranks] */
    void *receive;                 /* device; does not overlap SEND */
    const uint64_t *receive_bytes; /* [ranks] */
} AllToAll;

/* Opens this process's GPU, the one of its number among those of its machine, for all ranks, and
 * connects every two of them. Fails with ERR_UNSUPPORTED where the build or the machine has no NCCL
 * or no GPU, or where processes would share one: in all of them, as processes_agree() says.
 * PROCESSES must outlive RANKS. */
Status ranks_open(Processes *processes, const RanksOptions *options, Ranks **ranks);
/* Accepts NULL. */
void ranks_close(Ranks *ranks);
/* Device memory, options.bytes of it, zeroed. */
void *ranks_memory(const Ranks *ranks);
/* "2.28.9": of NCCL. */
const char *ranks_version(const Ranks *ranks);
/* The machine's first GPU, computing in COMPUTE ("bf16"), as executor_device() describes it. */
Status ranks_describe(const char *compute, char *text, size_t bytes);

/* Copies that are done on return. */
Status ranks_upload(Ranks *ranks, void *to, const void *from, size_t bytes);
Status ranks_download(Ranks *ranks, void *to, const void *from, size_t bytes);

/* Queues, all in one order; by all ranks. Does not wait for the others. */
Status ranks_all_to_all(Ranks *ranks, const AllToAll *all);
/* Queues a copy within the device (no overlap). */
Status ranks_copy(Ranks *ranks, void *to, const void *from, size_t bytes);
/* Marks this place of the queue. */
Status ranks_mark(Ranks *ranks, uint32_t mark);
/* Whether the queue has come to MARK. */
Status ranks_passed(Ranks *ranks, uint32_t mark, bool *passed);
/* Returns when everything queued has happened. */
Status ranks_wait(Ranks *ranks);
/* After ranks_wait(): from mark 0 to mark 1. */
Status ranks_elapsed(Ranks *ranks, double *ns);

#endif
