#include "sim/study_query.h"

#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "sim/study_schema.h"
#include "sim/study_seal.h"
#include "traces/sqlite_path.h"

enum { BUSY_MS = 5000 };

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

Status study_reader_fail(const StudyReader *reader, int code)
{
    if ((code & 0xFF) == SQLITE_NOMEM)
        return fail_memory(reader->path, 0);
    Status status = (code & 0xFF) == SQLITE_CORRUPT ? ERR_CORRUPT : ERR_INPUT;
    return fail(status, "%s: %s", reader->path, sqlite3_errmsg(reader->sqlite));
}

/* A sweep that was killed leaves a journal that only a writer may roll back, and its locks until
 * its memory has been given back, which takes the longer the more it had. Whatever goes wrong
 * here is found again when the file is read. */
static void roll_back_journal(const char *path)
{
    sqlite3 *sqlite = NULL;
    char *journal = sqlite3_mprintf("%s-journal", path);
    if (journal != NULL && file_exists(journal) && file_exists(path) &&
        sqlite3_open_v2(path, &sqlite, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK) {
        sqlite3_busy_timeout(sqlite, BUSY_MS);
        sqlite3_exec(sqlite, "PRAGMA schema_version", NULL, NULL, NULL);
    }
    sqlite3_close(sqlite);
    sqlite3_free(journal);
}

bool study_reader_has_column(const StudyReader *reader, const char *column)
{
    return sqlite3_table_column_metadata(reader->sqlite, NULL, "result", column, NULL, NULL, NULL,
                                         NULL, NULL) == SQLITE_OK;
}

static Status count_layers(StudyReader *reader)
{
    static const char SQL[] = "SELECT count(*) FROM layer_result WHERE plan_id ="
                              " (SELECT plan_id FROM layer_result LIMIT 1)";
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(reader->sqlite, SQL, -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        reader->n_layers = (uint32_t)sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return code == SQLITE_ROW ? OK : study_reader_fail(reader, code);
}

/* What older studies lack. */
static Status look_at_columns(StudyReader *reader)
{
    sqlite3_stmt *statement = NULL;
    reader->link = study_reader_has_column(reader, "bytes_prefetched")
                       ? "bytes_loaded + ifnull(bytes_prefetched, 0)"
                       : "bytes_loaded";
    reader->memory = "memory_bytes";
    TRY(count_layers(reader));
    if (!study_reader_has_column(reader, "total_ns"))
        return OK;
    int code = sqlite3_prepare_v2(reader->sqlite, "SELECT 1 FROM result WHERE total_ns > 0 LIMIT 1",
                                  -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    sqlite3_finalize(statement);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return study_reader_fail(reader, code);
    reader->has_times = code == SQLITE_ROW;
    if (reader->has_times)
        reader->memory = "peak_bytes";
    return OK;
}

Status study_reader_open(const char *path, StudyReader *reader)
{
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    *reader = (StudyReader){.path = path};
    char *name;
    TRY(file_check_readable(path));
    TRY(sqlite_path_name(path, ERR_INPUT, &name));
    roll_back_journal(name);
    int code = sqlite3_open_v2(name, &reader->sqlite, flags, NULL);
    mem_free(name);
    if ((code & 0xFF) == SQLITE_NOMEM)
        return fail_memory(path, 0);
    if (code != SQLITE_OK)
        return fail(ERR_INPUT, "%s: cannot open: %s", path, sqlite3_errmsg(reader->sqlite));
    sqlite3_busy_timeout(reader->sqlite, BUSY_MS);
    TRY(study_schema_check(reader->sqlite, path));
    code = sqlite3_exec(reader->sqlite,
                        "PRAGMA trusted_schema = OFF; PRAGMA query_only = ON;"
                        "PRAGMA cell_size_check = ON",
                        NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = study_seal_function(reader->sqlite);
    if (code != SQLITE_OK)
        return study_reader_fail(reader, code);
    TRY(study_verify(reader->sqlite, path));
    TRY(look_at_columns(reader));
    sqlite3_set_authorizer(reader->sqlite, authorize, NULL);
    return OK;
}

/* SQLite keeps the application's id in the header of a file, big-endian. */
bool study_says_it_is_one(const char *path)
{
    unsigned char header[72] = {0};
    FILE *stream = file_check_readable(path) == OK ? fopen(path, "rb") : NULL;
    if (stream == NULL)
        return false;
    size_t bytes = fread(header, 1, sizeof header, stream);
    fclose(stream);
    uint32_t id = (uint32_t)header[68] << 24 | (uint32_t)header[69] << 16 |
                  (uint32_t)header[70] << 8 | header[71];
    return bytes == sizeof header && id == STUDY_APPLICATION_ID;
}

void study_reader_close(StudyReader *reader)
{
    sqlite3_close(reader->sqlite);
    reader->sqlite = NULL;
}

void study_reader_trust(StudyReader *reader)
{
    sqlite3_set_authorizer(reader->sqlite, NULL, NULL);
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

static Status prepare(const StudyReader *reader, const char *sql, sqlite3_stmt **statement)
{
    const char *tail = "";
    if (sql == NULL)
        return fail_memory("--where", 0);
    int code = sqlite3_prepare_v2(reader->sqlite, sql, -1, statement, &tail);
    if (code == SQLITE_NOMEM)
        return fail_memory("--where", 0);
    if (code != SQLITE_OK || !is_blank(tail))
        return fail(ERR_INPUT, "--where: %s",
                    code != SQLITE_OK ? sqlite3_errmsg(reader->sqlite) : "not one SQL expression");
    return OK;
}

Status study_reader_select(const StudyReader *reader, const char *columns,
                           const StudyConditions *conditions, const char *order,
                           sqlite3_stmt **statement)
{
    const char *where = conditions->where != NULL ? conditions->where : "1";
    const char *speed = reader->has_times ? "tokens_per_s" : "0";
    if (conditions->tokens_per_s_at_least + conditions->slowdown_at_most > 0 && !reader->has_times)
        return fail(ERR_INPUT, "%s: the study has no times: sweep with --hardware", reader->path);
    TRY(check_expression(reader->sqlite, where));
    char *sql = sqlite3_mprintf("SELECT %s FROM result WHERE done = 1 AND (bound = 0 OR ?1)"
                                " AND miss_ratio <= ?2 AND (?3 = 0 OR %s <= ?3)"
                                " AND (?4 = 0 OR %s >= ?4) AND (?5 = 0 OR %s * (1 + ?5) >="
                                " (SELECT max(%s) FROM result WHERE done = 1 AND bound = 0))"
                                " AND (\n%s\n) ORDER BY %s",
                                columns, reader->memory, speed, speed, speed, where, order);
    Status status = prepare(reader, sql, statement);
    sqlite3_free(sql);
    if (status != OK)
        return status;
    sqlite3_bind_int(*statement, 1, conditions->with_bounds);
    sqlite3_bind_double(*statement, 2, conditions->misses_at_most);
    sqlite3_bind_double(*statement, 3, conditions->memory_at_most);
    sqlite3_bind_double(*statement, 4, conditions->tokens_per_s_at_least);
    sqlite3_bind_double(*statement, 5, conditions->slowdown_at_most);
    return OK;
}

static Status count(const StudyReader *reader, const char *sql, uint64_t *number)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(reader->sqlite, sql, -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    Status status = code == SQLITE_ROW ? OK : study_reader_fail(reader, code);
    *number = status == OK ? (uint64_t)sqlite3_column_int64(statement, 0) : 0;
    sqlite3_finalize(statement);
    return status;
}

Status study_reader_missing(const StudyReader *reader, uint64_t *missing)
{
    return count(reader, "SELECT count(*) FROM result WHERE done = 0", missing);
}

Status study_reader_count(const StudyReader *reader, StudyCheck *found)
{
    TRY(count(reader, "SELECT count(*) FROM result", &found->plans));
    return count(reader, "SELECT count(*) FROM result WHERE done = 1", &found->results);
}

Status study_check(const char *path, StudyCheck *found)
{
    StudyReader reader;
    Status status = study_reader_open(path, &reader);
    if (status == OK)
        status = study_reader_count(&reader, found);
    study_reader_close(&reader);
    return status;
}
