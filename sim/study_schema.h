/* The tables of study.db (sim/study_db.h says what is in them), and those of older versions. */
#ifndef SIM_STUDY_SCHEMA_H
#define SIM_STUDY_SCHEMA_H

#include <sqlite3.h>
#include <stdint.h>

#include "base/status.h"

enum {
    STUDY_APPLICATION_ID = 0x4D6F5344 /* "MoSD" */,
    STUDY_SCHEMA = 7,
    STUDY_SEALED_SCHEMA = 7 /* rows have checksums from here on */
};

/* Makes the tables in an open database without any. */
Status study_schema_create(sqlite3 *sqlite, const char *path);
/* Fails unless the open database at PATH is a study of a schema that this program knows;
 * ERR_SCHEMA: it is newer. */
Status study_schema_check(sqlite3 *sqlite, const char *path);
/* Adds what a study of an older schema lacks, and writes its plans as this program does, so that
 * they are found again. To be called in a transaction, after study_verify(). */
Status study_schema_upgrade(sqlite3 *sqlite, const char *path);
/* The version that the database says. */
Status study_schema_version(sqlite3 *sqlite, const char *path, int64_t *version);

#endif
