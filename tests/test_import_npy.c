#include "base/status.h"
#include "tests/support.h"

#include <sqlite3.h>

#include "base/memory.h"
#include "tests/import_maker.h"

enum { TOKENS = 50, LAYERS = 3, TOP_K = 2, EXPERTS = 40, IDS = TOKENS * LAYERS * TOP_K };

static int32_t ids[IDS];

static void fill_ids(void)
{
    uint64_t state = 3;
    for (int i = 0; i < IDS; i++)
        ids[i] = (int32_t)random_below(&state, EXPERTS);
    ids[7] = EXPERTS - 1;
}

/* IDS as DESCR's type. */
static const char *routes_file(const char *name, const char *descr)
{
    unsigned char data[8 * IDS];
    size_t width = (size_t)(descr[2] - '0');
    for (int i = 0; i < IDS; i++) {
        int64_t wide = ids[i];
        memcpy(data + (size_t)i * width, &wide, width);
    }
    return npy_file(name, descr, "(50, 3, 2)", data, width * IDS);
}

/* Every id, request and position of the trace, against the array. */
static void assert_routes(const char *trace, uint32_t step_tokens, const uint32_t *requests,
                          const uint32_t *positions)
{
    TraceReader *reader;
    TraceStep step;
    uint32_t token = 0;
    assert_ok(trace_reader_open(trace, &reader));
    while (trace_reader_next_step(reader, &step) == OK) {
        assert_true(step.tokens <= step_tokens);
        for (uint32_t i = 0; i < step.tokens; i++) {
            assert_int_equal(step.request[i], requests[token + i]);
            assert_int_equal(step.position[i], positions[token + i]);
            for (uint32_t layer = 0; layer < LAYERS; layer++)
                for (uint32_t k = 0; k < TOP_K; k++) {
                    int32_t id = ids[((token + i) * LAYERS + layer) * TOP_K + k];
                    assert_int_equal(step.experts[(layer * step.tokens + i) * TOP_K + k],
                                     id < 0 ? EXPERT_DROPPED : id);
                }
        }
        token += step.tokens;
    }
    assert_int_equal(token, TOKENS);
    trace_reader_close(reader);
}

static void every_integer_type_gives_the_same_trace(void **unused)
{
    (void)unused;
    static const char *const TYPES[] = {"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"};
    uint32_t requests[TOKENS] = {0};
    uint32_t positions[TOKENS];
    fill_ids();
    for (uint32_t i = 0; i < TOKENS; i++)
        positions[i] = i;
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++) {
        const ImportOptions options = {.from = IMPORT_NPY,
                                       .path = routes_file("routes.npy", TYPES[i])};
        const char *out = scratch_path("types.db");
        ImportReport report = import_to(options, out);
        assert_int_equal(report.steps, TOKENS);
        assert_int_equal(report.ids, IDS);
        assert_int_equal(report.dropped, 0);
        assert_routes(out, 1, requests, positions);
    }
}

static void minus_one_is_a_token_that_was_not_computed(void **unused)
{
    (void)unused;
    fill_ids();
    ids[11] = -1;
    const ImportOptions options = {.from = IMPORT_NPY, .path = routes_file("minus.npy", "<i2")};
    const char *out = scratch_path("minus.db");
    uint32_t requests[TOKENS] = {0};
    uint32_t positions[TOKENS];
    for (uint32_t i = 0; i < TOKENS; i++)
        positions[i] = i;
    ImportReport report = import_to(options, out);
    assert_int_equal(report.dropped, 1);
    assert_routes(out, 1, requests, positions);
}

static const char SEQUENCES[] = "sequence,first_token,tokens,dataset,category,first_token_pos\n"
                                "4,0,20,math,\"algebra, \"\"hard\"\"\",7\n"
                                "9,20,1,code,,0\r\n"
                                "2,21,29,code,c,100\n";

static void sequences_keep_requests_positions_and_labels(void **unused)
{
    (void)unused;
    static const ImportStep STEPS[] = {IMPORT_STEP_TOKEN, IMPORT_STEP_SEQUENCE, IMPORT_STEP_COUNT};
    static const uint64_t WANTED_STEPS[] = {50, 3, 5};
    static const uint32_t LONGEST[] = {1, 29, 12};
    char marked[sizeof SEQUENCES + 3] = "\xEF\xBB\xBF"; /* a byte order mark, as Excel writes it */
    strcat(marked, SEQUENCES);
    uint32_t requests[TOKENS];
    uint32_t positions[TOKENS];
    fill_ids();
    for (uint32_t i = 0; i < TOKENS; i++) {
        requests[i] = i < 20 ? 4 : i < 21 ? 9 : 2;
        positions[i] = i < 20 ? 7 + i : i < 21 ? 0 : 100 + i - 21;
    }
    ImportOptions options = {.from = IMPORT_NPY,
                             .path = routes_file("routes.npy", "|u1"),
                             .sequences = text_file("sequences.csv", marked),
                             .experts = EXPERTS,
                             .expert_bytes = 12345,
                             .first_layer = 5,
                             .step_given = true,
                             .step_tokens = 12};
    const char *out = scratch_name("sequences.db");
    for (int i = 0; i < 3; i++) {
        options.step = STEPS[i];
        ImportReport report = import_to(options, out);
        assert_int_equal(report.steps, WANTED_STEPS[i]);
        assert_routes(out, LONGEST[i], requests, positions);
    }
    TraceReader *reader;
    TraceRequest request;
    uint32_t count;
    assert_ok(trace_reader_open(out, &reader));
    const TraceLayer *layers = trace_reader_layers(reader, &count);
    assert_int_equal(layers[0].layer, 5);
    assert_int_equal(layers[2].expert_bytes, 12345);
    assert_int_equal(layers[2].experts, EXPERTS);
    assert_ok(trace_reader_next_request(reader, &request));
    assert_string_equal(request.label, "code/c");
    assert_ok(trace_reader_next_request(reader, &request));
    assert_string_equal(request.label, "math/algebra, \"hard\"");
    assert_int_equal(request.prompt_tokens, 7);
    assert_int_equal(request.output_tokens, 20);
    trace_reader_close(reader);
}

static void a_label_is_made_of_the_columns_that_are_named(void **unused)
{
    (void)unused;
    fill_ids();
    const ImportOptions options = {.from = IMPORT_NPY,
                                   .path = routes_file("routes.npy", "|u1"),
                                   .sequences = text_file("labels.csv", SEQUENCES),
                                   .label = "category"};
    const char *out = scratch_name("labels.db");
    TraceReader *reader;
    TraceRequest request;
    import_to(options, out);
    assert_ok(trace_reader_open(out, &reader));
    assert_ok(trace_reader_next_request(reader, &request));
    assert_string_equal(request.label, "c");
    trace_reader_close(reader);
}

static void bad_arrays_are_refused(void **unused)
{
    (void)unused;
    ImportOptions options = {.from = IMPORT_NPY};
    float floats[8] = {0};
    uint8_t bytes[8] = {0, 1, 2, 3, 4, 5, 6, 255};
    int16_t shorts[8] = {0, 1, -2};
    options.path = npy_file("a.npy", "<f4", "(2, 2, 2)", floats, sizeof floats);
    assert_import_refused(options, "dtype: F32, expert ids are integers");
    options.path = npy_file("a.npy", ">i2", "(2, 2, 2)", shorts, sizeof shorts);
    assert_import_refused(options, "little-endian");
    options.path = npy_file("a.npy", "|u1", "(4, 2)", bytes, sizeof bytes);
    assert_import_refused(options, "2 dimensions");
    options.path = npy_file("a.npy", "|u1", "(0, 2, 2)", bytes, 0);
    assert_import_refused(options, "0 tokens");
    options.path = npy_file("a.npy", "|u1", "(2, 2, 3)", bytes, sizeof bytes);
    assert_import_refused(options, "truncated");
    options.path = npy_file("a.npy", "|u1", "(4611686018427387904, 2, 4)", bytes, sizeof bytes);
    assert_import_refused(options, "too large");
    options.path = npy_file("a.npy", "<i2", "(2, 2, 2)", shorts, sizeof shorts);
    assert_import_refused(options, "token 0: layer 1: slot 0: expert -2");
    options.path = npy_file("a.npy", "|u1", "(2, 2, 2)", bytes, sizeof bytes);
    options.experts = 5;
    assert_import_refused(options, "token 1: layer 0: slot 1: expert 5, allowed is 0 to 4");
    static const char HUGE_HEADER[] = "\x93NUMPY\x02\x00\xff\xff\xff\x7f{'descr'";
    assert_ok(file_write_all(options.path, HUGE_HEADER, sizeof HUGE_HEADER));
    assert_import_refused(options, "the header claims 2147483647 bytes");
    options.path = text_file("a.npy", "sequence,first_token\n");
    assert_import_refused(options, "not a .npy file");
    options.path = scratch_path("nowhere.npy");
    assert_import_refused(options, "cannot open");
}

static void ragged_sequences_are_refused(void **unused)
{
    (void)unused;
    static const struct {
        const char *csv;
        const char *wanted;
    } CASES[] = {
        {"", "is empty"},
        {"sequence,tokens\n0,50\n", "first_token and tokens are wanted"},
        {"first_token,tokens\n0,20\n21,29\n", "line 3: first_token: 21"},
        {"first_token,tokens\n0,20\n19,31\n", "line 3: first_token: 19"},
        {"first_token,tokens\n0,20\n20,31\n", "line 3: 31 tokens from token 20 on"},
        {"first_token,tokens\n0,20\n", "end at token 20, the array has 50"},
        {"first_token,tokens\n0,0\n0,50\n", "line 2: tokens: 0"},
        {"first_token,tokens\n0,x\n", "line 2: tokens: \"x\" is not a whole number"},
        {"first_token,tokens\n0,-1\n", "is not a whole number"},
        {"first_token,tokens\n0\n", "line 2: 1 fields, the row of column names has 2"},
        {"first_token,tokens,label\n0,20,a\n20,30\n", "line 3: 2 fields, the row of column names"},
        {"first_token,tokens\n0,50,7\n", "line 2: 3 fields, the row of column names has 2"},
        {"first_token,tokens,tokens\n0,50,50\n", "line 1: the column \"tokens\" stands twice"},
        {"first_token,tokens,label\n0,50,\"a\n", "a quote does not end"},
        {"first_token,tokens,label\n0,50,\"a\"b\n", "text behind the closing quote"},
        {"sequence,first_token,tokens\n3,0,25\n3,25,25\n", "sequence: 3 stands twice"},
        {"first_token,tokens\n0,99999999999999999999\n", "fits 64 bits"},
        {"first_token,tokens,first_token_pos\n0,50,4294967290\n", "is above 4294967295"},
    };
    fill_ids();
    ImportOptions options = {.from = IMPORT_NPY, .path = routes_file("routes.npy", "|u1")};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        options.sequences = text_file("bad.csv", CASES[i].csv);
        assert_import_refused(options, CASES[i].wanted);
    }
    options.sequences = text_file("bad.csv", SEQUENCES);
    options.label = "dataset,nothing";
    assert_import_refused(options, "no column \"nothing\"");
}

enum { SIZED_TOKENS = 8192, SIZED_IDS = 24 * 4 };

/* Imports the same 8192 tokens in steps of so many; returns the bytes of the trace OUT. */
static size_t bytes_in_steps_of(uint32_t step_tokens, const char *out)
{
    static uint8_t routes[SIZED_TOKENS * SIZED_IDS];
    FileMap map;
    uint64_t state = 9;
    for (size_t i = 0; i < sizeof routes; i++)
        routes[i] = (uint8_t)random_below(&state, 32);
    const char *path = npy_file("large.npy", "|u1", "(8192, 24, 4)", routes, sizeof routes);
    import_to((ImportOptions){.from = IMPORT_NPY,
                              .path = path,
                              .step_given = true,
                              .step = IMPORT_STEP_COUNT,
                              .step_tokens = step_tokens},
              out);
    assert_ok(file_map_open(out, &map));
    size_t bytes = map.bytes;
    file_map_close(&map);
    return bytes;
}

/* Ids are a byte each, request and position four; every table of the schema takes a page. */
static void a_trace_is_hardly_larger_than_what_it_holds(void **unused)
{
    (void)unused;
    static const struct {
        uint32_t step_tokens;
        double most; /* of all bytes */
    } CASES[] = {{1, 1.49}, {16, 1.08}, {64, 1.04}, {256, 1.03}, {1024, 1.03}, {2048, 1.03}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        double share = (double)bytes_in_steps_of(CASES[i].step_tokens, scratch_name("large.db")) /
                       (SIZED_TOKENS * (SIZED_IDS + 8.0));
        if (share > CASES[i].most)
            fail_msg("%u tokens a step: %.3f of the bytes, at most %.2f", CASES[i].step_tokens,
                     share, CASES[i].most);
    }
}

static void no_other_page_size_makes_a_trace_much_smaller(void **unused)
{
    (void)unused;
    static const uint32_t STEPS[] = {1, 2, 5, 16, 40, 64, 200, 256, 300, 1024};
    for (size_t i = 0; i < sizeof STEPS / sizeof *STEPS; i++) {
        const char *out = scratch_name("paged.db");
        const char *other = scratch_name("vacuumed.db");
        size_t bytes = bytes_in_steps_of(STEPS[i], out);
        for (int page = 512; page <= 65536; page *= 2) {
            char sql[600];
            FileMap map;
            sqlite3 *db;
            unlink(other);
            snprintf(sql, sizeof sql, "PRAGMA page_size = %d; VACUUM INTO '%s'", page, other);
            assert_int_equal(sqlite3_open(out, &db), SQLITE_OK);
            assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
            sqlite3_close(db);
            assert_ok(file_map_open(other, &map));
            if ((double)bytes > 1.015 * (double)map.bytes)
                fail_msg("%u tokens a step: %zu bytes, with pages of %d they are %zu", STEPS[i],
                         bytes, page, map.bytes);
            file_map_close(&map);
        }
    }
}

static void an_existing_file_is_never_replaced(void **unused)
{
    (void)unused;
    ImportReport report;
    fill_ids();
    const char *out = text_file("there.db", "mine");
    const ImportOptions options = {
        .from = IMPORT_NPY, .path = routes_file("routes.npy", "|u1"), .out = out};
    assert_int_equal(trace_import(&options, &report), ERR_OUTPUT);
    char *text;
    size_t bytes;
    assert_ok(file_read_all(out, 100, &text, &bytes));
    assert_string_equal(text, "mine");
    mem_free(text);
}

static void an_interrupt_leaves_nothing(void **unused)
{
    (void)unused;
    fill_ids();
    volatile int stop = 1;
    ImportReport report;
    char *out = scratch_name("stopped.db");
    const ImportOptions options = {
        .from = IMPORT_NPY, .path = routes_file("routes.npy", "|u1"), .out = out, .stop = &stop};
    assert_int_equal(trace_import(&options, &report), ERR_INTERRUPTED);
    assert_nothing_written(out);
}

static void every_failed_allocation_leaves_nothing(void **unused)
{
    (void)unused;
    fill_ids();
    char *out = scratch_name("memory.db");
    const ImportOptions options = {.from = IMPORT_NPY,
                                   .path = routes_file("routes.npy", "|u1"),
                                   .sequences = text_file("memory.csv", SEQUENCES),
                                   .out = out};
    assert_survives_lost_memory(&options);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_integer_type_gives_the_same_trace),
        cmocka_unit_test(minus_one_is_a_token_that_was_not_computed),
        cmocka_unit_test(sequences_keep_requests_positions_and_labels),
        cmocka_unit_test(a_label_is_made_of_the_columns_that_are_named),
        cmocka_unit_test(bad_arrays_are_refused),
        cmocka_unit_test(ragged_sequences_are_refused),
        cmocka_unit_test(a_trace_is_hardly_larger_than_what_it_holds),
        cmocka_unit_test(no_other_page_size_makes_a_trace_much_smaller),
        cmocka_unit_test(an_existing_file_is_never_replaced),
        cmocka_unit_test(an_interrupt_leaves_nothing),
        cmocka_unit_test(every_failed_allocation_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
