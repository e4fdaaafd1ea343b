/* study.db: the plans of a sweep and their results, as rows of SQLite.
 *
 *     study(id, created, tool, name, study, trace, trace_digest, train_first, train_end,
 *           test_first, test_end, hardware, crc)
 *     result(plan_id, name, plan, evict, slots, budget_bytes, scope, replay_order, bound, lookups,
 *            hits, misses, miss_ratio, assignments, assignment_hits, loads, bytes_loaded,
 *            evictions, evicted_newest, memory_bytes, replay_ns, done, predictor, prefetches,
 *            prefetch_hits, prefetch_evicted, bytes_prefetched, compute, host_computed, host_rows,
 *            total_ns, tokens_per_s, exposed_load_ns, peak_bytes, ttft_median_ns, ttft_p99_ns,
 *            tbt_median_ns, tbt_p99_ns, evicted_young, crc)
 *     layer_result(plan_id, layer, lookups, hits, misses, crc)
 *     learnt(plan_id, path, table_id, crc), learnt_table(table_id, text, crc): what plans learnt
 *                                                                   (sim/study_learnt.h)
 *
 * Every plan has its row from the start, with done = 0 and NULL numbers until it was replayed, so
 * that a sweep can be stopped at any moment and continued. plan is the canonical text of the plan
 * and its identity. Numbers that a one-pass curve does not know (evicted_newest,
 * evicted_young, replay_ns, evictions of belady) stay NULL. slots are those of one scope (the most
 * of any, under a byte budget); bound is 1 for policies and predictors that know the future, which
 * no executor can run online. prefetch_evicted were evicted before a lookup found them. Results are
 * of the steps test_first to test_end - 1 of the trace, counted from 0; plans learnt from
 * train_first to train_end - 1 (both NULL: nothing is learnt). hardware names the profile whose
 * times the columns from total_ns on are (sim/plan_time.h); NULL: they are NULL. Studies of schema
 * 1, which had no column of prefetching, of schema 2, which knew no parts, of schema 3, which
 * loaded all misses, of schema 4, which had no times, of schema 5, which had no evicted_young, and
 * of schema 6, which had no checksums, get what they lack when they are continued; test_first and
 * test_end of schema 2 and before stay NULL: all steps. crc is a row's checksum
 * (sim/study_seal.h). */
#ifndef SIM_STUDY_DB_H
#define SIM_STUDY_DB_H

#include <sqlite3.h>

#include "sim/parts.h"
#include "sim/replay.h"
#include "sim/study.h"
#include "sim/study_digest.h"

typedef struct StudyDb StudyDb;

/* What the results of a study.db are of. */
typedef struct {
    TraceDigest digest; /* of the whole trace, and the signals that plans read */
    uint64_t n_steps;
    TraceParts parts;
    char hardware[320]; /* what tells one profile from another; "": no times */
} StudyScored;

/* Opens PATH for writing, or creates it; everything in it is checked first. Fails with ERR_INPUT
 * when it is another kind of file or holds results of another trace, of other parts or with other
 * times, with ERR_CORRUPT when it is damaged, with ERR_SCHEMA when it is newer than this program,
 * with ERR_OUTPUT when it cannot be created. A file that is refused stays as it is. */
Status study_db_open(const char *path, const StudyScored *scored, StudyDb **db);
/* Rolls back what was not committed. A file that study_db_open() created and that never got a
 * result is removed. Accepts NULL; keeps the error record. */
void study_db_close(StudyDb *db);

/* One plan of a study in the database. */
typedef struct {
    int64_t plan_id; /* key of its row */
    size_t plan;     /* index into study->plans */
    bool done;       /* has its result */
} StudyEntry;

/* Enters STUDY and those of its plans that have no row yet, in one transaction. LEARNT[n_plans] are
 * its plans with nothing left to learn. TRACE gives the layers, TRACE_PATH is kept for people.
 * ENTRIES (room for study->n_plans) receives the *N_ENTRIES different plans of STUDY, ascending by
 * key; plans of equal text count once. */
Status study_db_add(StudyDb *db, const Study *study, const Plan *learnt, const PackedTrace *trace,
                    const char *trace_path, StudyEntry *entries, size_t *n_entries);

/* Writes the result of one plan into the open transaction, or begins one. */
Status study_db_result(StudyDb *db, int64_t plan_id, const ReplayResult *result,
                       const TraceLayer *layers);
/* Commits the open transaction when it is 250 ms old, or at once with NOW. */
Status study_db_commit(StudyDb *db, bool now);

#endif
