#include "sim/study_seal.h"

#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "sim/study_schema.h"
#include "traces/rowcrc.h"

/* A table, SQL that names a row of it for people, and its columns before crc. */
typedef struct {
    const char *name;
    const char *key;
    const char *columns;
} SealedTable;

static const SealedTable SEALED[] = {
    {"study", "id",
     "id, created, tool, name, study, trace, trace_digest, train_first, train_end, test_first,"
     " test_end, hardware"},
    {"result", "plan_id", STUDY_RESULT_COLUMNS},
    {"layer_result", "plan_id || ', layer ' || layer", "plan_id, layer, lookups, hits, misses"},
    {"learnt_table", "table_id", "table_id, text"},
    {"learnt", "plan_id || ', ' || path", "plan_id, path, table_id"},
};
enum { N_SEALED = sizeof SEALED / sizeof SEALED[0] };

/* False when SQLite had no memory. */
static bool add_value(uint32_t *crc, sqlite3_value *value)
{
    int type = sqlite3_value_type(value);
    if (type == SQLITE_NULL) {
        *crc = rowcrc_null(*crc);
    } else if (type == SQLITE_INTEGER) {
        *crc = rowcrc_integer(*crc, sqlite3_value_int64(value));
    } else if (type == SQLITE_FLOAT) {
        *crc = rowcrc_real(*crc, sqlite3_value_double(value));
    } else {
        const void *data =
            type == SQLITE_TEXT ? sqlite3_value_text(value) : sqlite3_value_blob(value);
        size_t bytes = (size_t)sqlite3_value_bytes(value);
        if (data == NULL && (bytes > 0 || type == SQLITE_TEXT))
            return false;
        *crc =
            type == SQLITE_TEXT ? rowcrc_text(*crc, data, bytes) : rowcrc_blob(*crc, data, bytes);
    }
    return true;
}

static void row_crc(sqlite3_context *context, int n, sqlite3_value **values)
{
    uint32_t crc = 0;
    for (int i = 0; i < n; i++) {
        if (!add_value(&crc, values[i])) {
            sqlite3_result_error_nomem(context);
            return;
        }
    }
    sqlite3_result_int64(context, crc);
}

int study_seal_function(sqlite3 *sqlite)
{
    return sqlite3_create_function(sqlite, "row_crc", -1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL,
                                   row_crc, NULL, NULL);
}

/* What a study that was written by this program cannot give: ERR_CORRUPT, but for lack of memory
 * and what the disk says. */
static Status damaged(sqlite3 *sqlite, const char *path, const char *place, int code)
{
    int kind = code & 0xFF;
    if (kind == SQLITE_NOMEM)
        return fail_memory(path, 0);
    if (kind == SQLITE_IOERR || kind == SQLITE_FULL || kind == SQLITE_BUSY)
        return fail(ERR_IO, "%s: %s", path, sqlite3_errmsg(sqlite));
    return fail(ERR_CORRUPT, "%s: %s: %s", path, place, sqlite3_errmsg(sqlite));
}

Status study_seal(sqlite3 *sqlite, const char *path)
{
    for (size_t i = 0; i < N_SEALED; i++) {
        char *sql = sqlite3_mprintf("UPDATE %s SET crc = row_crc(%s) WHERE crc IS NULL",
                                    SEALED[i].name, SEALED[i].columns);
        if (sql == NULL)
            return fail_memory(path, 0);
        int code = sqlite3_exec(sqlite, sql, NULL, NULL, NULL);
        sqlite3_free(sql);
        if (code != SQLITE_OK)
            return damaged(sqlite, path, SEALED[i].name, code);
    }
    return OK;
}

static Status check_integrity(sqlite3 *sqlite, const char *path)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(sqlite, "PRAGMA integrity_check(1)", -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    const char *line =
        code == SQLITE_ROW ? (const char *)sqlite3_column_text(statement, 0) : "no answer";
    Status status = OK;
    if (code != SQLITE_ROW)
        status = damaged(sqlite, path, "integrity_check", code);
    else if (line == NULL)
        status = fail_memory(path, 0);
    else if (strcmp(line, "ok") != 0)
        status =
            fail(ERR_CORRUPT, "%s: integrity_check: %.*s", path, (int)strcspn(line, "\n"), line);
    sqlite3_finalize(statement);
    return status;
}

static Status check_table(sqlite3 *sqlite, const char *path, const SealedTable *table)
{
    sqlite3_stmt *statement = NULL;
    char *sql =
        sqlite3_mprintf("SELECT %s FROM %s NOT INDEXED WHERE crc IS NOT row_crc(%s) LIMIT 1",
                        table->key, table->name, table->columns);
    if (sql == NULL)
        return fail_memory(path, 0);
    int code = sqlite3_prepare_v2(sqlite, sql, -1, &statement, NULL);
    sqlite3_free(sql);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    Status status = OK;
    if (code == SQLITE_ROW) {
        const char *key = (const char *)sqlite3_column_text(statement, 0);
        status = fail(ERR_CORRUPT, "%s: %s %s: crc does not match", path, table->name,
                      key != NULL ? key : "?");
    } else if (code != SQLITE_DONE) {
        status = damaged(sqlite, path, table->name, code);
    }
    sqlite3_finalize(statement);
    return status;
}

Status study_verify(sqlite3 *sqlite, const char *path)
{
    int64_t version = 0;
    TRY(study_schema_version(sqlite, path, &version));
    TRY(check_integrity(sqlite, path));
    for (size_t i = 0; i < N_SEALED && version >= STUDY_SEALED_SCHEMA; i++)
        TRY(check_table(sqlite, path, &SEALED[i]));
    return OK;
}
