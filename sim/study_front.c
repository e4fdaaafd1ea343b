#include "sim/study_front.h"

#include <stdio.h>

#include "base/memory.h"

static const char COLUMNS[] = "plan_id, name, evict, slots, miss_ratio, total_ns, tokens_per_s,"
                              " exposed_load_ns, peak_bytes";

static void read_point(sqlite3_stmt *statement, FrontPoint *point)
{
    const char *name = (const char *)sqlite3_column_text(statement, 1);
    const char *evict = (const char *)sqlite3_column_text(statement, 2);
    *point = (FrontPoint){.plan_id = sqlite3_column_int64(statement, 0),
                          .slots = (uint32_t)sqlite3_column_int64(statement, 3),
                          .miss_ratio = sqlite3_column_double(statement, 4)};
    snprintf(point->name, sizeof point->name, "%s", name != NULL ? name : "");
    snprintf(point->evict, sizeof point->evict, "%s", evict != NULL ? evict : "");
    point->time = (PlanTime){.known = true,
                             .total_ns = (uint64_t)sqlite3_column_int64(statement, 5),
                             .tokens_per_s = sqlite3_column_double(statement, 6),
                             .exposed_load_ns = (uint64_t)sqlite3_column_int64(statement, 7),
                             .peak_bytes = (uint64_t)sqlite3_column_int64(statement, 8)};
}

static Status add_point(StudyFront *front, size_t *room, const FrontPoint *point)
{
    TRY(mem_grow(&front->points, room, front->n_points, sizeof *front->points, "front"));
    front->points[front->n_points++] = *point;
    return OK;
}

/* Rows come by memory, of equal memory the fastest first: one is of the front when it is faster
 * than all before. */
static Status read_front(const StudyReader *reader, sqlite3_stmt *statement, StudyFront *front)
{
    size_t room = 0;
    int code;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        FrontPoint point;
        read_point(statement, &point);
        front->candidates++;
        if (front->n_points == 0 ||
            point.time.tokens_per_s > front->points[front->n_points - 1].time.tokens_per_s)
            TRY(add_point(front, &room, &point));
    }
    return code == SQLITE_DONE ? OK : study_reader_fail(reader, code);
}

static Status find_front(const StudyReader *reader, const StudyConditions *conditions,
                         StudyFront *front)
{
    char order[192];
    sqlite3_stmt *statement = NULL;
    if (!reader->has_times)
        return fail(ERR_INPUT, "%s: the study has no times: sweep with --hardware", reader->path);
    snprintf(order, sizeof order, "peak_bytes, tokens_per_s DESC, %s, misses, plan_id",
             reader->link);
    TRY(study_reader_select(reader, COLUMNS, conditions, order, &statement));
    Status status = read_front(reader, statement, front);
    sqlite3_finalize(statement);
    return status;
}

Status study_front_read(const StudyReader *reader, const StudyConditions *conditions,
                        StudyFront *front)
{
    *front = (StudyFront){0};
    Status status = find_front(reader, conditions, front);
    if (status != OK)
        study_front_free(front);
    return status;
}

Status study_front(const char *path, const StudyConditions *conditions, StudyFront *front)
{
    StudyReader reader;
    *front = (StudyFront){0};
    Status status = study_reader_open(path, &reader);
    if (status == OK)
        status = study_front_read(&reader, conditions, front);
    study_reader_close(&reader);
    return status;
}

void study_front_free(StudyFront *front)
{
    mem_free(front->points);
    *front = (StudyFront){0};
}
