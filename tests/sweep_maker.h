/* Small traces and studies, and the rows of a study.db as text. */
#ifndef TESTS_SWEEP_MAKER_H
#define TESTS_SWEEP_MAKER_H

#include "base/status.h" /* before cmocka, which has a macro called fail */
#include "tests/support.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/study_schema.h"
#include "sim/study_seal.h"
#include "sim/sweep.h"

enum { LAYERS = 3, EXPERTS = 12, TOP_K = 2, DUMP_BYTES = 1 << 18 };

/* A trace of STEPS steps in which low experts are asked for more often. */
static inline PackedTrace make_trace(uint64_t seed, uint32_t steps)
{
    PackedTrace trace;
    TraceLayer layers[LAYERS];
    uint32_t request[4] = {0};
    uint32_t position[4] = {0};
    uint16_t experts[LAYERS * 4 * TOP_K];
    memset(layers, 0, sizeof layers);
    for (uint32_t i = 0; i < LAYERS; i++) {
        layers[i].layer = 2 * i + 1;
        layers[i].experts = EXPERTS;
        layers[i].top_k = TOP_K;
        layers[i].expert_bytes = 1000;
        snprintf(layers[i].name, sizeof layers[i].name, "layer %u", 2 * i + 1);
    }
    assert_ok(packed_trace_new(layers, LAYERS, &trace));
    for (uint32_t i = 0; i < steps; i++) {
        uint32_t tokens = 1 + random_below(&seed, 4);
        for (uint32_t j = 0; j < LAYERS * tokens; j++) {
            uint32_t first = random_below(&seed, 1 + random_below(&seed, EXPERTS));
            experts[TOP_K * j] = (uint16_t)first;
            experts[TOP_K * j + 1] = (uint16_t)((first + 1 + random_below(&seed, 3)) % EXPERTS);
        }
        TraceStep step = {.step = i,
                          .phase = PHASE_DECODE,
                          .stack = STACK_DECODER,
                          .tokens = tokens,
                          .request = request,
                          .position = position,
                          .experts = experts};
        assert_ok(packed_trace_add_step(&trace, &step));
    }
    return trace;
}

static inline Status parse_study(const char *text, Study *study)
{
    cJSON *json = NULL;
    *study = (Study){0};
    TRY(json_parse(text, strlen(text), "study.json", &json));
    Status status = study_from_json(json, "study.json", false, study);
    cJSON_Delete(json);
    return status;
}

static inline Study make_study(const char *text)
{
    Study study;
    assert_ok(parse_study(text, &study));
    return study;
}

static const char SMALL_STUDY[] =
    "{\"moebius_study\": 1, \"name\": \"small\","
    " \"grid\": {\"buffer.evict\": [\"lru\", \"fifo\", \"lifo-inactive-first\", \"random\"],"
    " \"buffer.slots\": [1, 3, 6], \"buffer.order\": [\"batch\", \"serial\"],"
    " \"buffer.scope\": [\"layer\", \"device\"]}}";
enum { SMALL_PLANS = 48, SMALL_BOUNDS = 12 };

static inline int append_row(void *argument, int columns, char **values, char **names)
{
    char *text = argument;
    size_t used = strlen(text);
    (void)names;
    for (int i = 0; i < columns && used < DUMP_BYTES - 1; i++)
        used += (size_t)snprintf(text + used, DUMP_BYTES - used, "%s|",
                                 values[i] != NULL ? values[i] : "NULL");
    assert_true(used + 2 < DUMP_BYTES);
    text[used] = '\n';
    text[used + 1] = '\0';
    return 0;
}

/* Rows of SQL as text, freed by the caller with free(). A process that was killed may hold its
 * locks for a moment longer than it has a parent that waits for it. */
static inline char *query(const char *path, const char *sql)
{
    sqlite3 *sqlite;
    char error[200] = "";
    char *text = calloc(1, DUMP_BYTES);
    assert_int_equal(sqlite3_open_v2(path, &sqlite, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(sqlite, 5000);
    if (sqlite3_exec(sqlite, sql, append_row, text, NULL) != SQLITE_OK)
        snprintf(error, sizeof error, "%s", sqlite3_errmsg(sqlite));
    sqlite3_close(sqlite);
    if (error[0] != '\0') {
        free(text);
        text = NULL;
        fail_msg("%s: %s", sql, error);
    }
    return text;
}

/* Runs SQL, which changes a study, and gives its rows the checksums of what they say then. */
static inline void change(const char *path, const char *sql)
{
    sqlite3 *sqlite;
    int64_t version = 0;
    free(query(path, sql));
    assert_int_equal(sqlite3_open_v2(path, &sqlite, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_ok(study_schema_version(sqlite, path, &version));
    if (version >= STUDY_SEALED_SCHEMA) {
        assert_int_equal(study_seal_function(sqlite), SQLITE_OK);
        assert_int_equal(sqlite3_exec(sqlite,
                                      "UPDATE study SET crc = NULL; UPDATE result SET crc = NULL;"
                                      "UPDATE layer_result SET crc = NULL;"
                                      "UPDATE learnt SET crc = NULL;"
                                      "UPDATE learnt_table SET crc = NULL",
                                      NULL, NULL, NULL),
                         SQLITE_OK);
        assert_ok(study_seal(sqlite, path));
    }
    sqlite3_close(sqlite);
}

static inline int64_t query_number(const char *path, const char *sql)
{
    char *text = query(path, sql);
    int64_t value = strtoll(text, NULL, 10);
    free(text);
    return value;
}

/* Everything but what may differ from run to run. */
static inline char *dump(const char *path)
{
    return query(
        path, "SELECT plan_id, name, plan, evict, slots, budget_bytes, scope, replay_order,"
              " bound, lookups, hits, misses, miss_ratio, assignments, assignment_hits, loads,"
              " bytes_loaded, evictions, evicted_newest, ifnull(evicted_young, -1), memory_bytes,"
              " done, 0 FROM result"
              " UNION ALL SELECT plan_id, layer, lookups, hits, misses, 0, 0, 0, 0, 0, 0, 0, 0,"
              " 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 FROM layer_result ORDER BY 23, 1, 2");
}

static inline void assert_same_rows(const char *path, const char *wanted)
{
    char *rows = dump(path);
    char *wanted_rows = dump(wanted);
    assert_string_equal(rows, wanted_rows);
    free(rows);
    free(wanted_rows);
}

/* Makes a study of schema 6 out of one of schema 7, ... */
#define WITHOUT_SEALS                                                                              \
    "ALTER TABLE study DROP COLUMN crc; ALTER TABLE result DROP COLUMN crc;"                       \
    "ALTER TABLE layer_result DROP COLUMN crc; ALTER TABLE learnt DROP COLUMN crc;"                \
    "ALTER TABLE learnt_table DROP COLUMN crc;"
/* ... of schema 4, ... */
#define WITHOUT_TIMES                                                                              \
    WITHOUT_SEALS                                                                                  \
    "ALTER TABLE result DROP COLUMN evicted_young;"                                                \
    "ALTER TABLE study DROP COLUMN hardware;"                                                      \
    "ALTER TABLE result DROP COLUMN total_ns; ALTER TABLE result DROP COLUMN tokens_per_s;"        \
    "ALTER TABLE result DROP COLUMN exposed_load_ns; ALTER TABLE result DROP COLUMN peak_bytes;"   \
    "ALTER TABLE result DROP COLUMN ttft_median_ns; ALTER TABLE result DROP COLUMN ttft_p99_ns;"   \
    "ALTER TABLE result DROP COLUMN tbt_median_ns; ALTER TABLE result DROP COLUMN tbt_p99_ns;"
/* ... of schema 3, ... */
#define WITHOUT_COMPUTE                                                                            \
    WITHOUT_TIMES                                                                                  \
    "ALTER TABLE result DROP COLUMN compute; ALTER TABLE result DROP COLUMN host_computed;"        \
    "ALTER TABLE result DROP COLUMN host_rows;"
/* ... and of schema 2. */
#define WITHOUT_PARTS                                                                              \
    WITHOUT_COMPUTE                                                                                \
    "ALTER TABLE study DROP COLUMN train_first; ALTER TABLE study DROP COLUMN train_end;"          \
    "ALTER TABLE study DROP COLUMN test_first; ALTER TABLE study DROP COLUMN test_end;"            \
    "DROP TABLE learnt; DROP TABLE learnt_table;"

static inline void sweep_once(const PackedTrace *trace, const Study *study, const char *out,
                              uint32_t jobs, SweepTotals *totals)
{
    const SweepOptions options = {.jobs = jobs};
    assert_ok(sweep_run(trace, "trace.db", study, out, &options, totals));
}

/* Plans of which half learn, and a bound for each budget. */
static const char TRAINED_STUDY[] =
    "{\"moebius_study\": 1, \"grid\": {\"buffer.evict\": [\"lru\", \"static\"],"
    " \"buffer.slots\": [2, 5], \"buffer.scope\": [\"layer\", \"device\"]},"
    " \"plans\": [{\"buffer\": {\"slots\": 3, \"budget\": \"optimal\", \"initial\": \"hottest\"}},"
    "  {\"buffer\": {\"bytes\": 4000, \"budget\": \"skew\", \"evict\": \"static\"}}]}";
enum { TRAINED_PLANS = 10, TRAINED_BOUNDS = 6, TRAINED_TABLES = 4 + 2 + 2 + 2 /* of bounds */ };

/* Progress of a sweep that stops it after some plans. */
typedef struct {
    volatile int stop;
    uint64_t after;
} Stopper;

static inline void stop_after(void *argument, uint64_t done, uint64_t total)
{
    Stopper *stopper = argument;
    (void)total;
    if (done >= stopper->after)
        stopper->stop = 1;
}

/* The row of PLAN in OUT has the counts of a replay; what a curve does not know is NULL there. */
static inline void assert_row(const char *out, const PackedTrace *trace, const Plan *plan)
{
    ReplayFuture future = {0};
    ReplayResult result;
    char sql[700];
    assert_ok(replay_prepare(trace, plan, &future));
    assert_ok(replay_run(trace, plan, &future, NULL, NULL, &result));
    const BufferCounts *counts = &result.total.counts;
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM result WHERE name = '%s' AND hits = %llu AND misses = %llu"
             " AND bytes_loaded = %llu AND ifnull(evictions, %llu) = %llu AND memory_bytes = %llu"
             " AND assignment_hits = %llu AND assignments = %llu AND done = 1"
             " AND (SELECT hits FROM layer_result WHERE layer = 3 AND"
             " layer_result.plan_id = result.plan_id) = %llu",
             plan->name, (unsigned long long)counts->hits, (unsigned long long)counts->misses,
             (unsigned long long)counts->bytes_loaded, (unsigned long long)counts->evictions,
             (unsigned long long)counts->evictions, (unsigned long long)result.memory_bytes,
             (unsigned long long)result.total.assignment_hits,
             (unsigned long long)result.total.assignments,
             (unsigned long long)result.layers[1].counts.hits);
    if (query_number(out, sql) != 1)
        fail_msg("%s: not what a replay gives", plan->name);
    replay_result_free(&result);
    replay_future_free(&future);
}

#endif
