#include "traces/store.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "traces/rowcrc.h"

static const char *type_name(int type)
{
    switch (type) {
    case SQLITE_INTEGER:
        return "an integer";
    case SQLITE_FLOAT:
        return "a real number";
    case SQLITE_TEXT:
        return "a text";
    case SQLITE_BLOB:
        return "a blob";
    default:
        return "NULL";
    }
}

Status row_fail(const Row *row, int column, const char *format, ...)
{
    char why[256];
    char place[96] = "";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    if (row->number >= 0)
        snprintf(place, sizeof place, " %lld", (long long)row->number);
    const char *name = column >= 0 ? sqlite3_column_name(row->statement, column) : NULL;
    return fail(ERR_CORRUPT, "%s: %s%s: %s%s%s%s%s", row->store->path, row->subject, place,
                row->table != NULL ? row->table : "", row->table != NULL ? ": " : "",
                name != NULL ? name : "", name != NULL ? ": " : "", why);
}

/* Several calls ask of one value. Statements belong to one thread, which an unprotected value
 * wants. */
static sqlite3_value *value_of(const Row *row, int column)
{
    if (row->values == NULL)
        return sqlite3_column_value(row->statement, column);
    if (row->values[column] == NULL)
        row->values[column] = sqlite3_column_value(row->statement, column);
    return row->values[column];
}

static Status check_type(const Row *row, int column, sqlite3_value *value, int wanted)
{
    int type = sqlite3_value_type(value);
    if (type == wanted)
        return OK;
    return row_fail(row, column, "%s, wanted is %s", type_name(type), type_name(wanted));
}

Status row_u64(const Row *row, int column, uint64_t least, uint64_t most, uint64_t *value)
{
    sqlite3_value *found = value_of(row, column);
    TRY(check_type(row, column, found, SQLITE_INTEGER));
    int64_t number = sqlite3_value_int64(found);
    if (number < 0 || (uint64_t)number < least || (uint64_t)number > most)
        return row_fail(row, column, "%lld, allowed is %llu to %llu", (long long)number,
                        (unsigned long long)least, (unsigned long long)most);
    *value = (uint64_t)number;
    return OK;
}

Status row_u32(const Row *row, int column, uint32_t least, uint32_t most, uint32_t *value)
{
    uint64_t wide = 0;
    TRY(row_u64(row, column, least, most, &wide));
    *value = (uint32_t)wide;
    return OK;
}

static Status row_memory(const Row *row)
{
    return fail(ERR_MEMORY, "%s: out of memory in SQLite", row->store->path);
}

Status row_text(const Row *row, int column, bool optional, const char **text)
{
    sqlite3_value *value = value_of(row, column);
    *text = NULL;
    if (optional && sqlite3_value_type(value) == SQLITE_NULL)
        return OK;
    TRY(check_type(row, column, value, SQLITE_TEXT));
    const char *found = (const char *)sqlite3_value_text(value);
    if (found == NULL)
        return row_memory(row);
    size_t bytes = (size_t)sqlite3_value_bytes(value);
    if (strnlen(found, bytes) != bytes)
        return row_fail(row, column, "the text holds a zero byte");
    *text = found;
    return OK;
}

/* *ABSENT: it is NULL, which is allowed. */
static Status take_blob(const Row *row, int column, bool optional, const void **data, size_t *bytes,
                        bool *absent)
{
    sqlite3_value *value = value_of(row, column);
    *data = NULL;
    *bytes = 0;
    *absent = optional && sqlite3_value_type(value) == SQLITE_NULL;
    if (*absent)
        return OK;
    TRY(check_type(row, column, value, SQLITE_BLOB));
    *data = sqlite3_value_blob(value);
    *bytes = (size_t)sqlite3_value_bytes(value);
    return *data == NULL && *bytes > 0 ? row_memory(row) : OK;
}

Status row_blob_of(const Row *row, int column, bool optional, size_t unit, const void **data,
                   size_t *bytes)
{
    const void *found;
    size_t length;
    bool absent;
    *data = NULL;
    *bytes = 0;
    TRY(take_blob(row, column, optional, &found, &length, &absent));
    if (length % unit != 0)
        return row_fail(row, column, "%zu bytes, wanted is a multiple of %zu", length, unit);
    *data = found;
    *bytes = length;
    return OK;
}

Status row_blob(const Row *row, int column, bool optional, uint64_t bytes, const void **data)
{
    size_t length;
    bool absent;
    TRY(take_blob(row, column, optional, data, &length, &absent));
    if (!absent && length != bytes)
        return row_fail(row, column, "%zu bytes, wanted are %llu", length,
                        (unsigned long long)bytes);
    return OK;
}

static Status crc_column(const Row *row, int column, uint32_t *crc)
{
    sqlite3_value *value = value_of(row, column);
    int type = sqlite3_value_type(value);
    if (type == SQLITE_NULL) {
        *crc = rowcrc_null(*crc);
        return OK;
    }
    if (type == SQLITE_INTEGER) {
        *crc = rowcrc_integer(*crc, sqlite3_value_int64(value));
        return OK;
    }
    if (type == SQLITE_FLOAT)
        return row_fail(row, column, "a real number");
    const void *data =
        type == SQLITE_TEXT ? (const void *)sqlite3_value_text(value) : sqlite3_value_blob(value);
    size_t bytes = (size_t)sqlite3_value_bytes(value);
    if (data == NULL && (bytes > 0 || type == SQLITE_TEXT))
        return row_memory(row);
    *crc = type == SQLITE_TEXT ? rowcrc_text(*crc, data, bytes) : rowcrc_blob(*crc, data, bytes);
    return OK;
}

Status row_crc(const Row *row, int count, uint32_t *crc)
{
    for (int column = 0; column < count; column++)
        TRY(crc_column(row, column, crc));
    return OK;
}

Status row_check_crc(const Row *row, int count)
{
    uint64_t stored = 0;
    uint32_t crc = 0;
    TRY(row_u64(row, count, 0, INT64_MAX, &stored));
    TRY(row_crc(row, count, &crc));
    if (stored != crc)
        return row_fail(row, -1, "crc does not match");
    return OK;
}
