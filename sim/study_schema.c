#include "sim/study_schema.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "policies/plan.h"
#include "sim/study_learnt.h"
#include "sim/study_seal.h"

static const char TABLES[] =
    "PRAGMA application_id = 1299141444;" /* STUDY_APPLICATION_ID */
    "PRAGMA user_version = 7;"
    "CREATE TABLE study(id INTEGER PRIMARY KEY, created TEXT NOT NULL, tool TEXT NOT NULL,"
    " name TEXT NOT NULL, study TEXT NOT NULL, trace TEXT NOT NULL, trace_digest TEXT NOT NULL,"
    " train_first INTEGER, train_end INTEGER, test_first INTEGER, test_end INTEGER,"
    " hardware TEXT, crc INTEGER);"
    "CREATE TABLE result(plan_id INTEGER PRIMARY KEY, name TEXT NOT NULL,"
    " plan TEXT NOT NULL UNIQUE, evict TEXT NOT NULL, slots INTEGER NOT NULL,"
    " budget_bytes INTEGER, scope TEXT NOT NULL, replay_order TEXT NOT NULL,"
    " bound INTEGER NOT NULL, lookups INTEGER, hits INTEGER, misses INTEGER, miss_ratio REAL,"
    " assignments INTEGER, assignment_hits INTEGER, loads INTEGER, bytes_loaded INTEGER,"
    " evictions INTEGER, evicted_newest INTEGER, memory_bytes INTEGER, replay_ns INTEGER,"
    " done INTEGER NOT NULL DEFAULT 0, predictor TEXT NOT NULL DEFAULT 'none',"
    " prefetches INTEGER, prefetch_hits INTEGER, prefetch_evicted INTEGER,"
    " bytes_prefetched INTEGER, compute TEXT NOT NULL DEFAULT 'gpu', host_computed INTEGER,"
    " host_rows INTEGER, total_ns INTEGER, tokens_per_s REAL, exposed_load_ns INTEGER,"
    " peak_bytes INTEGER, ttft_median_ns INTEGER, ttft_p99_ns INTEGER, tbt_median_ns INTEGER,"
    " tbt_p99_ns INTEGER, evicted_young INTEGER, crc INTEGER);"
    "CREATE TABLE layer_result(plan_id INTEGER NOT NULL, layer INTEGER NOT NULL,"
    " lookups INTEGER NOT NULL, hits INTEGER NOT NULL, misses INTEGER NOT NULL, crc INTEGER,"
    " PRIMARY KEY(plan_id, layer)) WITHOUT ROWID;" STUDY_LEARNT_SCHEMA(", crc INTEGER");

_Static_assert(STUDY_APPLICATION_ID == 1299141444 && STUDY_SCHEMA == 7, "as in TABLES");

/* From version I + 1 to the next. */
static const char *const UPGRADES[STUDY_SCHEMA - 1] = {
    "ALTER TABLE result ADD COLUMN predictor TEXT NOT NULL DEFAULT 'none';"
    "ALTER TABLE result ADD COLUMN prefetches INTEGER;"
    "ALTER TABLE result ADD COLUMN prefetch_hits INTEGER;"
    "ALTER TABLE result ADD COLUMN prefetch_evicted INTEGER;"
    "ALTER TABLE result ADD COLUMN bytes_prefetched INTEGER;",
    "ALTER TABLE study ADD COLUMN train_first INTEGER;"
    "ALTER TABLE study ADD COLUMN train_end INTEGER;"
    "ALTER TABLE study ADD COLUMN test_first INTEGER;"
    "ALTER TABLE study ADD COLUMN test_end INTEGER;" STUDY_LEARNT_SCHEMA(""),
    "ALTER TABLE result ADD COLUMN compute TEXT NOT NULL DEFAULT 'gpu';"
    "ALTER TABLE result ADD COLUMN host_computed INTEGER;"
    "ALTER TABLE result ADD COLUMN host_rows INTEGER;",
    "ALTER TABLE study ADD COLUMN hardware TEXT;"
    "ALTER TABLE result ADD COLUMN total_ns INTEGER;"
    "ALTER TABLE result ADD COLUMN tokens_per_s REAL;"
    "ALTER TABLE result ADD COLUMN exposed_load_ns INTEGER;"
    "ALTER TABLE result ADD COLUMN peak_bytes INTEGER;"
    "ALTER TABLE result ADD COLUMN ttft_median_ns INTEGER;"
    "ALTER TABLE result ADD COLUMN ttft_p99_ns INTEGER;"
    "ALTER TABLE result ADD COLUMN tbt_median_ns INTEGER;"
    "ALTER TABLE result ADD COLUMN tbt_p99_ns INTEGER;",
    "ALTER TABLE result ADD COLUMN evicted_young INTEGER;",
    "ALTER TABLE study ADD COLUMN crc INTEGER; ALTER TABLE result ADD COLUMN crc INTEGER;"
    "ALTER TABLE layer_result ADD COLUMN crc INTEGER; ALTER TABLE learnt ADD COLUMN crc INTEGER;"
    "ALTER TABLE learnt_table ADD COLUMN crc INTEGER;"};

static Status sql_fail(sqlite3 *sqlite, const char *path, int code)
{
    if ((code & 0xFF) == SQLITE_NOMEM)
        return fail_memory(path, 0);
    return fail((code & 0xFF) == SQLITE_CORRUPT ? ERR_CORRUPT : ERR_IO, "%s: %s", path,
                sqlite3_errmsg(sqlite));
}

static Status execute(sqlite3 *sqlite, const char *path, const char *sql)
{
    int code = sqlite3_exec(sqlite, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? OK : sql_fail(sqlite, path, code);
}

static int pragma_number(sqlite3 *sqlite, const char *sql, int64_t *value)
{
    sqlite3_stmt *statement;
    int code = sqlite3_prepare_v2(sqlite, sql, -1, &statement, NULL);
    if (code != SQLITE_OK)
        return code;
    code = sqlite3_step(statement);
    *value = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
    sqlite3_finalize(statement);
    return code == SQLITE_ROW ? SQLITE_OK : code;
}

Status study_schema_version(sqlite3 *sqlite, const char *path, int64_t *version)
{
    int code = pragma_number(sqlite, "PRAGMA user_version", version);
    return code == SQLITE_OK ? OK : sql_fail(sqlite, path, code);
}

Status study_schema_create(sqlite3 *sqlite, const char *path)
{
    return execute(sqlite, path, TABLES);
}

Status study_schema_check(sqlite3 *sqlite, const char *path)
{
    int64_t id = 0;
    int64_t version = 0;
    int code = pragma_number(sqlite, "PRAGMA application_id", &id);
    if (code == SQLITE_OK)
        code = pragma_number(sqlite, "PRAGMA user_version", &version);
    if (code == SQLITE_NOMEM)
        return fail_memory(path, 0);
    if (code != SQLITE_OK && (code & 0xFF) != SQLITE_NOTADB)
        return fail(ERR_INPUT, "%s: cannot read: %s", path, sqlite3_errmsg(sqlite));
    if (code != SQLITE_OK || id != STUDY_APPLICATION_ID)
        return fail(ERR_INPUT, "%s: not a Moebius study", path);
    if (version > STUDY_SCHEMA)
        return fail(ERR_SCHEMA, "%s: study schema %lld, this program knows %d", path,
                    (long long)version, STUDY_SCHEMA);
    if (version < 1)
        return fail(ERR_CORRUPT, "%s: study schema %lld", path, (long long)version);
    if (version < STUDY_SEALED_SCHEMA &&
        sqlite3_table_column_metadata(sqlite, NULL, "result", "crc", NULL, NULL, NULL, NULL,
                                      NULL) == SQLITE_OK)
        return fail(ERR_CORRUPT, "%s: study schema %lld, but rows have checksums", path,
                    (long long)version);
    return OK;
}

/* The canonical text of the plan TEXT, freed with mem_free. */
static Status canonical(const char *text, const char *place, char **now)
{
    cJSON *json;
    Plan plan;
    TRY(json_parse(text, strlen(text), place, &json));
    Status status = plan_from_json(json, place, &plan);
    cJSON_Delete(json);
    TRY(status);
    status = plan_to_text(&plan, now);
    plan_free(&plan);
    return status;
}

/* Of the row that READ stands at. */
static Status rewrite_plan(sqlite3 *sqlite, const char *path, sqlite3_stmt *read,
                           sqlite3_stmt *write)
{
    char place[512];
    char *now;
    int64_t plan_id = sqlite3_column_int64(read, 0);
    const char *text = (const char *)sqlite3_column_text(read, 1);
    snprintf(place, sizeof place, "%s: result %lld", path, (long long)plan_id);
    TRY(canonical(text != NULL ? text : "", place, &now));
    sqlite3_bind_int64(write, 1, plan_id);
    sqlite3_bind_text(write, 2, now, -1, SQLITE_STATIC);
    int code = sqlite3_step(write);
    Status status = code == SQLITE_DONE ? OK : sql_fail(sqlite, path, code);
    sqlite3_reset(write);
    mem_free(now);
    return status;
}

/* A plan is found by its text, in which every key stands: later versions have more of them. */
static Status rewrite_plans(sqlite3 *sqlite, const char *path)
{
    sqlite3_stmt *read = NULL;
    sqlite3_stmt *write = NULL;
    int code = sqlite3_prepare_v2(
        sqlite, "SELECT plan_id, plan FROM result NOT INDEXED ORDER BY plan_id", -1, &read, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_prepare_v2(sqlite, "UPDATE result SET plan = ?2 WHERE plan_id = ?1", -1,
                                  &write, NULL);
    Status status = code == SQLITE_OK ? OK : sql_fail(sqlite, path, code);
    while (status == OK && (code = sqlite3_step(read)) == SQLITE_ROW)
        status = rewrite_plan(sqlite, path, read, write);
    if (status == OK && code != SQLITE_DONE)
        status = sql_fail(sqlite, path, code);
    sqlite3_finalize(read);
    sqlite3_finalize(write);
    return status;
}

Status study_schema_upgrade(sqlite3 *sqlite, const char *path)
{
    char sql[40];
    int64_t version = 0;
    TRY(study_schema_version(sqlite, path, &version));
    if (version == STUDY_SCHEMA)
        return OK;
    for (; version < STUDY_SCHEMA; version++)
        TRY(execute(sqlite, path, UPGRADES[version - 1]));
    TRY(rewrite_plans(sqlite, path));
    TRY(study_seal(sqlite, path));
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", STUDY_SCHEMA);
    return execute(sqlite, path, sql);
}
