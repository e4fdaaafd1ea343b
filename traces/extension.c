#include "traces/extension.h"

SQLITE_EXTENSION_INIT1

/* The name that SQLite looks for in a file called moebius_sqlite. */
__attribute__((visibility("default"))) int
sqlite3_moebiussqlite_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);

int sqlite3_moebiussqlite_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    static const TableShape *const TABLES[] = {&MOE_ROUTE_TABLE, &EXPERT_LOAD_TABLE,
                                               &MOE_RESIDENCY_TABLE, &MOE_TIMING_TABLE,
                                               &MOE_PREDICTION_TABLE};
    SQLITE_EXTENSION_INIT2(api)
    for (size_t i = 0; i < sizeof TABLES / sizeof *TABLES; i++) {
        int code = sqlite3_create_module_v2(db, TABLES[i]->name, TABLES[i]->module,
                                            (void *)TABLES[i], NULL);
        if (code != SQLITE_OK) {
            *message = sqlite3_mprintf("cannot make the table %s", TABLES[i]->name);
            return code;
        }
    }
    return SQLITE_OK;
}
