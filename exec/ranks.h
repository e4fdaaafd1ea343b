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

/* What is queued in one runs beside what is queued in the other. */
typedef enum { RANKS_EXCHANGES, RANKS_PRODUCTS, RANKS_QUEUES } RanksQueue;

typedef struct {
    size_t bytes;       /* of device memory */
    uint32_t side;      /* of a square matrix for products, bf16; 0: there are none */
    uint32_t most_rows; /* that are multiplied with it */
    uint64_t limit_ns;  /* how long a rank waits for the others, at the most */
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

/* Copies that are done on return; what is queued happens before. */
Status ranks_upload(Ranks *ranks, void *to, const void *from, size_t bytes);
Status ranks_download(Ranks *ranks, void *to, const void *from, size_t bytes);

/* Queues an exchange; by all ranks. Does not wait for the others. */
Status ranks_all_to_all(Ranks *ranks, const AllToAll *all);
/* Queues a copy within the device (no overlap), among the exchanges. */
Status ranks_copy(Ranks *ranks, void *to, const void *from, size_t bytes);
/* Queues TIMES products of ROWS rows. */
Status ranks_multiply(Ranks *ranks, uint32_t rows, uint32_t times);
/* Products that are queued from now on come after what is queued among the exchanges. */
Status ranks_order(Ranks *ranks);
/* Marks this place of QUEUE. */
Status ranks_mark(Ranks *ranks, RanksQueue queue, uint32_t mark);
/* Whether QUEUE has come to MARK. */
Status ranks_passed(Ranks *ranks, RanksQueue queue, uint32_t mark, bool *passed);
/* Returns when everything queued has happened. */
Status ranks_wait(Ranks *ranks);
/* After ranks_wait(): from mark 0 of QUEUE to its mark 1. */
Status ranks_elapsed(Ranks *ranks, RanksQueue queue, double *ns);

#endif
