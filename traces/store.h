/* SQLite as the trace store uses it: opening files that may be hostile, half written or damaged,
 * and reading columns that may not hold what the schema promises. */
#ifndef TRACES_STORE_H
#define TRACES_STORE_H

#include <sqlite3.h>
#include <stdbool.h>

#include "traces/trace.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blobs are copied as they lie");

/* An open SQLite file. PATH is as the user wrote it, for messages. */
typedef struct {
    sqlite3 *db;
    char *name; /* what SQLite is given: never ":memory:" or a URI */
    const char *path;
} Store;

/* Opens an existing file read-only: untrusted schema, query_only, cell_size_check, no views, no
 * triggers. Holds one read transaction until store_close(), so that every query sees the same
 * state, also while a recorder goes on writing. A file left by a killed recorder is recovered.
 * Fails with ERR_INPUT, ERR_NOT_A_TRACE, ERR_CORRUPT, ERR_IO or ERR_MEMORY; STORE then holds
 * nothing. */
Status store_open(const char *path, Store *store);

/* Creates PATH (with O_EXCL; also refused when PATH-wal or PATH-journal is there), in WAL mode
 * unless it is scratch. PAGE_BYTES 0 is the usual 4096. Fails with ERR_OUTPUT and leaves no file.
 */
Status store_create(const char *path, Durability durability, uint32_t page_bytes, Store *store);

/* Closes, after all statements were finalised. Accepts a zeroed STORE. */
void store_close(Store *store);
/* The same, and removes the file and what SQLite put beside it. */
void store_close_and_remove(Store *store);

/* The error record and Status for SQLite's result CODE. */
Status store_fail(const Store *store, int code);

/* Passes on a failed SQLite call. */
#define SQL_TRY(store, call)                                                                       \
    do {                                                                                           \
        int sql_try_code = (call);                                                                 \
        if (sql_try_code != SQLITE_OK)                                                             \
            return store_fail((store), sql_try_code);                                              \
    } while (0)

Status store_execute(const Store *store, const char *sql);
Status store_prepare(const Store *store, const char *sql, sqlite3_stmt **statement);
/* Runs a statement that returns no row, and resets it. */
Status store_run(const Store *store, sqlite3_stmt *statement);
/* Next row: OK or STATUS_END. */
Status store_step(const Store *store, sqlite3_stmt *statement);
/* The one integer that SQL returns. */
Status store_number(const Store *store, const char *sql, int64_t *value);

/* Whether there is a table NAME: views and virtual tables are none. */
Status store_has_table(const Store *store, const char *name, bool *there);

/* A row being read. A message about it says "PATH: SUBJECT NUMBER: TABLE: COLUMN: WHY". */
typedef struct {
    const Store *store;
    sqlite3_stmt *statement;
    const char *subject;    /* "step" */
    const char *table;      /* "routing"; NULL when the subject says it */
    int64_t number;         /* of the subject; below 0: not said */
    sqlite3_value **values; /* room for ROW_COLUMNS, all NULL: keeps what was looked up; or NULL */
} Row;

enum { ROW_COLUMNS = 10 };

/* Each fails with ERR_CORRUPT when the column has another type or length, or a value out of range.
 * Pointers are valid until the statement moves. */
Status row_u64(const Row *row, int column, uint64_t least, uint64_t most, uint64_t *value);
Status row_u32(const Row *row, int column, uint32_t least, uint32_t most, uint32_t *value);
/* Zero-terminated; refused when it holds a zero byte. NULL gives *TEXT == NULL when OPTIONAL. */
Status row_text(const Row *row, int column, bool optional, const char **text);
/* Exactly BYTES long, more than 0. NULL gives *DATA == NULL when OPTIONAL. */
Status row_blob(const Row *row, int column, bool optional, uint64_t bytes, const void **data);
/* Any multiple of UNIT. */
Status row_blob_of(const Row *row, int column, bool optional, size_t unit, const void **data,
                   size_t *bytes);
/* Records what is wrong with COLUMN (a negative one: with the row). ERR_CORRUPT. */
Status row_fail(const Row *row, int column, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Continues *CRC (traces/rowcrc.h) with columns 0 to COUNT - 1. */
Status row_crc(const Row *row, int count, uint32_t *crc);
/* Fails unless column COUNT is the checksum of columns 0 to COUNT - 1. */
Status row_check_crc(const Row *row, int count);

#endif
