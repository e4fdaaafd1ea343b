/* Reading study.db: the rows of result that meet conditions. */
#ifndef SIM_STUDY_QUERY_H
#define SIM_STUDY_QUERY_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Which rows: those of plans that have a result, and ... */
typedef struct {
    const char *where;            /* an SQL expression over the columns of result; NULL: all */
    double misses_at_most;        /* miss ratio; 1: no limit */
    double memory_at_most;        /* bytes of memory; 0: no limit */
    double tokens_per_s_at_least; /* 0: no limit; else the study must have times */
    double slowdown_at_most;      /* a token takes at most 1 + this of what it takes under the
                                     fastest plan that can be run; 0: no limit; else as above */
    bool with_bounds;             /* also policies that know the future */
} StudyConditions;

typedef struct {
    sqlite3 *sqlite;
    const char *path;   /* the caller's */
    bool has_times;     /* some result has a time */
    const char *memory; /* SQL of a row's memory: peak_bytes where the study has times, else
                           memory_bytes, of the experts alone */
    uint32_t n_layers;  /* that results are of */
    const char *link;   /* SQL of its bytes over the link: demand loads and prefetches */
} StudyReader;

/* Opens PATH read-only, and checks everything in it (sim/study_seal.h); statements may read the
 * table result and compute, and nothing else, until study_reader_trust(). Fails with ERR_INPUT when
 * PATH is no study; ERR_SCHEMA, ERR_CORRUPT. On failure READER may be closed. */
Status study_reader_open(const char *path, StudyReader *reader);
void study_reader_close(StudyReader *reader);
/* True when PATH says that it is a study, whether it can be read or not. */
bool study_says_it_is_one(const char *path);
/* Lets the caller's own statements read all tables. */
void study_reader_trust(StudyReader *reader);

/* Prepares "SELECT COLUMNS FROM result WHERE conditions ORDER BY ORDER". Fails with ERR_INPUT when
 * the expression is wrong (with SQLite's words), or asks for times that the study has not. */
Status study_reader_select(const StudyReader *reader, const char *columns,
                           const StudyConditions *conditions, const char *order,
                           sqlite3_stmt **statement);
/* True when result has COLUMN: studies of older schemas lack some. */
bool study_reader_has_column(const StudyReader *reader, const char *column);
/* The failure of CODE. */
Status study_reader_fail(const StudyReader *reader, int code);
/* Plans of the study that have no result yet. */
Status study_reader_missing(const StudyReader *reader, uint64_t *missing);

/* How many plans a study has. */
typedef struct {
    uint64_t plans;
    uint64_t results; /* plans that have one */
} StudyCheck;

Status study_reader_count(const StudyReader *reader, StudyCheck *found);

/* Opens PATH, which reads and checks everything in it, and counts. Fails as study_reader_open(). */
Status study_check(const char *path, StudyCheck *found);

#endif
