#include "traces/extension.h"

SQLITE_EXTENSION_INIT1

/* The name that SQLite looks for in a file called moebius_sqlite. */
__attribute__((visibility("default"))) int
sqlite3_moebiussqlite_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);

int sqlite3_moebiussqlite_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    static const struct {
        const char *name;
        const sqlite3_module *module;
    } TABLES[] = {{"moe_route", &MOE_ROUTE_MODULE},
                  {"expert_load", &EXPERT_LOAD_MODULE},
                  {"moe_residency", &MOE_RESIDENCY_MODULE},
                  {"moe_timing", &MOE_TIMING_MODULE},
                  {"moe_prediction", &MOE_PREDICTION_MODULE}};
    SQLITE_EXTENSION_INIT2(api)
    for (size_t i = 0; i < sizeof TABLES / sizeof *TABLES; i++) {
        int code = sqlite3_create_module_v2(db, TABLES[i].name, TABLES[i].module, NULL, NULL);
        if (code != SQLITE_OK) {
            *message = sqlite3_mprintf("cannot make the table %s", TABLES[i].name);
            return code;
        }
    }
    return SQLITE_OK;
}
