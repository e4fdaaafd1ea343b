/* Damage to a trace is noticed, wherever it is. */
#define _XOPEN_SOURCE 700
#include "base/status.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "tests/random_trace.h"
#include "traces/packed.h"
#include "traces/rowcrc.h"
#include "tests/trace_file_maker.h"

/* Damage by one SQL statement, and what must be said. */
typedef struct {
    const char *sql;
    const char *message;
} Damage;

static const Damage DAMAGES[] = {
    {"UPDATE routing SET experts = x'00' WHERE step = 4", "step 4: routing: experts: 1 bytes"},
    {"UPDATE routing SET experts = 7 WHERE step = 4",
     "step 4: routing: experts: an integer, wanted is a blob"},
    {"UPDATE routing SET weights = zeroblob(3) WHERE step = 2", "step 2: routing: weights: 3"},
    {"UPDATE routing SET scores = zeroblob(3) WHERE step = 2", "routing: scores: 3 bytes"},
    {"UPDATE routing SET weights = NULL WHERE step = 2", "step 2: routing: crc does not match"},
    {"UPDATE routing SET crc = crc + 1 WHERE step = 6", "step 6: routing: crc does not match"},
    {"UPDATE routing SET crc = crc + 4294967296 WHERE step = 6", "routing: crc does not"},
    {"UPDATE routing SET crc = 'x' WHERE step = 6", "step 6: routing: crc: a text"},
    {"DELETE FROM routing WHERE step = 4", "step 4: routing: missing"},
    {"DELETE FROM routing WHERE step = 18", "step 18: routing: missing"},
    {"DELETE FROM step WHERE step = 4", "step 6: routing: missing; the next row is of step 4"},
    {"DELETE FROM step WHERE step = 18", "step 18: routing: there is no such step"},
    {"DELETE FROM step WHERE step = 4; DELETE FROM routing WHERE step = 4",
     "9 steps, the digest says 10"},
    {"UPDATE step SET start_ns = start_ns + 1 WHERE step = 8", "step 8: crc does not match"},
    {"UPDATE step SET start_ns = -1 WHERE step = 8", "step 8: start_ns: -1, allowed is 0"},
    {"UPDATE step SET start_ns = 1.5 WHERE step = 8", "step 8: start_ns: a real number"},
    {"UPDATE step SET tokens = 0 WHERE step = 8", "step 8: tokens: 0, allowed is 1 to"},
    {"UPDATE step SET tokens = 16777217 WHERE step = 8", "step 8: tokens: 16777217, allowed"},
    {"UPDATE step SET tokens = 16777216 WHERE step = 8", "step 8: routing: experts: "},
    {"UPDATE step SET token = x'00' WHERE step = 8", "step 8: token: 1 bytes"},
    {"UPDATE step SET request = zeroblob(400) WHERE step = 8", "step 8: request: 400 bytes"},
    {"UPDATE step SET phase = 'encode' WHERE step = 8", "no encoder layer"},
    {"PRAGMA ignore_check_constraints = 1; UPDATE step SET phase = 'nap' WHERE step = 8",
     "step 8: phase: \"nap\", allowed are"},
    {"UPDATE step SET step = 4294967296 WHERE step = 18", "step 4294967296: step: 4294967296"},
    {"UPDATE layer SET d_ff = 9", "layer: the rows do not match their digest"},
    {"UPDATE layer SET experts = 65536", "layer 3: experts: 65536, allowed is 1 to 65535"},
    {"UPDATE layer SET experts = 0", "layer 3: experts: 0"},
    {"UPDATE layer SET top_k = 129", "layer 3: top_k: 129, allowed is 1 to 128"},
    {"UPDATE layer SET expert_bytes = 1099511627777",
     "layer 3: expert_bytes: 1099511627777, allowed is 0 to 1099511627776"},
    {"UPDATE layer SET experts = 65535, expert_bytes = 1099511627776",
     "layer 3: expert_bytes: all experts up to here take more than 9007199254740992 bytes"},
    {"UPDATE layer SET name = 'a' || char(0) || 'b'", "layer 3: name: the text holds a zero"},
    {"DELETE FROM layer", "0 MoE layers"},
    {"UPDATE run SET model = 'other'", "run: does not match its digest"},
    {"UPDATE run SET id = 2", "run: does not match its digest"},
    {"UPDATE run SET device = x'00'", "run: device: a blob, wanted is a text"},
    {"DELETE FROM run", "run: no row"},
    {"INSERT INTO run SELECT 2, created, tool, source, model, NULL, NULL, NULL, NULL FROM run",
     "run: more than one row"},
    {"UPDATE run SET notes = NULL", "run: notes: the digest is missing"},
    {"UPDATE run SET notes = json_remove(notes, '$.digest')", "notes: the digest is missing"},
    {"UPDATE run SET notes = replace(notes, 'seed', 'sead')", "the digest does not match"},
    {"UPDATE run SET notes = replace(notes, 'true', 'false')", "the digest does not match"},
    {"UPDATE request SET label = 'b' WHERE request = 1", "request: the rows do not match"},
    {"UPDATE request SET prompt_tokens = -1 WHERE request = 1", "request 1: prompt_tokens: -1"},
    {"DELETE FROM request WHERE request = 1", "request: 1 rows, the digest says 2"},
    {"UPDATE residency SET events = x'00'", "residency: events: 1 bytes, wanted is a multiple"},
    {"UPDATE residency SET rank = 256", "residency: rank: 256"},
    {"UPDATE residency SET crc = crc + 1", "residency: crc does not match"},
    {"UPDATE timing SET ops = x'00'", "timing: ops: 1 bytes"},
    {"UPDATE timing SET crc = 0", "timing: crc does not match"},
    {"DELETE FROM timing WHERE step = (SELECT min(step) FROM timing)", "the digest says"},
    {"DROP TABLE timing", "table timing: missing; 6 of the 7 tables"},
    {"DROP TABLE step; CREATE VIEW step AS SELECT * FROM routing", "6 of the 7 tables"},
    {"ALTER TABLE step RENAME COLUMN tokens TO n", "no such column: tokens"},
};

static void every_damage_names_its_place(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof DAMAGES / sizeof *DAMAGES; i++) {
        const char *path = make_trace("damage.db", 10);
        execute(path, DAMAGES[i].sql);
        Status status = check(path);
        if (status != ERR_CORRUPT || strstr(error_message(), DAMAGES[i].message) == NULL)
            fail_msg("%s: status %d: \"%s\"", DAMAGES[i].sql, status, error_message());
        read_everything(path);
    }
}

static const Damage PREDICTION_DAMAGES[] = {
    {"UPDATE prediction SET experts = x'00' WHERE step = 4 AND distance = 1",
     "step 4: prediction: experts: 1 bytes, wanted are"},
    {"UPDATE prediction SET experts = 'a' WHERE step = 4",
     "step 4: prediction: experts: a text, wanted is a blob"},
    {"UPDATE prediction SET scores = zeroblob(1) WHERE step = 4", "step 4: prediction: scores: 1"},
    {"UPDATE prediction SET scores = zeroblob(length(scores)) "
     "WHERE step = 4",
     "step 4: prediction: crc does not match"},
    {"UPDATE prediction SET crc = crc + 1 WHERE step = 4 AND distance = 2",
     "step 4: prediction: crc does not match"},
    {"UPDATE prediction SET distance = 3 WHERE step = 4 AND distance = 2",
     "step 4: prediction: distance: 3, allowed is 1 to 2"},
    {"UPDATE prediction SET distance = 0 WHERE step = 4 AND distance = 2",
     "step 4: prediction: distance: 0, allowed is 1"},
    {"UPDATE prediction SET distance = 5000 WHERE step = 4 AND distance = 2",
     "prediction: distance: 5000, allowed is 1 to 1023"},
    {"UPDATE prediction SET step = 5 WHERE step = 4 AND distance = 2",
     "step 5: prediction: there is no such step"},
    {"DELETE FROM prediction WHERE step = 4 AND distance = 2",
     "prediction: 19 rows, the digest says 20"},
    {"DROP TABLE prediction", "prediction: the table is missing"},
};

static void every_damage_to_predictions_names_its_place(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof PREDICTION_DAMAGES / sizeof *PREDICTION_DAMAGES; i++) {
        const char *path = make_predicted_trace("damage.db", 10);
        assert_ok(check(path));
        execute(path, PREDICTION_DAMAGES[i].sql);
        Status status = check(path);
        if (status != ERR_CORRUPT || strstr(error_message(), PREDICTION_DAMAGES[i].message) == NULL)
            fail_msg("%s: status %d: \"%s\"", PREDICTION_DAMAGES[i].sql, status, error_message());
        read_everything(path);
    }
}

/* One row of the plain reading below: its columns' types and values, summed up. */
typedef struct {
    uint32_t crc;
    bool readable;
} Content;

static uint32_t add_column(uint32_t crc, sqlite3_stmt *row, int column)
{
    switch (sqlite3_column_type(row, column)) {
    case SQLITE_NULL:
        return rowcrc_null(crc);
    case SQLITE_INTEGER:
        return rowcrc_integer(crc, sqlite3_column_int64(row, column));
    case SQLITE_FLOAT: {
        double value = sqlite3_column_double(row, column);
        return rowcrc_text(crc, (const char *)&value, sizeof value);
    }
    case SQLITE_TEXT: {
        const char *text = (const char *)sqlite3_column_text(row, column);
        return rowcrc_text(crc, text, (size_t)sqlite3_column_bytes(row, column));
    }
    default: {
        const void *blob = sqlite3_column_blob(row, column);
        size_t bytes = (size_t)sqlite3_column_bytes(row, column);
        return rowcrc_blob(crc, blob, blob != NULL ? bytes : 0);
    }
    }
}

/* What a user of plain SQL reads in all tables, without any help of ours. */
static Content plain_content(const char *path)
{
    static const char *const selects[] = {
        "SELECT id, created, tool, source, model, model_config, device, plan, notes FROM run",
        "SELECT layer, name, stack, experts, top_k, shared_experts, d_model, d_ff, expert_bytes, "
        "gate FROM layer",
        "SELECT request, label, arrival_ns, prompt_tokens, output_tokens FROM request",
        "SELECT step, phase, start_ns, duration_ns, tokens, request, position, token, rank, crc "
        "FROM step",
        "SELECT step, experts, weights, scores, crc FROM routing",
        "SELECT step, rank, events, crc FROM residency",
        "SELECT step, rank, ops, crc FROM timing",
        "SELECT step, distance, experts, scores, crc FROM prediction"};
    Content content = {.readable = true};
    sqlite3 *db;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK)
        content.readable = false;
    for (size_t i = 0; content.readable && i < sizeof selects / sizeof *selects; i++) {
        sqlite3_stmt *row;
        if (sqlite3_prepare_v2(db, selects[i], -1, &row, NULL) != SQLITE_OK) {
            content.readable = false;
            break;
        }
        int code;
        content.crc = rowcrc_integer(content.crc, (int64_t)i);
        while ((code = sqlite3_step(row)) == SQLITE_ROW)
            for (int column = 0; column < sqlite3_column_count(row); column++)
                content.crc = add_column(content.crc, row, column);
        content.readable = code == SQLITE_DONE;
        sqlite3_finalize(row);
    }
    sqlite3_close(db);
    return content;
}

static void remove_beside(const char *path)
{
    char name[512];
    static const char *const suffixes[] = {"-wal", "-shm", "-journal"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

/* Writes COUNT bytes at OFFSET, below SQLite. */
static void poke(const char *path, size_t offset, const void *bytes, size_t count)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_true(pwrite(fd, bytes, count, (off_t)offset) == (ssize_t)count);
    close(fd);
}

/* True when the damage can be read by plain SQL as something else, or not be read. Fails the test
 * when check misses that, or when anything crashes. */
static bool assert_damage_is_noticed(const char *path, const Content *good, size_t round,
                                     const char *what)
{
    Content content = plain_content(path);
    bool harmful = !content.readable || content.crc != good->crc;
    Status status = check(path);
    if (harmful && status == OK)
        fail_msg("%s: check noticed nothing", what);
    PackedTrace packed;
    if (round % 2 == 0)
        read_everything(path);
    else if (packed_trace_load(path, &packed) == OK)
        packed_trace_free(&packed);
    remove_beside(path);
    return harmful;
}

static void every_change_of_one_or_two_bytes_to_a_payload_is_noticed(void **unused)
{
    (void)unused;
    enum { ROUNDS = 2000 };
    const char *path = scratch_path("flips.db");
    RandomTrace trace = random_trace(12);
    trace.max_tokens = 8;
    trace.scores = true;
    trace.distances = 2;
    char *original;
    size_t bytes;
    unsigned harmful = 0;
    uint64_t state = 77;
    assert_ok(record_random(path, &trace, 30, NULL));
    assert_ok(file_read_all(path, 1 << 24, &original, &bytes));
    Content good = plain_content(path);
    assert_true(good.readable);
    for (unsigned round = 0; round < ROUNDS; round++) {
        char what[128];
        size_t offsets[2] = {0};
        size_t changes = 1 + random_below(&state, 2);
        for (size_t i = 0; i < changes; i++) {
            offsets[i] = random_below(&state, (uint32_t)bytes);
            if (i == 1 && random_below(&state, 2) == 0)
                offsets[1] = (offsets[0] + 1) % bytes;
            char changed = (char)(original[offsets[i]] ^ (1 + random_below(&state, 255)));
            poke(path, offsets[i], &changed, 1);
        }
        snprintf(what, sizeof what, "round %u: %zu change(s), the first at %zu", round, changes,
                 offsets[0]);
        harmful += assert_damage_is_noticed(path, &good, round, what);
        for (size_t i = 0; i < changes; i++)
            poke(path, offsets[i], original + offsets[i], 1);
    }
    assert_true(harmful > ROUNDS / 4);
    assert_ok(check(path));
    mem_free(original);
    print_message("%u of %d changes reached a payload\n", harmful, ROUNDS);
}

/* Every byte of the first pages, where the header, the schema and the run row lie. */
static void every_byte_of_the_head_may_change(void **unused)
{
    (void)unused;
    const char *path = make_trace("head.db", 3);
    char *original;
    size_t bytes;
    uint64_t state = 5;
    assert_ok(file_read_all(path, 1 << 24, &original, &bytes));
    Content good = plain_content(path);
    size_t changed_bytes = 0;
    size_t end = bytes < 3 * 4096 ? bytes : 3 * 4096;
    for (size_t offset = 0; offset < end; offset++) {
        char what[64];
        if (original[offset] == 0 && offset % 64 != 0)
            continue; /* mostly unused space */
        snprintf(what, sizeof what, "byte %zu", offset);
        char changed = random_below(&state, 2) ? 0 : (char)(original[offset] ^ 0x80);
        poke(path, offset, &changed, 1);
        assert_damage_is_noticed(path, &good, changed_bytes++, what);
        poke(path, offset, original + offset, 1);
    }
    mem_free(original);
}

static void a_truncated_file_is_noticed(void **unused)
{
    (void)unused;
    const char *path = make_trace("short.db", 40);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    for (off_t length = info.st_size - 512; length > 0; length -= 512) {
        assert_int_equal(truncate(path, length), 0);
        assert_int_not_equal(check(path), OK);
        read_everything(path);
    }
}

/* What was read ahead is there, or not; what was not is an error, and no signal. */
static void a_file_that_is_cut_while_it_is_read_is_an_error(void **unused)
{
    (void)unused;
    enum { STEPS = 5000 };
    const char *path = make_trace("cut.db", STEPS);
    struct stat info;
    TraceReader *reader;
    TraceStep step;
    Status status = OK;
    uint32_t n = 0;
    assert_int_equal(stat(path, &info), 0);
    assert_true(info.st_size > 1 << 19);
    assert_ok(trace_reader_open(path, &reader));
    for (; n < 5; n++)
        assert_ok(trace_reader_next_step(reader, &step));
    assert_int_equal(truncate(path, info.st_size / 4), 0);
    for (; status == OK; n++)
        status = trace_reader_next_step(reader, &step);
    assert_true(status != STATUS_END && n < STEPS);
    assert_non_null(strstr(error_message(), "cut.db"));
    trace_reader_close(reader);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_damage_names_its_place),
        cmocka_unit_test(every_damage_to_predictions_names_its_place),
        cmocka_unit_test(every_change_of_one_or_two_bytes_to_a_payload_is_noticed),
        cmocka_unit_test(every_byte_of_the_head_may_change),
        cmocka_unit_test(a_truncated_file_is_noticed),
        cmocka_unit_test(a_file_that_is_cut_while_it_is_read_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
