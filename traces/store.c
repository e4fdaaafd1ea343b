#include "traces/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/read_ahead.h"
#include "traces/sqlite_path.h"

enum {
    BUSY_MS = 5000,
    PAGE_BYTES = 4096, /* measured (test_recorder --bench): 1024 wastes at one token a step, 8192 at
                          256 */
    CHECKPOINT_PAGES = 4 << 10, /* 16 MiB of log between checkpoints */
    SUFFIX_BYTES = sizeof "-journal",
};

static const char *const BESIDE[] = {"-wal", "-shm", "-journal"};

/* The system's error number behind a failed SQLite call, 0 when none is known. A failed write to
 * the log is remembered by the log's file alone. */
static int system_reason(sqlite3 *db)
{
    int reason = 0;
    sqlite3_file *log = NULL;
    if (db == NULL)
        return 0;
    reason = sqlite3_system_errno(db);
    if (reason == 0)
        sqlite3_file_control(db, "main", SQLITE_FCNTL_LAST_ERRNO, &reason);
    if (reason == 0)
        sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log);
    if (log != NULL && log->pMethods != NULL)
        log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &reason);
    return reason;
}

Status store_fail(const Store *store, int code)
{
    const char *why = store->db != NULL ? sqlite3_errmsg(store->db) : sqlite3_errstr(code);
    bool of_system = (code & 0xFF) == SQLITE_IOERR || (code & 0xFF) == SQLITE_CANTOPEN;
    int reason = of_system ? system_reason(store->db) : 0;
    if (code == SQLITE_IOERR_NOMEM || (code & 0xFF) == SQLITE_NOMEM)
        return fail(ERR_MEMORY, "%s: out of memory in SQLite", store->path);
    switch (code & 0xFF) {
    case SQLITE_NOTADB:
        return fail(ERR_NOT_A_TRACE, "%s: not a trace: %s", store->path, why);
    case SQLITE_CORRUPT:
    case SQLITE_ERROR: /* a table or column of the schema is missing */
    case SQLITE_SCHEMA:
    case SQLITE_TOOBIG:
        return fail(ERR_CORRUPT, "%s: damaged: %s", store->path, why);
    case SQLITE_CANTOPEN:
        return fail(ERR_INPUT, "%s: cannot open: %s%s%s", store->path, why, reason ? ": " : "",
                    reason ? strerror(reason) : "");
    default:
        return fail(ERR_IO, "%s: %s%s%s", store->path, why, reason ? ": " : "",
                    reason ? strerror(reason) : "");
    }
}

static Status take_path(const char *path, Status kind, Store *store)
{
    *store = (Store){0};
    TRY(sqlite_path_name(path, kind, &store->name));
    store->path = store->name + strlen(store->name) - strlen(path);
    return OK;
}

void store_close(Store *store)
{
    if (store->db != NULL)
        sqlite3_close(store->db);
    mem_free(store->name);
    *store = (Store){0};
}

/* Asks or removes a file whose name is the store's with SUFFIX. */
static bool beside(const Store *store, const char *suffix, bool remove_it, struct stat *info)
{
    char short_name[512];
    size_t length = strlen(store->name);
    char *name = short_name;
    if (length + SUFFIX_BYTES + 1 > sizeof short_name)
        name = mem_alloc(length + SUFFIX_BYTES + 1, 1);
    if (name == NULL)
        return false;
    memcpy(name, store->name, length);
    memcpy(name + length, suffix, strlen(suffix) + 1);
    bool there = remove_it ? unlink(name) == 0 : lstat(name, info) == 0;
    if (name != short_name)
        mem_free(name);
    return there;
}

void store_close_and_remove(Store *store)
{
    if (store->db != NULL)
        sqlite3_close(store->db);
    store->db = NULL;
    struct stat unused;
    if (store->name != NULL) {
        unlink(store->name);
        for (size_t i = 0; i < sizeof BESIDE / sizeof *BESIDE; i++)
            beside(store, BESIDE[i], true, &unused);
    }
    store_close(store);
}

Status store_execute(const Store *store, const char *sql)
{
    SQL_TRY(store, sqlite3_exec(store->db, sql, NULL, NULL, NULL));
    return OK;
}

Status store_prepare(const Store *store, const char *sql, sqlite3_stmt **statement)
{
    SQL_TRY(store,
            sqlite3_prepare_v3(store->db, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL));
    return OK;
}

Status store_run(const Store *store, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    Status status = code == SQLITE_DONE || code == SQLITE_ROW ? OK : store_fail(store, code);
    sqlite3_reset(statement);
    return status;
}

Status store_step(const Store *store, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        return OK;
    return code == SQLITE_DONE ? STATUS_END : store_fail(store, code);
}

Status store_number(const Store *store, const char *sql, int64_t *value)
{
    sqlite3_stmt *statement;
    TRY(store_prepare(store, sql, &statement));
    Status status = store_step(store, statement);
    *value = status == OK ? sqlite3_column_int64(statement, 0) : 0;
    sqlite3_finalize(statement);
    return status == STATUS_END ? OK : status;
}

Status store_has_table(const Store *store, const char *name, bool *there)
{
    char sql[160];
    int64_t tables;
    /* Views and virtual tables have no root page. */
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND "
             "name = '%s'",
             name);
    TRY(store_number(store, sql, &tables));
    *there = tables > 0;
    return OK;
}

/* Opens and begins the read transaction; recovery happens, or fails, here. */
static int begin_reading(Store *store, const char *name, int flags)
{
    const char *vfs = read_ahead_vfs();
    if (vfs == NULL)
        return SQLITE_NOMEM;
    int code = sqlite3_open_v2(name, &store->db, flags | SQLITE_OPEN_NOMUTEX, vfs);
    if (code != SQLITE_OK)
        return code;
    sqlite3_extended_result_codes(store->db, 1);
    sqlite3_busy_timeout(store->db, BUSY_MS);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    return sqlite3_exec(store->db,
                        "PRAGMA trusted_schema = OFF;"
                        "PRAGMA query_only = ON;"
                        "PRAGMA cell_size_check = ON;"
                        "PRAGMA mmap_size = 1;" /* maps nothing: traces/read_ahead.h */
                        "BEGIN;"
                        "SELECT count(*) FROM sqlite_master;",
                        NULL, NULL, NULL);
}

static void close_only(Store *store)
{
    sqlite3_close(store->db);
    store->db = NULL;
}

/* A killed writer can leave a log whose index must be made, or a journal to roll back. */
static bool needs_recovery(int code)
{
    return (code & 0xFF) == SQLITE_CANTOPEN || (code & 0xFF) == SQLITE_READONLY;
}

/* Lets SQLite put the file in order: it adds what the log has committed and takes back what was
 * not. Whether that worked shows at the next opening. */
static void recover(Store *store)
{
    close_only(store);
    if (sqlite3_open_v2(store->name, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
                        NULL) == SQLITE_OK) {
        sqlite3_busy_timeout(store->db, BUSY_MS);
        sqlite3_exec(store->db, "PRAGMA trusted_schema = OFF; SELECT count(*) FROM sqlite_master;",
                     NULL, NULL, NULL);
    }
    close_only(store);
}

static bool has_log(const Store *store)
{
    struct stat info;
    return (beside(store, "-wal", false, &info) && info.st_size > 0) ||
           (beside(store, "-journal", false, &info) && info.st_size > 0);
}

/* For a WAL-mode file without a log where no log can be made: a read-only medium. */
static int begin_immutable(Store *store)
{
    close_only(store);
    sqlite3_str *uri = sqlite3_str_new(NULL);
    sqlite3_str_appendall(uri, "file:");
    for (const char *c = store->name; *c != '\0'; c++)
        if (*c == '%' || *c == '?' || *c == '#')
            sqlite3_str_appendf(uri, "%%%02X", (unsigned)*c);
        else
            sqlite3_str_appendchar(uri, 1, *c);
    sqlite3_str_appendall(uri, "?immutable=1");
    char *name = sqlite3_str_finish(uri);
    if (name == NULL)
        return SQLITE_NOMEM;
    int code = begin_reading(store, name, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI);
    sqlite3_free(name);
    return code;
}

Status store_open(const char *path, Store *store)
{
    *store = (Store){0};
    TRY(file_check_readable(path));
    TRY(take_path(path, ERR_INPUT, store));
    int code = begin_reading(store, store->name, SQLITE_OPEN_READONLY);
    if (needs_recovery(code)) {
        recover(store);
        code = begin_reading(store, store->name, SQLITE_OPEN_READONLY);
    }
    bool stuck = needs_recovery(code);
    if (stuck && !has_log(store)) {
        code = begin_immutable(store);
        stuck = false;
    }
    if (code == SQLITE_OK)
        return OK;
    Status status = store_fail(store, code);
    if (stuck)
        status = fail(ERR_IO,
                      "%s: committed steps are still in its -wal or -journal file, and reading "
                      "them needs a directory that can be written: copy both to one",
                      path);
    store_close(store);
    return status;
}

static Status create_empty(const Store *store)
{
    struct stat info;
    for (size_t i = 0; i < sizeof BESIDE / sizeof *BESIDE; i++)
        if (strcmp(BESIDE[i], "-shm") != 0 && beside(store, BESIDE[i], false, &info))
            return fail(ERR_OUTPUT, "%s: %s%s exists already; remove it or choose another name",
                        store->path, store->path, BESIDE[i]);
    int fd = open(store->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST)
        return fail(ERR_OUTPUT, "%s: exists already; remove it or choose another name",
                    store->path);
    if (fd < 0)
        return fail(ERR_OUTPUT, "%s: cannot create: %s", store->path, strerror(errno));
    close(fd);
    return OK;
}

/* A scratch file is written in place; who gives it its name syncs it. */
static Status configure_scratch(const Store *store, uint32_t page_bytes)
{
    char pragmas[160];
    if (!read_ahead_gather_writes(read_ahead_of(store->db)))
        return fail_memory(store->path, page_bytes);
    snprintf(pragmas, sizeof pragmas,
             "PRAGMA trusted_schema = OFF; PRAGMA page_size = %u; PRAGMA journal_mode = OFF;"
             "PRAGMA synchronous = OFF;",
             page_bytes);
    return store_execute(store, pragmas);
}

static Status configure_log(const Store *store, bool full_sync, uint32_t page_bytes)
{
    char pragmas[256];
    snprintf(pragmas, sizeof pragmas,
             "PRAGMA trusted_schema = OFF; PRAGMA page_size = %u; PRAGMA journal_mode = WAL;"
             "PRAGMA synchronous = %s; PRAGMA wal_autocheckpoint = %d;",
             page_bytes, full_sync ? "FULL" : "NORMAL", CHECKPOINT_PAGES);
    TRY(store_execute(store, pragmas));
    sqlite3_stmt *statement;
    TRY(store_prepare(store, "PRAGMA journal_mode", &statement));
    Status status = store_step(store, statement);
    const char *mode = status == OK ? (const char *)sqlite3_column_text(statement, 0) : NULL;
    if (status == OK && (mode == NULL || strcmp(mode, "wal") != 0))
        status = fail(ERR_OUTPUT, "%s: the file system cannot hold a write-ahead log", store->path);
    sqlite3_finalize(statement);
    return status;
}

static Status configure_writing(const Store *store, Durability durability, uint32_t page_bytes)
{
    sqlite3_extended_result_codes(store->db, 1);
    sqlite3_busy_timeout(store->db, BUSY_MS);
    if (page_bytes == 0)
        page_bytes = PAGE_BYTES;
    /* The writer's phases and stacks are enums; SQLite would make an index of the names that a
     * CHECK allows for every row. */
    TRY(store_execute(store, "PRAGMA ignore_check_constraints = ON"));
    return durability == DURABLE_NOT
               ? configure_scratch(store, page_bytes)
               : configure_log(store, durability == DURABLE_POWER, page_bytes);
}

Status store_create(const char *path, Durability durability, uint32_t page_bytes, Store *store)
{
    TRY(take_path(path, ERR_OUTPUT, store));
    Status status = create_empty(store);
    if (status != OK) {
        store_close(store);
        return status;
    }
    const char *vfs = durability == DURABLE_NOT ? read_ahead_vfs() : NULL;
    int code =
        sqlite3_open_v2(store->name, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, vfs);
    status = code == SQLITE_OK ? configure_writing(store, durability, page_bytes)
                               : store_fail(store, code);
    if (status != OK)
        store_close_and_remove(store);
    return status;
}
