#include "sim/study_pick.h"

#include <stdio.h>

#include "sim/study_learnt.h"

static const char COLUMNS[] = "plan_id, plan, lookups, hits, misses, loads, bytes_loaded,"
                              " memory_bytes, count(*) OVER ()";
static const char TIMES[] = ", total_ns, tokens_per_s, exposed_load_ns, peak_bytes, ttft_median_ns,"
                            " ttft_p99_ns, tbt_median_ns, tbt_p99_ns";
enum { TIMES_AT = 9 };

static Status prepare_pick(const StudyReader *reader, const PickOptions *options,
                           sqlite3_stmt **statement)
{
    char columns[sizeof COLUMNS + sizeof TIMES];
    char memory[128];
    char order[512];
    const char *time = reader->has_times ? "total_ns, " : "";
    snprintf(columns, sizeof columns, "%s%s", COLUMNS, reader->has_times ? TIMES : "");
    snprintf(memory, sizeof memory, "%s, slots * iif(scope = 'layer', %u, 1)", reader->memory,
             reader->n_layers);
    if (options->best == PICK_TIME)
        snprintf(order, sizeof order, "total_ns, %s, plan_id LIMIT 1", memory);
    else if (options->best == PICK_MEMORY)
        snprintf(order, sizeof order, "%s, %s%s, misses, plan_id LIMIT 1", memory, time,
                 reader->link);
    else
        snprintf(order, sizeof order, "%s, misses, %s, plan_id LIMIT 1", reader->link, memory);
    return study_reader_select(reader, columns, &options->conditions, order, statement);
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
static Status complete_plan(StudyReader *reader, Pick *pick, cJSON *json)
{
    char place[512];
    snprintf(place, sizeof place, "%s: result %lld", reader->path, (long long)pick->plan_id);
    study_reader_trust(reader);
    TRY(study_learnt_read(reader->sqlite, reader->path, pick->plan_id, json));
    return plan_from_json(json, place, &pick->plan);
}

static void read_time(sqlite3_stmt *statement, PlanTime *time)
{
    uint64_t *const into[] = {&time->ttft_median_ns, &time->ttft_p99_ns, &time->tbt_median_ns,
                              &time->tbt_p99_ns};
    time->known = sqlite3_column_type(statement, TIMES_AT) != SQLITE_NULL;
    time->total_ns = (uint64_t)sqlite3_column_int64(statement, TIMES_AT);
    time->tokens_per_s = sqlite3_column_double(statement, TIMES_AT + 1);
    time->exposed_load_ns = (uint64_t)sqlite3_column_int64(statement, TIMES_AT + 2);
    time->peak_bytes = (uint64_t)sqlite3_column_int64(statement, TIMES_AT + 3);
    time->served = sqlite3_column_type(statement, TIMES_AT + 4) != SQLITE_NULL;
    for (int i = 0; i < 4; i++)
        *into[i] = (uint64_t)sqlite3_column_int64(statement, TIMES_AT + 4 + i);
}

static Status read_row(sqlite3_stmt *statement, const StudyReader *reader, Pick *pick, cJSON **json)
{
    uint64_t *const into[] = {&pick->lookups,   &pick->hits,         &pick->misses,
                              &pick->loads,     &pick->bytes_loaded, &pick->memory_bytes,
                              &pick->candidates};
    for (int i = 0; i < (int)(sizeof into / sizeof into[0]); i++)
        *into[i] = (uint64_t)sqlite3_column_int64(statement, i + 2);
    if (reader->has_times)
        read_time(statement, &pick->time);
    return read_plan(statement, reader->path, pick, json);
}

static Status fail_no_row(const StudyReader *reader, uint64_t missing)
{
    if (missing == 0)
        return fail(ERR_INPUT, "%s: no result meets the conditions", reader->path);
    return fail(ERR_INPUT, "%s: no result meets the conditions (%llu plans have none yet)",
                reader->path, (unsigned long long)missing);
}

static Status pick_row(StudyReader *reader, const PickOptions *options, Pick *pick)
{
    sqlite3_stmt *statement = NULL;
    cJSON *json = NULL;
    if (options->best == PICK_TIME && !reader->has_times)
        return fail(ERR_INPUT, "%s: the study has no times: sweep with --hardware", reader->path);
    TRY(study_reader_missing(reader, &pick->missing));
    Status status = prepare_pick(reader, options, &statement);
    int code = status == OK ? sqlite3_step(statement) : SQLITE_ERROR;
    if (status == OK && code == SQLITE_ROW)
        status = read_row(statement, reader, pick, &json);
    else if (status == OK && code == SQLITE_DONE)
        status = fail_no_row(reader, pick->missing);
    else if (status == OK)
        status = study_reader_fail(reader, code);
    sqlite3_finalize(statement);
    if (status == OK)
        status = complete_plan(reader, pick, json);
    cJSON_Delete(json);
    return status;
}

Status study_pick(const char *path, const PickOptions *options, Pick *pick)
{
    StudyReader reader;
    *pick = (Pick){0};
    Status status = study_reader_open(path, &reader);
    if (status == OK)
        status = pick_row(&reader, options, pick);
    study_reader_close(&reader);
    return status;
}
