#include "base/status.h"

#include "tests/support.h"

#include <stdio.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/npy.h"
#include "traces/safetensors.h"
#include "exec/tokens.h"

enum { VOCABULARY = 2048 };

static const char *write_file(const char *name, const void *data, size_t bytes)
{
    const char *path = scratch_path(name);
    assert_ok(file_write_all(path, data, bytes));
    return path;
}

static const char *write_text(const char *name, const char *text)
{
    return write_file(name, text, strlen(text));
}

/* A .npy file of format MAJOR.0 with HEADER as it stands. */
static const char *write_npy(unsigned major, const char *header, const void *data, size_t bytes)
{
    unsigned char file[4096];
    size_t length = strlen(header);
    size_t start = major == 1 ? 10 : 12;
    assert_true(start + length + bytes <= sizeof file);
    memcpy(file, "\x93NUMPY", 6);
    file[6] = (unsigned char)major;
    file[7] = 0;
    for (size_t i = 8; i < start; i++)
        file[i] = (unsigned char)(length >> 8 * (i - 8));
    memcpy(file + start, header, length);
    if (bytes > 0)
        memcpy(file + start + length, data, bytes);
    return write_file("t.npy", file, start + length + bytes);
}

typedef struct {
    const char *name;
    Dtype dtype;
    uint32_t rank;
    uint64_t shape[3];
    const void *data;
    size_t bytes;
} Stream;

static const char *write_streams(const Stream *streams, size_t n)
{
    const char *path = scratch_path("t.safetensors");
    Tensor specs[8];
    SafeTensorsWriter *writer = NULL;
    for (size_t i = 0; i < n; i++) {
        specs[i] =
            (Tensor){.name = streams[i].name, .dtype = streams[i].dtype, .rank = streams[i].rank};
        memcpy(specs[i].shape, streams[i].shape, sizeof streams[i].shape);
    }
    assert_ok(safetensors_writer_open(path, specs, n, &writer));
    for (size_t i = 0; i < n; i++)
        assert_ok(safetensors_writer_append(writer, i, streams[i].data, streams[i].bytes));
    assert_ok(safetensors_writer_commit(writer));
    return path;
}

static void assert_refused(const char *path, const char *key, const char *why)
{
    TokenSet set = {0};
    int64_t before = mem_live_blocks();
    error_clear();
    if (tokens_load(path, key, VOCABULARY, &set) == OK)
        fail_msg("accepted, though %s", why);
    if (strstr(error_message(), why) == NULL || strstr(error_message(), path) == NULL)
        fail_msg("\"%s\" does not say \"%s\" and the path", error_message(), why);
    assert_int_equal(mem_live_blocks(), before);
}

static void assert_request(const TokenRequest *request, const char *label, const uint32_t *tokens,
                           uint32_t n_tokens)
{
    assert_string_equal(request->label, label);
    assert_int_equal(request->n_tokens, n_tokens);
    assert_memory_equal(request->tokens, tokens, n_tokens * sizeof *tokens);
}

/* COUNT values below 128 as little-endian integers of SIZE bytes. */
static void encode(const uint32_t *values, size_t count, size_t size, unsigned char *out)
{
    memset(out, 0, count * size);
    for (size_t i = 0; i < count; i++)
        for (size_t b = 0; b < size && b < 4; b++)
            out[i * size + b] = (unsigned char)(values[i] >> 8 * b);
}

static void npy_of_every_integer_width_and_version_is_read(void **state)
{
    (void)state;
    static const char *const CODES[] = {"|u1", "|i1", "<u1", "<u2", "<i2",
                                        "<u4", "<i4", "<u8", "<i8"};
    static const uint32_t WANTED[6] = {0, 1, 127, 77, 5, 100};
    for (size_t c = 0; c < sizeof CODES / sizeof *CODES; c++)
        for (unsigned major = 1; major <= 3; major++)
            for (int rows = 1; rows <= 3; rows++) {
                unsigned char data[48];
                char header[128];
                char shape[16] = "(6,)";
                size_t size = (size_t)(CODES[c][2] - '0');
                if (rows > 1)
                    snprintf(shape, sizeof shape, "(%d, %d)", rows, 6 / rows);
                snprintf(header, sizeof header,
                         "{'descr': '%s', 'fortran_order': False, 'shape': %s, }     \n", CODES[c],
                         shape);
                encode(WANTED, 6, size, data);
                TokenSet set;
                assert_ok(
                    tokens_load(write_npy(major, header, data, 6 * size), NULL, VOCABULARY, &set));
                assert_int_equal(set.n_requests, rows);
                assert_int_equal(set.is_batch, rows > 1);
                for (int r = 0; r < rows; r++)
                    assert_request(&set.requests[r], "", WANTED + r * (6 / rows),
                                   (uint32_t)(6 / rows));
                tokens_free(&set);
            }
}

static void a_bad_npy_is_refused(void **state)
{
    (void)state;
    static const int32_t DATA[4] = {1, 2, 3, 4};
    static const struct {
        const char *header, *why;
    } BAD[] = {
        {"{'descr': '<i4', 'fortran_order': True, 'shape': (2, 2), }", "Fortran order"},
        {"{'descr': '>i4', 'fortran_order': False, 'shape': (4,), }", "'>i4' is not supported"},
        {"{'descr': '|i4', 'fortran_order': False, 'shape': (4,), }", "'|i4' is not supported"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", "dtype F32, tokens must be"},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (16,), }", "dtype BOOL, tokens must"},
        {"{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }", "not supported"},
        {"{'descr': '', 'fortran_order': False, 'shape': (1,), }", "not supported"},
        {"{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (4,), }", "a string"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (5,), }", "truncated"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }", "16 data bytes, but"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (), }", "16 data bytes, but"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2, 1), }", "3 dimensions"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
         "too large"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
         "too large"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,4), }", "too many"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (-4,), }", "shape"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': 4, }", "a tuple is wanted"},
        {"{'descr': '<i4', 'fortran_order': 0, 'shape': (4,), }", "True or False"},
        {"{'descr': '<i4', 'fortran_order': False, }", "are wanted"},
        {"{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (4,)}", "twice"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (4,), 'x': 1}", "unknown key 'x'"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (4,), } x", "after the '}'"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (4,)", "',' or '}' is wanted"},
        {"{'descr': '<i4", "a string does not end"},
        {"", "'{' is wanted"},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        assert_refused(write_npy(1, BAD[i].header, DATA, sizeof DATA), NULL, BAD[i].why);
    const char *good = "{'descr': '<i4', 'fortran_order': False, 'shape': (4,), }";
    assert_refused(write_npy(4, good, DATA, sizeof DATA), NULL, "format 4.0 is not supported");
    assert_refused(write_npy(1, good, DATA, sizeof DATA), "k", "a .npy file has no keys");
    assert_refused(write_text("t.npy", "PK\3\4........"), NULL, "not a .npy file");
    assert_refused(write_text("t.npy", ""), NULL, "not a .npy file");
    assert_refused(write_file("t.npy", "\x93NUMPY\2\0\1\0", 10), NULL, "too short");
    assert_refused(write_file("t.npy", "\x93NUMPY\1\0\xFF\xFF{", 11), NULL, "claims 65535 bytes");
    assert_refused(write_npy(1, "{'descr':'<i4','fortran_order':False,'shape':(0,)}", NULL, 0),
                   NULL, "holds no tokens");
    assert_refused(write_npy(1, "{'descr':'<i4','fortran_order':False,'shape':(9,0)}", NULL, 0),
                   NULL, "holds no tokens");
}

static void safetensors_streams_come_in_key_order(void **state)
{
    (void)state;
    static const int64_t B[3] = {7, 8, 2047};
    static const uint8_t A[4] = {1, 2, 3, 255};
    static const uint16_t C[2] = {2000, 9};
    const Stream streams[] = {{"b", DTYPE_I64, 1, {3}, B, sizeof B},
                              {"c", DTYPE_U16, 1, {2}, C, sizeof C},
                              {"a", DTYPE_U8, 2, {2, 2}, A, sizeof A}};
    const char *path = write_streams(streams, 3);
    TokenSet set;
    assert_ok(tokens_load(path, NULL, VOCABULARY, &set));
    assert_int_equal(set.n_requests, 4);
    assert_false(set.is_batch);
    assert_request(&set.requests[0], "a", (uint32_t[]){1, 2}, 2);
    assert_request(&set.requests[1], "a", (uint32_t[]){3, 255}, 2);
    assert_request(&set.requests[2], "b", (uint32_t[]){7, 8, 2047}, 3);
    assert_request(&set.requests[3], "c", (uint32_t[]){2000, 9}, 2);
    tokens_free(&set);
    assert_ok(tokens_load(path, "a", VOCABULARY, &set));
    assert_int_equal(set.n_requests, 2);
    assert_true(set.is_batch);
    tokens_free(&set);
    assert_ok(tokens_load(path, "b", VOCABULARY, &set));
    assert_int_equal(set.n_requests, 1);
    assert_false(set.is_batch);
    assert_request(&set.requests[0], "b", (uint32_t[]){7, 8, 2047}, 3);
    tokens_free(&set);
    assert_refused(path, "z", "key \"z\": not in the file, which has a, b, c");
}

static void a_bad_stream_is_named_with_its_key(void **state)
{
    (void)state;
    static const float F[2] = {1, 2};
    static const int32_t TOO_LARGE[4] = {1, 2, 3, 9000};
    static const int16_t NEGATIVE[2] = {0, -3};
    static const int64_t LEAST[1] = {INT64_MIN};
    static const uint64_t MOST[1] = {UINT64_MAX};
    const Stream streams[] = {{"float", DTYPE_F32, 1, {2}, F, sizeof F},
                              {"large", DTYPE_I32, 1, {4}, TOO_LARGE, sizeof TOO_LARGE},
                              {"rows", DTYPE_I32, 2, {2, 2}, TOO_LARGE, sizeof TOO_LARGE},
                              {"negative", DTYPE_I16, 1, {2}, NEGATIVE, sizeof NEGATIVE},
                              {"least", DTYPE_I64, 1, {1}, LEAST, sizeof LEAST},
                              {"most", DTYPE_U64, 1, {1}, MOST, sizeof MOST},
                              {"scalar", DTYPE_I64, 0, {0}, LEAST, sizeof LEAST},
                              {"empty", DTYPE_I32, 1, {0}, F, 0}};
    const char *path = write_streams(streams, 8);
    assert_refused(path, "float", "key float: dtype F32, tokens must be integers");
    assert_refused(path, "large", "key large: position 3: token 9000, the vocabulary has 2048");
    assert_refused(path, "rows", "key rows: row 1: position 1: token 9000, the vocabulary");
    assert_refused(path, "negative", "key negative: position 1: token -3, the vocabulary has");
    assert_refused(path, "least", "token -9223372036854775808, the");
    assert_refused(path, "most", "token 18446744073709551615, the");
    assert_refused(path, "scalar", "key scalar: 0 dimensions, wanted 1");
    assert_refused(path, "empty", "key empty: holds no tokens");
    assert_refused(path, NULL, "key empty: holds no tokens");
    assert_refused(write_streams(streams, 0), NULL, "holds no tokens");
    assert_refused(write_streams(streams, 0), "x", "which has no keys");
}

static void jsonl_lines_are_requests(void **state)
{
    (void)state;
    const char *path = write_text("t.jsonl", "{\"label\": \"x\", \"tokens\": [1, 2, 3]}\n"
                                             "\n  \t\r\n"
                                             "{\"tokens\": [2047]}\r\n"
                                             "{\"tokens\": [0, 5], \"label\": \"x\"}");
    TokenSet set;
    assert_ok(tokens_load(path, NULL, VOCABULARY, &set));
    assert_int_equal(set.n_requests, 3);
    assert_false(set.is_batch);
    assert_request(&set.requests[0], "x", (uint32_t[]){1, 2, 3}, 3);
    assert_request(&set.requests[1], "", (uint32_t[]){2047}, 1);
    assert_request(&set.requests[2], "x", (uint32_t[]){0, 5}, 2);
    tokens_free(&set);
    assert_ok(tokens_load(path, "x", VOCABULARY, &set));
    assert_int_equal(set.n_requests, 2);
    assert_request(&set.requests[1], "x", (uint32_t[]){0, 5}, 2);
    tokens_free(&set);
    assert_refused(path, "y", "key \"y\": not in the file, which has x");
}

static void a_bad_jsonl_line_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *line, *why;
    } BAD[] = {
        {"{\"tokens\": [1, 2}", "line 3: "},
        {"{\"tokens\": [1]} {\"tokens\": [1]}", "line 3: "},
        {"[1, 2]", "line 3: must be an object"},
        {"{\"label\": \"a\"}", "line 3: the key \"tokens\" is missing"},
        {"{\"tokens\": [1], \"text\": \"a\"}", "line 3: text: unknown key"},
        {"{\"tokens\": [1], \"tokens\": [1]}", "line 3: tokens: the key stands twice"},
        {"{\"tokens\": [1], \"label\": 5}", "line 3: label: must be a string"},
        {"{\"tokens\": 1}", "line 3: tokens: must be an array"},
        {"{\"tokens\": []}", "line 3: holds no tokens"},
        {"{\"tokens\": [1, 1.5]}", "line 3: position 1: a token must be a whole number"},
        {"{\"tokens\": [1, \"a\"]}", "line 3: position 1: a token must be a whole number"},
        {"{\"tokens\": [[1]]}", "line 3: position 0: a token must be a whole number"},
        {"{\"tokens\": [2048]}", "line 3: position 0: token 2048, the vocabulary has 2048"},
        {"{\"tokens\": [0, -1]}", "line 3: position 1: token -1, the vocabulary"},
        {"{\"tokens\": [1e30]}", "line 3: position 0: token "},
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"tokens\": [1]}\n\n%s\n{\"tokens\": [1]}\n", BAD[i].line);
        assert_refused(write_text("t.jsonl", text), NULL, BAD[i].why);
    }
    assert_refused(write_text("t.jsonl", ""), NULL, "holds no tokens");
    assert_refused(write_text("t.jsonl", "\n\n  \n"), NULL, "holds no tokens");
    assert_refused(write_file("t.jsonl", "{\"tokens\":\0[1]}", 15), NULL,
                   "t.jsonl: line 1: not JSON");
}

static void an_unknown_or_absent_file_is_refused(void **state)
{
    (void)state;
    assert_refused(write_text("t.txt", "1 2 3"), NULL, "unknown ending");
    assert_refused(scratch_path("absent.npy"), NULL, "cannot open");
    assert_refused(scratch_path("absent.jsonl"), NULL, "cannot open");
    assert_refused(scratch_path("absent.safetensors"), NULL, "cannot open");
}

/* A set of random requests in memory, as tokens_load would make it. */
static TokenSet random_set(uint64_t *random)
{
    TokenSet set = {.n_requests = 1 + random_below(random, 5), .is_batch = true};
    set.requests = mem_alloc(set.n_requests, sizeof *set.requests);
    for (uint32_t i = 0; i < set.n_requests; i++) {
        TokenRequest *request = &set.requests[i];
        request->n_tokens = 1 + random_below(random, 40);
        request->label = mem_alloc(2, 1);
        request->label[0] = (char)('a' + i);
        request->tokens = mem_alloc(request->n_tokens, sizeof(uint32_t));
        for (uint32_t j = 0; j < request->n_tokens; j++)
            request->tokens[j] = random_below(random, VOCABULARY);
    }
    return set;
}

static TokenSet copy_set(const TokenSet *set)
{
    TokenSet copy = *set;
    copy.requests = mem_alloc(set->n_requests, sizeof *copy.requests);
    for (uint32_t i = 0; i < set->n_requests; i++) {
        size_t bytes = set->requests[i].n_tokens * sizeof(uint32_t);
        copy.requests[i] = set->requests[i];
        copy.requests[i].label = mem_alloc(2, 1);
        copy.requests[i].label[0] = set->requests[i].label[0];
        copy.requests[i].tokens = mem_alloc(bytes, 1);
        memcpy(copy.requests[i].tokens, set->requests[i].tokens, bytes);
    }
    return copy;
}

static void cutting_keeps_order_and_accounts_for_every_token(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (int round = 0; round < 300; round++) {
        TokenSet set = random_set(&random);
        TokenSet before = copy_set(&set);
        uint32_t length = 1 + random_below(&random, 12);
        uint32_t limit = random_below(&random, 4);
        uint64_t left_out = UINT64_MAX;
        uint64_t lost = 0;
        uint32_t at = 0;
        assert_ok(tokens_cut(&set, length, limit, &left_out));
        for (uint32_t i = 0; i < before.n_requests; i++) {
            const TokenRequest *whole = &before.requests[i];
            uint32_t done = 0;
            for (uint32_t piece = 0; limit == 0 || piece < limit; piece++) {
                bool uncut = piece == 0 && whole->n_tokens <= length;
                uint32_t n = uncut ? whole->n_tokens : length;
                if (whole->n_tokens - done < n || n == 0 || done == whole->n_tokens)
                    break;
                assert_true(at < set.n_requests);
                assert_request(&set.requests[at++], whole->label, whole->tokens + done, n);
                done += n;
            }
            lost += whole->n_tokens - done;
        }
        assert_int_equal(at, set.n_requests);
        assert_int_equal(left_out, lost);
        assert_true(set.is_batch);
        tokens_free(&set);
        tokens_free(&before);
    }
}

static Status load_and_cut(const char *path)
{
    TokenSet set = {0};
    uint64_t left_out = 0;
    TRY(tokens_load(path, NULL, VOCABULARY, &set));
    Status status = tokens_cut(&set, 2, 0, &left_out);
    tokens_free(&set);
    return status;
}

static void every_failing_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    static const uint16_t C[6] = {1, 2, 3, 4, 5, 6};
    const Stream streams[] = {{"b", DTYPE_U16, 1, {6}, C, sizeof C},
                              {"c", DTYPE_U16, 2, {3, 2}, C, sizeof C}};
    const char *const paths[] = {
        write_streams(streams, 2),
        write_text("m.jsonl", "{\"label\":\"x\",\"tokens\":[1,2,3]}\n{\"tokens\":[4,5]}\n"),
        write_npy(1, "{'descr':'<u2','fortran_order':False,'shape':(2,3)}", C, sizeof C),
    };
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        FailingAllocation failing = {0};
        while (failing_next(&failing))
            failing_end(&failing, load_and_cut(paths[i]));
        assert_true(failing.k > 8);
    }
}

static void changed_bytes_of_a_npy_never_do_harm(void **state)
{
    (void)state;
    static const char HEADER[] = "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 4), }";
    unsigned char good[128] = "\x93NUMPY\1";
    size_t bytes = 10 + sizeof HEADER - 1 + 16;
    uint64_t random = 4;
    good[8] = sizeof HEADER - 1;
    memcpy(good + 10, HEADER, sizeof HEADER - 1);
    int accepted = 0;
    for (int round = 0; round < 20000; round++) {
        unsigned char bad[128];
        Tensor tensor;
        memcpy(bad, good, bytes);
        for (uint32_t n = random_below(&random, 3); n > 0; n--)
            bad[random_below(&random, (uint32_t)bytes)] = (unsigned char)random_next(&random);
        if (npy_view("changed", bad, bytes, &tensor) != OK)
            continue;
        accepted++;
        assert_true((const unsigned char *)tensor.data + tensor.bytes == bad + bytes);
    }
    assert_true(accepted > 1000 && accepted < 19000);
}

static void ids_with_offsets_are_lines(void **state)
{
    (void)state;
    static const int32_t IDS[] = {5, 6, 7, 8, 9, 10};
    static const int32_t OFFSETS[] = {1, 3, 4, 6};
    static const int32_t BACK[] = {1, 3, 2, 6};
    static const int32_t FAR[] = {1, 3, 4, 7};
    TokenSet set;
    Stream streams[] = {{"en.ids", DTYPE_I32, 1, {6}, IDS, sizeof IDS},
                        {"en.offsets", DTYPE_I32, 1, {4}, OFFSETS, sizeof OFFSETS}};
    assert_ok(tokens_load(write_streams(streams, 2), "en", VOCABULARY, &set));
    assert_int_equal(set.n_requests, 3);
    assert_int_equal(set.requests[0].n_tokens, 2);
    assert_int_equal(set.requests[0].tokens[0], 6);
    assert_int_equal(set.requests[2].tokens[1], 10);
    assert_string_equal(set.requests[1].label, "en");
    tokens_keep(&set, 2);
    assert_int_equal(set.n_requests, 2);
    assert_ok(tokens_surround(&set, (uint32_t[]){1, 2}, 2, (uint32_t[]){3}, 1));
    assert_int_equal(set.requests[1].n_tokens, 4);
    assert_memory_equal(set.requests[1].tokens, ((uint32_t[]){1, 2, 8, 3}), 16);
    tokens_free(&set);
    const int32_t *const bad[] = {BACK, FAR};
    for (size_t i = 0; i < 2; i++) {
        streams[1].data = bad[i];
        assert_int_equal(tokens_load(write_streams(streams, 2), "en", VOCABULARY, &set), ERR_INPUT);
        assert_non_null(strstr(error_message(), "offsets must ascend"));
    }
    bool has;
    assert_ok(tokens_has_key(scratch_path("t.safetensors"), "en.ids", &has));
    assert_true(has);
    assert_ok(tokens_has_key(scratch_path("t.safetensors"), "en", &has));
    assert_false(has);
}

static void the_shipped_streams_load(void **state)
{
    (void)state;
    static const char PATH[] = "models/tiny-32x4/eval_tokens.safetensors";
    TokenSet set;
    uint64_t left_out = 0;
    if (!file_exists(PATH))
        skip();
    assert_ok(tokens_load(PATH, NULL, VOCABULARY, &set));
    uint32_t streams = set.n_requests;
    assert_true(streams > 0);
    assert_ok(tokens_cut(&set, 160, 2, &left_out));
    assert_int_equal(set.n_requests, 2 * streams);
    tokens_free(&set);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(npy_of_every_integer_width_and_version_is_read),
        cmocka_unit_test(a_bad_npy_is_refused),
        cmocka_unit_test(safetensors_streams_come_in_key_order),
        cmocka_unit_test(a_bad_stream_is_named_with_its_key),
        cmocka_unit_test(jsonl_lines_are_requests),
        cmocka_unit_test(a_bad_jsonl_line_is_named),
        cmocka_unit_test(an_unknown_or_absent_file_is_refused),
        cmocka_unit_test(cutting_keeps_order_and_accounts_for_every_token),
        cmocka_unit_test(every_failing_allocation_is_an_error_without_a_leak),
        cmocka_unit_test(changed_bytes_of_a_npy_never_do_harm),
        cmocka_unit_test(ids_with_offsets_are_lines),
        cmocka_unit_test(the_shipped_streams_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
