#include "sim/study_learnt.h"

#include "base/memory.h"

static Status sql_fail(sqlite3 *sqlite, const char *path)
{
    int code = sqlite3_errcode(sqlite) & 0xFF;
    if (code == SQLITE_NOMEM)
        return fail_memory(path, 0);
    return fail(code == SQLITE_CORRUPT ? ERR_CORRUPT : ERR_IO, "%s: %s", path,
                sqlite3_errmsg(sqlite));
}

/* The table's JSON as text, freed with mem_free. */
static Status table_text(const PlanTable *table, char **text)
{
    cJSON *json = cJSON_CreateObject();
    if (json == NULL)
        return fail_memory("study", 0);
    Status status = plan_table_to_json(table, json, "table");
    if (status == OK)
        status = json_print(json->child, false, text);
    cJSON_Delete(json);
    return status;
}

static Status insert_table(sqlite3 *sqlite, const char *path, const char *text)
{
    sqlite3_stmt *statement;
    int code = sqlite3_prepare_v2(
        sqlite, "INSERT INTO learnt_table(text) VALUES(?1) ON CONFLICT(text) DO NOTHING", -1,
        &statement, NULL);
    if (code != SQLITE_OK)
        return sql_fail(sqlite, path);
    sqlite3_bind_text(statement, 1, text, -1, SQLITE_STATIC);
    code = sqlite3_step(statement);
    Status status = code == SQLITE_DONE ? OK : sql_fail(sqlite, path);
    sqlite3_finalize(statement);
    return status;
}

static Status insert_learnt(sqlite3 *sqlite, const char *path, int64_t plan_id, const char *key,
                            const char *text)
{
    sqlite3_stmt *statement;
    int code = sqlite3_prepare_v2(sqlite,
                                  "INSERT OR IGNORE INTO learnt(plan_id, path, table_id)"
                                  " SELECT ?1, ?2, table_id FROM learnt_table WHERE text = ?3",
                                  -1, &statement, NULL);
    if (code != SQLITE_OK)
        return sql_fail(sqlite, path);
    sqlite3_bind_int64(statement, 1, plan_id);
    sqlite3_bind_text(statement, 2, key, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 3, text, -1, SQLITE_STATIC);
    code = sqlite3_step(statement);
    Status status = code == SQLITE_DONE ? OK : sql_fail(sqlite, path);
    sqlite3_finalize(statement);
    return status;
}

Status study_learnt_write(sqlite3 *sqlite, const char *path, int64_t plan_id, const Plan *plan,
                          const Plan *learnt)
{
    Plan before = *plan;
    Plan after = *learnt;
    for (size_t i = 0; i < PLAN_LEARNABLE; i++) {
        const char *key;
        char *text;
        if (plan_learned(&before, i, &key)->choice == 0)
            continue;
        TRY(table_text(plan_learned(&after, i, &key)->table, &text));
        Status status = insert_table(sqlite, path, text);
        if (status == OK)
            status = insert_learnt(sqlite, path, plan_id, key, text);
        mem_free(text);
        TRY(status);
    }
    return OK;
}

/* One row: key and text. */
static Status put_table(const char *path, sqlite3_stmt *row, cJSON *plan)
{
    const char *key = (const char *)sqlite3_column_text(row, 0);
    const char *text = (const char *)sqlite3_column_text(row, 1);
    cJSON *table;
    if (key == NULL || text == NULL)
        return fail(ERR_CORRUPT, "%s: table learnt: a value is missing", path);
    TRY(json_parse(text, (size_t)sqlite3_column_bytes(row, 1), path, &table));
    Status status = plan_json_put(plan, key, table);
    cJSON_Delete(table);
    return status;
}

static bool has_table(sqlite3 *sqlite)
{
    return sqlite3_table_column_metadata(sqlite, NULL, "learnt", "path", NULL, NULL, NULL, NULL,
                                         NULL) == SQLITE_OK;
}

Status study_learnt_read(sqlite3 *sqlite, const char *path, int64_t plan_id, cJSON *plan)
{
    sqlite3_stmt *statement;
    if (!has_table(sqlite))
        return OK;
    int code = sqlite3_prepare_v2(sqlite,
                                  "SELECT path, text FROM learnt JOIN learnt_table USING(table_id)"
                                  " WHERE plan_id = ?1",
                                  -1, &statement, NULL);
    if (code != SQLITE_OK)
        return sql_fail(sqlite, path);
    sqlite3_bind_int64(statement, 1, plan_id);
    Status status = OK;
    while (status == OK && (code = sqlite3_step(statement)) == SQLITE_ROW)
        status = put_table(path, statement, plan);
    if (status == OK && code != SQLITE_DONE)
        status = sql_fail(sqlite, path);
    sqlite3_finalize(statement);
    return status;
}
