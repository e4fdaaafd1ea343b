/* The checksums of study.db. Every row of every table ends with crc, the CRC-32C of its other
 * columns in the order of the schema (traces/rowcrc.h): SQLite's own check sees the structure of a
 * file, and few of the changes to what is in it. */
#ifndef SIM_STUDY_SEAL_H
#define SIM_STUDY_SEAL_H

#include <sqlite3.h>
#include <stdint.h>

#include "base/status.h"

/* Columns of result before crc. */
#define STUDY_RESULT_COLUMNS                                                                       \
    "plan_id, name, plan, evict, slots, budget_bytes, scope, replay_order, bound, lookups, hits,"  \
    " misses, miss_ratio, assignments, assignment_hits, loads, bytes_loaded, evictions,"           \
    " evicted_newest, memory_bytes, replay_ns, done, predictor, prefetches, prefetch_hits,"        \
    " prefetch_evicted, bytes_prefetched, compute, host_computed, host_rows, total_ns,"            \
    " tokens_per_s, exposed_load_ns, peak_bytes, ttft_median_ns, ttft_p99_ns, tbt_median_ns,"      \
    " tbt_p99_ns, evicted_young"

/* Gives SQLITE the SQL function row_crc(column, ...), which the rest needs. Returns SQLite's code.
 */
int study_seal_function(sqlite3 *sqlite);
/* Gives all rows without a checksum theirs. PATH begins messages. */
Status study_seal(sqlite3 *sqlite, const char *path);
/* Reads everything in the open study at PATH, whose schema must have been checked: SQLite's
 * integrity_check, and, from schema 7 on, every checksum. Fails with ERR_CORRUPT and names the
 * first bad row. */
Status study_verify(sqlite3 *sqlite, const char *path);

#endif
