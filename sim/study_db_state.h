/* The inside of a StudyDb, for sim/study_db.c and sim/study_db_scored.c. */
#ifndef SIM_STUDY_DB_STATE_H
#define SIM_STUDY_DB_STATE_H

#include "sim/study_db.h"

struct StudyDb {
    sqlite3 *sqlite;
    char *name;       /* SQLite's, */
    const char *path; /* and the user's */
    StudyScored scored;
    bool created;    /* by study_db_open() */
    bool has_result; /* a result was committed since */
    bool in_transaction;
    bool dirty; /* the open transaction holds a result */
    uint64_t begun_ns;
    sqlite3_stmt *insert_plan;
    sqlite3_stmt *find_plan;
    sqlite3_stmt *update;
    sqlite3_stmt *seal; /* a row of result */
    sqlite3_stmt *insert_layer;
};

/* Code to Status: a full disk and the like are ERR_IO, a foreign or damaged file is the user's. */
Status study_db_fail(const StudyDb *db, int code);

#define DB_TRY(db, call)                                                                           \
    do {                                                                                           \
        int db_code = (call);                                                                      \
        if (db_code != SQLITE_OK)                                                                  \
            return study_db_fail(db, db_code);                                                     \
    } while (0)

Status study_db_prepare(StudyDb *db, const char *sql, sqlite3_stmt **statement);

/* Binds STEPS at AT and AT + 1, or NULLs unless KNOWN. */
void study_db_bind_steps(sqlite3_stmt *statement, int at, bool known, const Steps *steps);
/* The profile's name, or NULL where nothing was timed. */
void study_db_bind_hardware(sqlite3_stmt *statement, int at, const StudyScored *scored);
/* agrees(digest, digest) in SQL. */
void study_db_digests_agree(sqlite3_context *context, int n, sqlite3_value **values);
/* What was scored before must be what is scored now: ERR_INPUT else. */
Status study_db_check_scored(StudyDb *db);

#endif
