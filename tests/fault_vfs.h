/* A SQLite VFS over the system's that fails on command, and that knows what a power cut would
 * leave.
 *
 * fault_vfs_install() makes it the default, so that everything that opens SQLite files goes through
 * it. Until armed it only passes calls on. One set of faults per process. */
#ifndef TESTS_FAULT_VFS_H
#define TESTS_FAULT_VFS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    FAULT_READ = 1,
    FAULT_WRITE = 2,
    FAULT_SYNC = 4,
    FAULT_TRUNCATE = 8,
    FAULT_OPEN = 16,
    FAULT_DELETE = 32,
    FAULT_SHARED = 64, /* the map of the log's index */
};

typedef struct {
    unsigned calls; /* FAULT_* that count */
    uint64_t at;    /* the AT-th of them fails; 0: none */
    int code;       /* what it returns */
    bool lasting;   /* and all after it */
    bool torn;      /* half of a failing write is written */
} Fault;

void fault_vfs_install(void);
void fault_vfs_arm(const Fault *fault);
/* Passes calls on again. True when the fault had come. */
bool fault_vfs_disarm(void);

/* From now on remembers for every file what was synced and what was only written. CALL is called
 * before each write, truncation, sync and deletion. */
void power_watch(void (*call)(void *argument), void *argument);
void power_unwatch(void);
/* Writes what a power cut at this moment could leave of PATH and PATH-wal and PATH-journal as
 * COPY...: all that was synced, and of what was written since any 512-byte sectors, chosen by
 * STATE. */
void power_cut(const char *path, const char *copy, uint64_t *state);

#endif
