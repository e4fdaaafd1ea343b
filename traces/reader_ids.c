/* Steps of which but the ids are wanted: weights and scores stay where they are in the file. */
#include <string.h>

#include "traces/reader_state.h"
#include "traces/rowcrc.h"

/* SQLite tells types and lengths of columns without reading them. */
static const char IDS_SQL[] =
    "SELECT r.step, r.experts, typeof(r.weights), length(r.weights), typeof(r.scores), "
    "length(r.scores), c.crc FROM routing r LEFT JOIN experts_crc c ON c.step = r.step "
    "ORDER BY r.step";

enum { STEP, EXPERTS, WEIGHTS, WEIGHT_BYTES, SCORES, SCORE_BYTES, CRC }; /* columns */

Status reader_open_ids(TraceReader *reader)
{
    const Store *store = &reader->store;
    bool there;
    int64_t rows;
    TRY(store_has_table(store, "experts_crc", &there));
    if (!there || reader->ids_rows != NULL)
        return OK;
    TRY(store_number(store, "SELECT count(*) FROM experts_crc", &rows));
    if (rows == 0 || (uint64_t)rows < reader->steps / 2)
        return OK;
    reader->ahead = read_ahead_of(store->db);
    return store_prepare(store, IDS_SQL, &reader->ids_rows);
}

/* Whether a column whose type and length were asked of is a blob; *BYTES of it, 0 where it is NULL.
 */
static bool is_blob_or_null(sqlite3_stmt *statement, int type, uint64_t *bytes, bool *is_null)
{
    const char *name = (const char *)sqlite3_column_text(statement, type);
    *bytes = (uint64_t)sqlite3_column_int64(statement, type + 1);
    *is_null = name != NULL && strcmp(name, "null") == 0;
    return *is_null || (name != NULL && strcmp(name, "blob") == 0);
}

static bool others_fit(sqlite3_stmt *statement, uint64_t ids)
{
    uint64_t bytes;
    bool is_null;
    if (!is_blob_or_null(statement, WEIGHTS, &bytes, &is_null) || (!is_null && bytes != 2 * ids))
        return false;
    return is_blob_or_null(statement, SCORES, &bytes, &is_null) && bytes % 2 == 0;
}

bool reader_take_ids(const TraceReader *reader, uint64_t ids, const void **experts)
{
    sqlite3_stmt *statement = reader->ids_rows;
    uint64_t bytes = ids * reader->id_bytes;
    if (sqlite3_column_type(statement, CRC) != SQLITE_INTEGER ||
        sqlite3_column_type(statement, EXPERTS) != SQLITE_BLOB || !others_fit(statement, ids))
        return false;
    *experts = sqlite3_column_blob(statement, EXPERTS);
    if (*experts == NULL || (uint64_t)sqlite3_column_bytes(statement, EXPERTS) != bytes)
        return false;
    uint32_t crc = rowcrc_integer(0, sqlite3_column_int64(statement, STEP));
    return sqlite3_column_int64(statement, CRC) == rowcrc_blob(crc, *experts, bytes);
}
