/* What the plans of a study have learnt, in study.db, so that the best can be written as a plan
 * that needs no trace to learn from:
 *
 *     learnt_table(table_id, text)       a table as the JSON of its key (policies/plan_table.h)
 *     learnt(plan_id, path, table_id)    it is the value at PATH of the plan
 *
 * The plan in result is the one that the study asked for, with nothing learnt. */
#ifndef SIM_STUDY_LEARNT_H
#define SIM_STUDY_LEARNT_H

#include <sqlite3.h>

#include "policies/plan.h"

/* With MORE columns at the end of both. */
#define STUDY_LEARNT_SCHEMA(more)                                                                  \
    "CREATE TABLE learnt_table(table_id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE" more ");"  \
    "CREATE TABLE learnt(plan_id INTEGER NOT NULL, path TEXT NOT NULL,"                            \
    " table_id INTEGER NOT NULL" more ", PRIMARY KEY(plan_id, path)) WITHOUT ROWID;"

/* Enters what LEARNT has and PLAN had to learn. PATH names the file in errors. */
Status study_learnt_write(sqlite3 *sqlite, const char *path, int64_t plan_id, const Plan *plan,
                          const Plan *learnt);
/* Puts what the plan has learnt into its JSON. A study of an older schema has nothing learnt. */
Status study_learnt_read(sqlite3 *sqlite, const char *path, int64_t plan_id, cJSON *plan);

#endif
