/* A file of results holds those of one trace, one part of it and one machine. */
#include <string.h>

#include "sim/study_db_state.h"
#include "sim/study_schema.h"

void study_db_bind_steps(sqlite3_stmt *statement, int at, bool known, const Steps *steps)
{
    if (!known)
        return; /* NULL */
    sqlite3_bind_int64(statement, at, (int64_t)steps->first);
    sqlite3_bind_int64(statement, at + 1, (int64_t)steps->end);
}

static Status other_trace(const StudyDb *db, sqlite3_stmt *statement)
{
    return fail(ERR_INPUT, "%s: holds results of another trace: %s (%s), this one has %s", db->path,
                (const char *)sqlite3_column_text(statement, 0),
                (const char *)sqlite3_column_text(statement, 1), db->scored.digest.text);
}

/* Of profiles of one device only the checksums differ, which earlier versions took over the text of
 * a profile: then the same one has another. */
static bool is_of_one_device(const char *theirs, const char *ours)
{
    const char *end = strrchr(ours, ',');
    return theirs != NULL && end != NULL && strncmp(theirs, ours, (size_t)(end - ours) + 1) == 0;
}

static Status other_hardware(const StudyDb *db, sqlite3_stmt *statement)
{
    const char *theirs = (const char *)sqlite3_column_text(statement, 3);
    const char *ours = db->scored.hardware;
    return fail(ERR_INPUT,
                "%s: holds results %s%s, this sweep has %s%s%s: give it a file of its own",
                db->path, theirs != NULL ? "with the times of " : "without times",
                theirs != NULL ? theirs : "", ours[0] != '\0' ? "those of " : "none", ours,
                is_of_one_device(theirs, ours)
                    ? " (another profile, or an earlier version took the checksum)"
                    : "");
}

static Status other_parts(const StudyDb *db)
{
    const TraceParts *parts = &db->scored.parts;
    return fail(ERR_INPUT,
                "%s: holds results of other parts of the trace (see its table study); this sweep "
                "learns from steps %llu to %llu and scores %llu to %llu: give it a file of its own",
                db->path, (unsigned long long)parts->train.first,
                (unsigned long long)parts->train.end, (unsigned long long)parts->test.first,
                (unsigned long long)parts->test.end);
}

/* Rows of a study that are of something else, by its version. Those that know no parts are of all
 * steps, and before schema 5 there were no times. */
#define OTHERS(hardware, parts)                                                                    \
    "SELECT trace, trace_digest, NOT agrees(trace_digest, ?1), " hardware ", " hardware            \
    " IS NOT ?8 FROM study WHERE NOT agrees(trace_digest, ?1) OR " hardware " IS NOT ?8 OR " parts \
    " LIMIT 1"
#define NO_PARTS "?2 IS NOT NULL OR ?3 IS NOT NULL OR ?4 <> ?6 OR ?5 <> ?7"
#define PARTS                                                                                      \
    "train_first IS NOT ?2 OR train_end IS NOT ?3 OR ifnull(test_first, ?6) <> ?4"                 \
    " OR ifnull(test_end, ?7) <> ?5"

static const char *others_sql(int64_t version)
{
    if (version < 3)
        return OTHERS("NULL", NO_PARTS);
    return version < 5 ? OTHERS("NULL", PARTS) : OTHERS("hardware", PARTS);
}

void study_db_bind_hardware(sqlite3_stmt *statement, int at, const StudyScored *scored)
{
    if (scored->hardware[0] != '\0')
        sqlite3_bind_text(statement, at, scored->hardware, -1, SQLITE_STATIC);
}

/* agrees(digest, digest) in SQL. */
void study_db_digests_agree(sqlite3_context *context, int n, sqlite3_value **values)
{
    const char *left = (const char *)sqlite3_value_text(values[0]);
    const char *right = (const char *)sqlite3_value_text(values[1]);
    (void)n;
    sqlite3_result_int(context, left != NULL && right != NULL && study_digests_agree(left, right));
}

/* What was scored before must be what is scored now. */
Status study_db_check_scored(StudyDb *db)
{
    const StudyScored *scored = &db->scored;
    const Steps all = {0, scored->n_steps};
    int64_t version = 0;
    sqlite3_stmt *statement;
    TRY(study_schema_version(db->sqlite, db->path, &version));
    TRY(study_db_prepare(db, others_sql(version), &statement));
    sqlite3_bind_text(statement, 1, scored->digest.text, -1, SQLITE_STATIC);
    study_db_bind_steps(statement, 2, scored->parts.trains, &scored->parts.train);
    study_db_bind_steps(statement, 4, true, &scored->parts.test);
    study_db_bind_steps(statement, 6, true, &all);
    study_db_bind_hardware(statement, 8, scored);
    int code = sqlite3_step(statement);
    Status status = OK;
    if (code == SQLITE_ROW && sqlite3_column_int(statement, 2))
        status = other_trace(db, statement);
    else if (code == SQLITE_ROW)
        status = sqlite3_column_int(statement, 4) ? other_hardware(db, statement) : other_parts(db);
    else if (code != SQLITE_DONE)
        status = study_db_fail(db, code);
    sqlite3_finalize(statement);
    return status;
}
