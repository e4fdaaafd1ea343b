#include "sim/study_db_state.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/files.h"
#include "base/memory.h"
#include "policies/placement.h"
#include "sim/study_learnt.h"
#include "sim/study_schema.h"
#include "sim/study_seal.h"
#include "traces/sqlite_path.h"

#define COMMIT_NS 250000000u

Status study_db_fail(const StudyDb *db, int code)
{
    int kind = code & 0xFF;
    if (kind == SQLITE_NOMEM)
        return fail_memory(db->path, 0);
    if (kind == SQLITE_NOTADB)
        return fail(ERR_INPUT, "%s: not a Moebius study", db->path);
    if (kind == SQLITE_CORRUPT)
        return fail(ERR_CORRUPT, "%s: %s", db->path, sqlite3_errmsg(db->sqlite));
    if (kind == SQLITE_CANTOPEN || kind == SQLITE_READONLY || kind == SQLITE_PERM)
        return fail(ERR_OUTPUT, "%s: cannot write: %s", db->path, sqlite3_errmsg(db->sqlite));
    if (kind == SQLITE_BUSY || kind == SQLITE_LOCKED)
        return fail(ERR_IO, "%s: another program is writing it", db->path);
    return fail(ERR_IO, "%s: %s", db->path, sqlite3_errmsg(db->sqlite));
}

static Status execute(StudyDb *db, const char *sql)
{
    DB_TRY(db, sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL));
    return OK;
}

Status study_db_prepare(StudyDb *db, const char *sql, sqlite3_stmt **statement)
{
    DB_TRY(db, sqlite3_prepare_v2(db->sqlite, sql, -1, statement, NULL));
    return OK;
}

/* Runs a bound statement that gives no rows, and makes it ready for the next time. */
static Status run(StudyDb *db, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    if (code != SQLITE_DONE) {
        Status status = study_db_fail(db, code);
        sqlite3_reset(statement);
        return status;
    }
    DB_TRY(db, sqlite3_reset(statement));
    return OK;
}

static Status prepare_all(StudyDb *db)
{
    TRY(study_db_prepare(
        db,
        "INSERT INTO result(name, plan, evict, slots, budget_bytes, scope, replay_order,"
        " bound, predictor, compute, done) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0)"
        " ON CONFLICT(plan) DO NOTHING",
        &db->insert_plan));
    TRY(study_db_prepare(db, "SELECT plan_id, done FROM result WHERE plan = ?1", &db->find_plan));
    TRY(study_db_prepare(
        db,
        "UPDATE result SET lookups = ?2, hits = ?3, misses = ?4, miss_ratio = ?5,"
        " assignments = ?6, assignment_hits = ?7, loads = ?8, bytes_loaded = ?9,"
        " evictions = ?10, evicted_newest = ?11, memory_bytes = ?12, replay_ns = ?13,"
        " prefetches = ?14, prefetch_hits = ?15, prefetch_evicted = ?16,"
        " bytes_prefetched = ?17, host_computed = ?18, host_rows = ?19, total_ns = ?20,"
        " exposed_load_ns = ?21, peak_bytes = ?22, ttft_median_ns = ?23, ttft_p99_ns = ?24,"
        " tbt_median_ns = ?25, tbt_p99_ns = ?26, tokens_per_s = ?27, evicted_young = ?28, done = 1"
        " WHERE plan_id = ?1",
        &db->update));
    TRY(study_db_prepare(
        db, "UPDATE result SET crc = row_crc(" STUDY_RESULT_COLUMNS ") WHERE plan_id = ?1",
        &db->seal));
    return study_db_prepare(
        db,
        "INSERT OR REPLACE INTO layer_result(plan_id, layer, lookups, hits, misses, crc)"
        " VALUES(?1, ?2, ?3, ?4, ?5, row_crc(?1, ?2, ?3, ?4, ?5))",
        &db->insert_layer);
}

static Status begin(StudyDb *db)
{
    if (db->in_transaction)
        return OK;
    TRY(execute(db, "BEGIN IMMEDIATE"));
    db->in_transaction = true;
    db->begun_ns = clock_ns();
    return OK;
}

static Status commit(StudyDb *db)
{
    TRY(execute(db, "COMMIT"));
    db->in_transaction = false;
    db->has_result = db->has_result || db->dirty;
    db->dirty = false;
    return OK;
}

/* Finds out whether the file is new. One without pages counts as new: it was just made, or a killed
 * sweep had not committed anything. */
static Status look_at_file(StudyDb *db)
{
    sqlite3_stmt *statement;
    TRY(study_db_prepare(db, "PRAGMA page_count", &statement));
    int code = sqlite3_step(statement);
    bool empty = code == SQLITE_ROW && sqlite3_column_int64(statement, 0) == 0;
    sqlite3_finalize(statement);
    if (code != SQLITE_ROW)
        return study_db_fail(db, code);
    db->created = db->created || empty;
    return OK;
}

static Status upgrade(StudyDb *db)
{
    TRY(begin(db));
    TRY(study_schema_upgrade(db->sqlite, db->path));
    return commit(db);
}

/* The schema of a new file stays in the transaction that study_db_add() commits. */
static Status open_sqlite(StudyDb *db)
{
    const int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    int code = sqlite3_open_v2(db->name, &db->sqlite, flags, NULL);
    if ((code & 0xFF) == SQLITE_CANTOPEN)
        return fail(ERR_OUTPUT, "%s: cannot open for writing: %s", db->path,
                    sqlite3_errmsg(db->sqlite));
    DB_TRY(db, code);
    DB_TRY(db, sqlite3_busy_timeout(db->sqlite, 5000));
    TRY(execute(db, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON"));
    DB_TRY(db, study_seal_function(db->sqlite));
    TRY(look_at_file(db));
    if (db->created) {
        TRY(begin(db));
        TRY(study_schema_create(db->sqlite, db->path));
    } else {
        TRY(study_schema_check(db->sqlite, db->path));
        TRY(study_verify(db->sqlite, db->path));
        DB_TRY(db, sqlite3_create_function(db->sqlite, "agrees", 2, SQLITE_UTF8, NULL,
                                           study_db_digests_agree, NULL, NULL));
        TRY(study_db_check_scored(db));
        TRY(upgrade(db));
    }
    return prepare_all(db);
}

Status study_db_open(const char *path, const StudyScored *scored, StudyDb **out)
{
    StudyDb *db;
    TRY(mem_new(&db, 1, sizeof *db, "study"));
    Status status = sqlite_path_name(path, ERR_OUTPUT, &db->name);
    if (status == OK) {
        db->path = db->name + strlen(db->name) - strlen(path);
        db->scored = *scored;
        db->created = !file_exists(path);
        if (!db->created)
            status = file_check_readable(path);
        if (status == OK)
            status = open_sqlite(db);
    }
    if (status != OK)
        study_db_close(db);
    else
        *out = db;
    return status;
}

void study_db_close(StudyDb *db)
{
    if (db == NULL)
        return;
    sqlite3_finalize(db->insert_plan);
    sqlite3_finalize(db->find_plan);
    sqlite3_finalize(db->update);
    sqlite3_finalize(db->seal);
    sqlite3_finalize(db->insert_layer);
    sqlite3_close(db->sqlite); /* rolls back */
    if (db->created && !db->has_result)
        unlink(db->path);
    mem_free(db->name);
    mem_free(db);
}

static Status add_study(StudyDb *db, const Study *study, const char *trace_path)
{
    const TraceParts *parts = &db->scored.parts;
    sqlite3_stmt *statement;
    char created[21];
    clock_wall_text(created);
    TRY(study_db_prepare(
        db,
        "INSERT INTO study(created, tool, name, study, trace, trace_digest, train_first,"
        " train_end, test_first, test_end, hardware)"
        " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 WHERE NOT EXISTS"
        " (SELECT 1 FROM study WHERE study = ?4)",
        &statement));
    sqlite3_bind_text(statement, 1, created, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, "moebius " MOEBIUS_VERSION, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 3, study->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 4, study->text, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 5, trace_path, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 6, db->scored.digest.text, -1, SQLITE_STATIC);
    study_db_bind_steps(statement, 7, parts->trains, &parts->train);
    study_db_bind_steps(statement, 9, true, &parts->test);
    study_db_bind_hardware(statement, 11, &db->scored);
    Status status = run(db, statement);
    sqlite3_finalize(statement);
    return status;
}

static Status most_slots(const Plan *plan, const PackedTrace *trace, uint32_t *slots,
                         uint32_t *most)
{
    Status status = plan_slots(plan, trace->layers, trace->n_layers, slots);
    TRY(fail_in(status, "plan \"%s\"", plan->name));
    uint32_t scopes = plan->buffer.scope == SCOPE_LAYER ? trace->n_layers : 1;
    *most = 0;
    for (uint32_t i = 0; i < scopes; i++)
        *most = slots[i] > *most ? slots[i] : *most;
    return OK;
}

static Status insert_plan(StudyDb *db, const Plan *plan, const char *text, uint32_t slots)
{
    bool on = plan->buffer.on;
    sqlite3_stmt *statement = db->insert_plan;
    sqlite3_bind_text(statement, 1, plan->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, text, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 3, on ? plan->buffer.evict : "none", -1, SQLITE_STATIC);
    sqlite3_bind_int64(statement, 4, slots);
    if (plan->buffer.bytes > 0)
        sqlite3_bind_int64(statement, 5, (int64_t)plan->buffer.bytes);
    else
        sqlite3_bind_null(statement, 5);
    sqlite3_bind_text(statement, 6, plan_scope_name(plan->buffer.scope), -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 7, plan_order_name(plan->buffer.order), -1, SQLITE_STATIC);
    sqlite3_bind_int(statement, 8, plan_needs_future(plan));
    sqlite3_bind_text(statement, 9, plan->prefetch.predictor, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 10, plan_compute_name(plan->compute.mode), -1, SQLITE_STATIC);
    return run(db, statement);
}

static Status find_plan(StudyDb *db, const char *text, StudyEntry *entry)
{
    sqlite3_bind_text(db->find_plan, 1, text, -1, SQLITE_STATIC);
    int code = sqlite3_step(db->find_plan);
    Status status = OK;
    if (code == SQLITE_ROW) {
        entry->plan_id = sqlite3_column_int64(db->find_plan, 0);
        entry->done = sqlite3_column_int(db->find_plan, 1) != 0;
    } else {
        status = study_db_fail(db, code);
    }
    sqlite3_reset(db->find_plan);
    return status;
}

/* SLOTS[n_layers] is scratch. */
static Status add_plan(StudyDb *db, const PackedTrace *trace, const Plan *plan, const Plan *learnt,
                       uint32_t *slots, StudyEntry *entry)
{
    uint32_t most;
    char *text;
    TRY(most_slots(learnt, trace, slots, &most));
    TRY(plan_to_text(plan, &text));
    Status status = insert_plan(db, plan, text, most);
    if (status == OK)
        status = find_plan(db, text, entry);
    mem_free(text);
    return status == OK ? study_learnt_write(db->sqlite, db->path, entry->plan_id, plan, learnt)
                        : status;
}

static int compare_entries(const void *left, const void *right)
{
    const StudyEntry *a = left;
    const StudyEntry *b = right;
    if (a->plan_id != b->plan_id)
        return a->plan_id < b->plan_id ? -1 : 1;
    return (a->plan > b->plan) - (a->plan < b->plan);
}

static size_t sort_and_unite(StudyEntry *entries, size_t count)
{
    size_t kept = 0;
    qsort(entries, count, sizeof *entries, compare_entries);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || entries[kept - 1].plan_id != entries[i].plan_id)
            entries[kept++] = entries[i];
    return kept;
}

Status study_db_add(StudyDb *db, const Study *study, const Plan *learnt, const PackedTrace *trace,
                    const char *trace_path, StudyEntry *entries, size_t *n_entries)
{
    uint32_t *slots;
    TRY(mem_new(&slots, trace->n_layers, sizeof *slots, "study"));
    Status status = begin(db);
    if (status == OK)
        status = add_study(db, study, trace_path);
    for (size_t i = 0; i < study->n_plans && status == OK; i++) {
        entries[i].plan = i;
        status = add_plan(db, trace, &study->plans[i], &learnt[i], slots, &entries[i]);
    }
    if (status == OK)
        status = study_seal(db->sqlite, db->path);
    if (status == OK)
        status = commit(db);
    mem_free(slots);
    if (status == OK)
        *n_entries = sort_and_unite(entries, study->n_plans);
    return status;
}

static Status write_layer(StudyDb *db, int64_t plan_id, uint32_t layer, const ReplayLayer *counts)
{
    sqlite3_stmt *statement = db->insert_layer;
    sqlite3_bind_int64(statement, 1, plan_id);
    sqlite3_bind_int64(statement, 2, layer);
    sqlite3_bind_int64(statement, 3, (int64_t)(counts->counts.hits + counts->counts.misses));
    sqlite3_bind_int64(statement, 4, (int64_t)counts->counts.hits);
    sqlite3_bind_int64(statement, 5, (int64_t)counts->counts.misses);
    return run(db, statement);
}

static uint64_t known(bool is, uint64_t value)
{
    return is ? value : REPLAY_UNKNOWN;
}

static Status write_total(StudyDb *db, int64_t plan_id, const ReplayResult *result)
{
    const BufferCounts *counts = &result->total.counts;
    const PlanTime *time = &result->time;
    uint64_t lookups = counts->hits + counts->misses;
    const uint64_t values[] = {lookups,
                               counts->hits,
                               counts->misses,
                               0,
                               result->total.assignments,
                               result->total.assignment_hits,
                               counts->loads,
                               counts->bytes_loaded,
                               counts->evictions,
                               counts->evicted_newest,
                               result->memory_bytes,
                               result->replay_ns,
                               counts->prefetches,
                               counts->prefetch_hits,
                               counts->prefetch_evicted,
                               counts->bytes_prefetched,
                               counts->host_computed,
                               counts->host_rows,
                               known(time->known, time->total_ns),
                               known(time->known, time->exposed_load_ns),
                               known(time->known, time->peak_bytes),
                               known(time->served, time->ttft_median_ns),
                               known(time->served, time->ttft_p99_ns),
                               known(time->served, time->tbt_median_ns),
                               known(time->served, time->tbt_p99_ns)};
    sqlite3_stmt *statement = db->update;
    sqlite3_bind_int64(statement, 1, plan_id);
    for (int i = 0; i < (int)(sizeof values / sizeof values[0]); i++)
        if (values[i] == REPLAY_UNKNOWN)
            sqlite3_bind_null(statement, i + 2);
        else
            sqlite3_bind_int64(statement, i + 2, (int64_t)values[i]);
    sqlite3_bind_null(statement, 27);
    sqlite3_bind_null(statement, 28);
    if (counts->evicted_young != REPLAY_UNKNOWN)
        sqlite3_bind_int64(statement, 28, (int64_t)counts->evicted_young);
    if (time->known)
        sqlite3_bind_double(statement, 27, time->tokens_per_s);
    sqlite3_bind_double(statement, 5, lookups > 0 ? (double)counts->misses / (double)lookups : 0.0);
    TRY(run(db, statement));
    sqlite3_bind_int64(db->seal, 1, plan_id);
    return run(db, db->seal);
}

Status study_db_result(StudyDb *db, int64_t plan_id, const ReplayResult *result,
                       const TraceLayer *layers)
{
    TRY(begin(db));
    TRY(write_total(db, plan_id, result));
    for (uint32_t i = 0; i < result->n_layers; i++)
        TRY(write_layer(db, plan_id, layers[i].layer, &result->layers[i]));
    db->dirty = true;
    return OK;
}

Status study_db_commit(StudyDb *db, bool now)
{
    if (!db->in_transaction || (!now && clock_ns() - db->begun_ns < COMMIT_NS))
        return OK;
    return commit(db);
}
