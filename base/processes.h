/* The processes of one run that mpirun or its like has started.
 *
 * What is said here of all is called by every one of them in the same order, by one thread each.
 * Whoever waits for the others leaves the processor to who needs it. After a failure they cannot
 * speak any more. */
#ifndef BASE_PROCESSES_H
#define BASE_PROCESSES_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct {
    uint32_t rank;
    uint32_t count;         /* at least 1 */
    uint32_t machine_rank;  /* among those of this machine, ... */
    uint32_t machine_count; /* which are so many */
    uint64_t limit_ns;      /* how long a call waits for the others before it fails; 0: for ever */
} Processes;

/* Joins the processes of this run: *PROCESSES is NULL where it was not started by mpirun or its
 * like, or as the only process. Fails with ERR_UNSUPPORTED where this build cannot join, or not
 * with the MPI that started it; all but one of the processes then get STATUS_END instead, to end in
 * silence. */
Status processes_join(Processes **processes);
/* Rank 0's BLOCK becomes everybody's; each calls it with as many BYTES. */
Status processes_share(Processes *processes, void *block, size_t bytes);
/* Each of VALUES [n] becomes the largest that any process has. */
Status processes_most(Processes *processes, double *values, uint32_t n);
/* OK when STATUS is OK everywhere. Else rank 0 gets the status and the record of the lowest rank
 * that failed, "rank 3: ..." where that is another one, and the others STATUS_END, to end in
 * silence. */
Status processes_agree(Processes *processes, Status status);
/* Waits until every process leaves; but not after a failure, or when they cannot speak any more:
 * the launcher then ends the rest. Accepts NULL. Returns STATUS, and keeps the error record. */
Status processes_leave(Processes *processes, Status status);

#endif
