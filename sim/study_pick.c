#include "sim/study_pick.h"

#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "sim/study_db.h"
#include "sim/study_learnt.h"

static const char COLUMNS[] = "plan_id, plan, lookups, hits, misses, loads, bytes_loaded,"
                              " memory_bytes, count(*) OVER ()";

/* Lets a statement read the table result and compute, and nothing else: no other table, no write,
 * no pragma, no attached file, no recursion. */
static int authorize(void *argument, int action, const char *first, const char *second,
                     const char *database, const char *trigger)
{
    (void)argument;
    (void)second;
    (void)database;
    (void)trigger;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_FUNCTION:
        return SQLITE_OK;
    case SQLITE_READ:
        return strcmp(first, "result") == 0 ? SQLITE_OK : SQLITE_DENY;
    default:
        return SQLITE_DENY;
    }
}

static Status sql_fail(sqlite3 *sqlite, const char *path, int code)
{
    if ((code & 0xFF) == SQLITE_NOMEM)
        return fail_memory(path, 0);
    Status status = (code & 0xFF) == SQLITE_CORRUPT ? ERR_CORRUPT : ERR_INPUT;
    return fail(status, "%s: %s", path, sqlite3_errmsg(sqlite));
}

/* A sweep that was killed leaves a journal that only a writer may roll back. Whatever goes wrong
 * here is found again when the file is read. */
static void roll_back_journal(const char *path)
{
    sqlite3 *sqlite = NULL;
    char *journal = sqlite3_mprintf("%s-journal", path);
    if (journal != NULL && file_exists(journal) && file_exists(path) &&
        sqlite3_open_v2(path, &sqlite, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK)
        sqlite3_exec(sqlite, "PRAGMA schema_version", NULL, NULL, NULL);
    sqlite3_close(sqlite);
    sqlite3_free(journal);
}

static Status open_read_only(const char *path, sqlite3 **sqlite)
{
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    if (path[0] == ':')
        return fail(ERR_INPUT, "%s: not a file name", path); /* SQLite's ":memory:" */
    TRY(file_check_readable(path));
    roll_back_journal(path);
    int code = sqlite3_open_v2(path, sqlite, flags, NULL);
    if ((code & 0xFF) == SQLITE_NOMEM)
        return fail_memory(path, 0);
    if (code != SQLITE_OK)
        return fail(ERR_INPUT, "%s: cannot open: %s", path, sqlite3_errmsg(*sqlite));
    sqlite3_busy_timeout(*sqlite, 5000);
    TRY(study_db_check(*sqlite, path));
    code = sqlite3_exec(*sqlite, "PRAGMA trusted_schema = OFF; PRAGMA query_only = ON", NULL, NULL,
                        NULL);
    if (code != SQLITE_OK)
        return sql_fail(*sqlite, path, code);
    sqlite3_set_authorizer(*sqlite, authorize, NULL);
    return OK;
}

static bool is_blank(const char *text)
{
    return text[strspn(text, " \t\r\n;")] == '\0';
}

/* The expression must stand by itself before it is put between parentheses, so that it can neither
 * close them nor bring a second statement or a second column. */
static Status check_expression(sqlite3 *sqlite, const char *where)
{
    sqlite3_stmt *statement = NULL;
    const char *tail = "";
    char *sql = sqlite3_mprintf("SELECT\n%s\nFROM result", where);
    if (sql == NULL)
        return fail_memory("--where", 0);
    int code = sqlite3_prepare_v2(sqlite, sql, -1, &statement, &tail);
    Status status = OK;
    if (code == SQLITE_NOMEM)
        status = fail_memory("--where", 0);
    else if (code != SQLITE_OK)
        status = fail(ERR_INPUT, "--where: %s", sqlite3_errmsg(sqlite));
    else if (statement == NULL || !is_blank(tail) || sqlite3_column_count(statement) != 1)
        status = fail(ERR_INPUT, "--where: not one SQL expression");
    sqlite3_finalize(statement);
    sqlite3_free(sql);
    return status;
}

/* What crosses the link: demand loads and prefetches. A study of schema 1 knows no prefetches. */
static const char *link_bytes(sqlite3 *sqlite)
{
    int code = sqlite3_table_column_metadata(sqlite, NULL, "result", "bytes_prefetched", NULL, NULL,
                                             NULL, NULL, NULL);
    return code == SQLITE_OK ? "bytes_loaded + ifnull(bytes_prefetched, 0)" : "bytes_loaded";
}

static char *pick_query(sqlite3 *sqlite, const char *where, PickBest best)
{
    const char *bytes = link_bytes(sqlite);
    bool memory = best == PICK_MEMORY;
    return sqlite3_mprintf("SELECT %s FROM result WHERE done = 1 AND (bound = 0 OR ?1)"
                           " AND miss_ratio <= ?2 AND (\n%s\n)"
                           " ORDER BY %s, %s, %s, plan_id LIMIT 1",
                           COLUMNS, where, memory ? "memory_bytes" : bytes,
                           memory ? bytes : "misses", memory ? "misses" : "memory_bytes");
}

static Status prepare_pick(sqlite3 *sqlite, const PickOptions *options, sqlite3_stmt **statement)
{
    const char *where = options->where != NULL ? options->where : "1";
    const char *tail = "";
    TRY(check_expression(sqlite, where));
    char *sql = pick_query(sqlite, where, options->best);
    if (sql == NULL)
        return fail_memory("--where", 0);
    int code = sqlite3_prepare_v2(sqlite, sql, -1, statement, &tail);
    Status status = OK;
    if (code == SQLITE_NOMEM)
        status = fail_memory("--where", 0);
    else if (code != SQLITE_OK || !is_blank(tail))
        status = fail(ERR_INPUT, "--where: %s",
                      code != SQLITE_OK ? sqlite3_errmsg(sqlite) : "not one SQL expression");
    sqlite3_free(sql);
    if (status == OK) {
        sqlite3_bind_int(*statement, 1, options->with_bounds);
        sqlite3_bind_double(*statement, 2, options->misses_at_most);
    }
    return status;
}

/* The plan as it was asked for; *JSON is freed with cJSON_Delete. */
static Status read_plan(sqlite3_stmt *statement, const char *path, Pick *pick, cJSON **json)
{
    char place[512];
    pick->plan_id = sqlite3_column_int64(statement, 0);
    const char *text = (const char *)sqlite3_column_text(statement, 1);
    if (text == NULL)
        return fail(ERR_CORRUPT, "%s: result %lld: no plan", path, (long long)pick->plan_id);
    snprintf(place, sizeof place, "%s: result %lld", path, (long long)pick->plan_id);
    return json_parse(text, (size_t)sqlite3_column_bytes(statement, 1), place, json);
}

/* Puts what it has learnt into the plan, which then needs no trace. The caller's own statements are
 * over, so that the tables may be read. */
static Status complete_plan(sqlite3 *sqlite, const char *path, Pick *pick, cJSON *json)
{
    char place[512];
    snprintf(place, sizeof place, "%s: result %lld", path, (long long)pick->plan_id);
    sqlite3_set_authorizer(sqlite, NULL, NULL);
    TRY(study_learnt_read(sqlite, path, pick->plan_id, json));
    return plan_from_json(json, place, &pick->plan);
}

static Status read_row(sqlite3_stmt *statement, const char *path, Pick *pick, cJSON **json)
{
    uint64_t *const into[] = {&pick->lookups,   &pick->hits,         &pick->misses,
                              &pick->loads,     &pick->bytes_loaded, &pick->memory_bytes,
                              &pick->candidates};
    for (int i = 0; i < (int)(sizeof into / sizeof into[0]); i++)
        *into[i] = (uint64_t)sqlite3_column_int64(statement, i + 2);
    return read_plan(statement, path, pick, json);
}

static Status count_missing(sqlite3 *sqlite, const char *path, uint64_t *missing)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(sqlite, "SELECT count(*) FROM result WHERE done = 0", -1,
                                  &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    Status status = code == SQLITE_ROW ? OK : sql_fail(sqlite, path, code);
    *missing = status == OK ? (uint64_t)sqlite3_column_int64(statement, 0) : 0;
    sqlite3_finalize(statement);
    return status;
}

static Status pick_row(sqlite3 *sqlite, const char *path, const PickOptions *options, Pick *pick)
{
    sqlite3_stmt *statement = NULL;
    cJSON *json = NULL;
    TRY(count_missing(sqlite, path, &pick->missing));
    Status status = prepare_pick(sqlite, options, &statement);
    int code = status == OK ? sqlite3_step(statement) : SQLITE_ERROR;
    if (status == OK && code == SQLITE_ROW)
        status = read_row(statement, path, pick, &json);
    else if (status == OK && code == SQLITE_DONE)
        status = fail(ERR_INPUT, "%s: no result meets the conditions (%llu plans have none yet)",
                      path, (unsigned long long)pick->missing);
    else if (status == OK)
        status = sql_fail(sqlite, path, code);
    sqlite3_finalize(statement);
    if (status == OK)
        status = complete_plan(sqlite, path, pick, json);
    cJSON_Delete(json);
    return status;
}

Status study_pick(const char *path, const PickOptions *options, Pick *pick)
{
    sqlite3 *sqlite = NULL;
    *pick = (Pick){0};
    if (options->best == PICK_TIME)
        return fail(ERR_UNSUPPORTED, "%s: the study has no times", path);
    Status status = open_read_only(path, &sqlite);
    if (status == OK)
        status = pick_row(sqlite, path, options, pick);
    sqlite3_close(sqlite);
    return status;
}
