#include "base/status.h"

#include "tests/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/safetensors.h"

/* Writes SIZE (8 bytes), HEADER and DATA_BYTES zeros. */
static const char *write_raw(const char *name, uint64_t size, const char *header,
                             size_t header_bytes, size_t data_bytes)
{
    const char *path = scratch_path(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (int i = 0; i < 8; i++)
        fputc((int)(size >> 8 * i & 0xFF), file);
    assert_int_equal(fwrite(header, 1, header_bytes, file), header_bytes);
    for (size_t i = 0; i < data_bytes; i++)
        fputc(0, file);
    assert_int_equal(fclose(file), 0);
    return path;
}

static void assert_refused_file(const char *path, const char *why)
{
    SafeTensors *file = NULL;
    error_clear();
    if (safetensors_open(path, &file) == OK)
        fail_msg("accepted, though %s", why);
    if (strstr(error_message(), why) == NULL || strstr(error_message(), path) == NULL)
        fail_msg("\"%s\" does not say \"%s\" and the path", error_message(), why);
}

static void assert_refused(const char *header, size_t data_bytes, const char *why)
{
    size_t length = strlen(header);
    assert_refused_file(write_raw("bad.safetensors", length, header, length, data_bytes), why);
}

static void assert_accepted(const char *header, size_t data_bytes, size_t tensors)
{
    SafeTensors *file = NULL;
    size_t length = strlen(header);
    const char *path = write_raw("good.safetensors", length, header, length, data_bytes);
    assert_ok(safetensors_open(path, &file));
    assert_int_equal(safetensors_count(file), tensors);
    safetensors_close(file);
}

static void a_file_whose_header_cannot_be_there_is_refused(void **state)
{
    (void)state;
    assert_refused_file(write_raw("h.safetensors", (uint64_t)1 << 60, "{}", 2, 0),
                        "the header claims 1152921504606846976 bytes");
    assert_refused_file(write_raw("h.safetensors", UINT64_MAX, "{}", 2, 0), "the header claims");
    assert_refused_file(write_raw("h.safetensors", 3, "{}", 2, 0), "the header claims 3 bytes");
    assert_refused_file(write_raw("h.safetensors", 0, "{}", 2, 0), "does not begin");
    assert_refused_file(write_raw("h.safetensors", 3, " {}", 3, 0), "does not begin");
    const char *path = write_raw("h.safetensors", (uint64_t)101 << 20, "{}", 2, 0);
    assert_int_equal(truncate(path, (off_t)102 << 20), 0);
    assert_refused_file(path, "at most 104857600 are allowed");
    for (off_t bytes = 0; bytes < 8; bytes++) {
        assert_int_equal(truncate(path, bytes), 0);
        assert_refused_file(path, "too short");
    }
    assert_refused_file(scratch_path("none.safetensors"), "cannot open");
    assert_refused_file(scratch_path("."), "not a regular file");
}

static void a_header_that_is_no_description_of_tensors_is_refused(void **state)
{
    (void)state;
    assert_refused("{", 0, "not JSON");
    assert_refused("{} x", 0, "not JSON");
    assert_refused("{\"a\":1}", 0, "must be an object");
    assert_refused("{\"a\":[]}", 0, "must be an object");
    assert_refused("{\"a\":{}}", 0, "\"dtype\" is missing");
    assert_refused("{\"a\":{\"dtype\":\"U8\"}}", 0, "\"shape\" is missing");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", 0, "\"data_offsets\" is missing");
    assert_refused("{\"a\":{\"dtype\":\"U9\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
                   "tensor a.dtype: \"U9\"");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"x\":1}}", 1,
                   "tensor a.x: unknown key");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,1]}}", 1,
                   "tensor a.shape: must be an array");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1,
                   "tensor a.shape[0]");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[0.5],\"data_offsets\":[0,1]}}", 1,
                   "tensor a.shape[0]");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],"
                   "\"data_offsets\":[0,1]}}",
                   1, "more than 8 dimensions");
    assert_refused("{\"__metadata__\":[]}", 0, "__metadata__: must be an object");
    assert_refused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__.a: must be a string");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                   "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                   2, "a: the key stands twice");
}

static void data_offsets_must_hold_the_shape_and_lie_in_the_file(void **state)
{
    (void)state;
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]}}", 4,
                   "two numbers");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}", 4,
                   "before the start");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,5]}}", 5,
                   "5 bytes, but dtype and shape make 4");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
                   "4 bytes, but dtype and shape make 16");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 3,
                   "truncated");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,9007199254740991]}}",
                   4, "truncated");
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,1e300]}}", 4,
                   "data_offsets[1]");
    assert_refused("{\"a\":{\"dtype\":\"F64\",\"shape\":[4503599627370496,4503599627370496],"
                   "\"data_offsets\":[0,0]}}",
                   0, "product of the dimensions is too large");
    /* 2^52 * 2^12 wraps to 0 */
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4503599627370496,4096],"
                   "\"data_offsets\":[0,0]}}",
                   0, "product of the dimensions is too large");
}

#define TENSOR(name, bytes, from, to)                                                              \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #bytes "],\"data_offsets\":[" #from "," #to "]}"

static void the_tensors_must_cover_the_data_without_overlap_or_hole(void **state)
{
    (void)state;
    assert_refused("{" TENSOR("a", 4, 0, 4) "," TENSOR("b", 4, 3, 7) "}", 7,
                   "tensor b: its data "
                   "overlaps that of "
                   "tensor a");
    assert_refused("{" TENSOR("a", 4, 0, 4) "," TENSOR("b", 4, 0, 4) "}", 4, "overlaps");
    assert_refused("{" TENSOR("a", 8, 0, 8) "," TENSOR("b", 2, 3, 5) "}", 8, "overlaps");
    assert_refused("{" TENSOR("a", 8, 0, 8) "," TENSOR("b", 0, 3, 3) "}", 8, "overlaps");
    assert_refused("{" TENSOR("b", 4, 6, 10) "," TENSOR("a", 4, 0, 4) "}", 10,
                   "tensor b: 2 bytes in front of its data are no tensor's");
    assert_refused("{" TENSOR("a", 4, 1, 5) "}", 5, "1 bytes in front");
    assert_refused("{" TENSOR("a", 4, 0, 4) "}", 6, "2 bytes after the last tensor");
    assert_refused("{}", 1, "1 bytes after the last tensor");
}

static void unusual_but_valid_files_are_accepted(void **state)
{
    (void)state;
    assert_accepted("{}", 0, 0);
    assert_accepted("{}      ", 0, 0);
    assert_accepted("{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\"}}", 0, 0);
    assert_accepted("{" TENSOR("z", 0, 0, 0) "," TENSOR("a", 4, 0, 4) "," TENSOR("y", 0, 4, 4) "}",
                    4, 3);
    /* no alignment, order of the data not that of the header, a scalar, a dimension of 0 */
    assert_accepted(
        "{" TENSOR("b", 3, 1, 4) "," TENSOR(
            "a", 1, 0, 1) ","
                          "\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[4,12]},"
                          "\"e\":{\"dtype\":\"F64\",\"shape\":[9007199254740991,0],"
                          "\"data_offsets\":[12,12]}}",
        12, 4);
}

enum { ROUND_TENSORS = 24 };

static void fill_random(uint64_t *random, unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (unsigned char)random_next(random);
}

/* Makes random SPECS with data in random pieces of random order. */
static void write_random(uint64_t *random, const char *path, Tensor *specs, char names[][24],
                         unsigned char **data)
{
    size_t given[ROUND_TENSORS] = {0};
    for (size_t i = 0; i < ROUND_TENSORS; i++) {
        snprintf(names[i], 24, "t%u \"\\/%u\xC3\xA9", random_below(random, 1000), (unsigned)i);
        specs[i] = (Tensor){.name = names[i],
                            .dtype = (Dtype)random_below(random, DTYPE_COUNT),
                            .rank = random_below(random, 4)};
        specs[i].bytes = dtype_bytes(specs[i].dtype);
        for (uint32_t r = 0; r < specs[i].rank; r++)
            specs[i].bytes *= specs[i].shape[r] = random_below(random, 7);
        data[i] = mem_alloc(specs[i].bytes + 1, 1);
        fill_random(random, data[i], specs[i].bytes);
    }
    SafeTensorsWriter *writer = NULL;
    assert_ok(safetensors_writer_open(path, specs, ROUND_TENSORS, &writer));
    for (size_t left = ROUND_TENSORS; left > 0;) {
        size_t i = random_below(random, ROUND_TENSORS);
        size_t rest = specs[i].bytes - given[i];
        size_t piece = rest < 20 ? rest : random_below(random, (uint32_t)rest);
        assert_ok(safetensors_writer_append(writer, i, data[i] + given[i], piece));
        given[i] += piece;
        left = 0;
        for (size_t j = 0; j < ROUND_TENSORS; j++)
            left += given[j] < specs[j].bytes;
    }
    assert_ok(safetensors_writer_commit(writer));
}

static void what_was_written_reads_back_byte_for_byte(void **state)
{
    (void)state;
    uint64_t random = 1;
    for (int round = 0; round < 50; round++) {
        Tensor specs[ROUND_TENSORS];
        char names[ROUND_TENSORS][24];
        unsigned char *data[ROUND_TENSORS];
        SafeTensors *file = NULL;
        const char *path = scratch_path("round.safetensors");
        write_random(&random, path, specs, names, data);
        assert_ok(safetensors_open(path, &file));
        assert_int_equal(safetensors_count(file), ROUND_TENSORS);
        for (size_t i = 0; i < ROUND_TENSORS; i++) {
            const Tensor *tensor = safetensors_find(file, names[i]);
            assert_non_null(tensor);
            assert_int_equal(tensor->dtype, specs[i].dtype);
            assert_int_equal(tensor->rank, specs[i].rank);
            assert_memory_equal(tensor->shape, specs[i].shape, sizeof specs[i].shape);
            assert_int_equal(tensor->bytes, specs[i].bytes);
            assert_true(memcmp(tensor->data, data[i], tensor->bytes) == 0);
            /* the writer puts larger elements first, so that all are aligned */
            assert_int_equal((uintptr_t)tensor->data % dtype_bytes(tensor->dtype), 0);
            mem_free(data[i]);
        }
        for (size_t i = 1; i < ROUND_TENSORS; i++)
            assert_true(strcmp(safetensors_at(file, i - 1)->name, safetensors_at(file, i)->name) <
                        0);
        assert_null(safetensors_find(file, "t"));
        safetensors_close(file);
    }
}

static void a_file_appears_only_when_every_tensor_got_all_its_bytes(void **state)
{
    (void)state;
    const char *path = scratch_path("partial.safetensors");
    Tensor specs[] = {{.name = "a", .dtype = DTYPE_U8, .rank = 1, .shape = {4}},
                      {.name = "b", .dtype = DTYPE_F32, .rank = 1, .shape = {2}}};
    SafeTensorsWriter *writer = NULL;
    assert_ok(safetensors_writer_open(path, specs, 2, &writer));
    assert_ok(safetensors_writer_append(writer, 0, "abcd", 4));
    assert_int_equal(safetensors_writer_append(writer, 0, "e", 1), ERR_IO);
    assert_non_null(strstr(error_message(), "tensor a: more than its 4 bytes"));
    assert_int_equal(safetensors_writer_commit(writer), ERR_IO);
    assert_non_null(strstr(error_message(), "tensor b: 0 of its 8 bytes"));
    assert_false(file_exists(path));
    assert_ok(safetensors_writer_open(path, specs, 2, &writer));
    assert_false(file_exists(path));
    safetensors_writer_discard(writer);
    assert_false(file_exists(path));
    assert_int_equal(
        safetensors_writer_open(scratch_path("no/such/folder.safetensors"), specs, 2, &writer),
        ERR_OUTPUT);
}

/* Looking each name up by walking the list takes ten times as long. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MOST_SECONDS = 30 };
#else
enum { MOST_SECONDS = 2 };
#endif

static void a_header_of_64000_tensors_loads_in_seconds(void **state)
{
    (void)state;
    enum { COUNT = 64000 };
    size_t room = (size_t)COUNT * 160;
    char *header = mem_alloc(room, 1);
    size_t used = 0;
    for (int i = 0; i < COUNT; i++)
        used += (size_t)snprintf(header + used, room - used,
                                 "%s\"model.layers.%d.mlp.experts.%d.gate_proj.weight\":{\"dtype\":"
                                 "\"BF16\",\"shape\":[1,1],\"data_offsets\":[%d,%d]}",
                                 i == 0 ? "{" : ",", i % 61, i, 2 * i, 2 * i + 2);
    header[used++] = '}';
    const char *path = write_raw("large.safetensors", used, header, used, 2 * COUNT);
    mem_free(header);
    SafeTensors *file = NULL;
    clock_t start = clock();
    assert_ok(safetensors_open(path, &file));
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    print_message("64,000 tensors: %.3f s of processor time\n", seconds);
    assert_true(seconds < MOST_SECONDS);
    assert_int_equal(safetensors_count(file), COUNT);
    const Tensor *tensor =
        safetensors_find(file, "model.layers.3.mlp.experts.125.gate_proj.weight");
    assert_non_null(tensor);
    assert_int_equal(
        (const char *)tensor->data -
            (const char *)safetensors_find(file, "model.layers.0.mlp.experts.0.gate_proj.weight")
                ->data,
        250);
    safetensors_close(file);
}

/* By the definition of the formats: sign, exponent with BIAS, MANTISSA bits. */
static double half_value(uint16_t bits, int mantissa, int bias)
{
    int exponents = 15 - mantissa;
    int exponent = bits >> mantissa & ((1 << exponents) - 1);
    double fraction = (double)(bits & ((1 << mantissa) - 1)) / (1 << mantissa);
    double sign = bits >> 15 ? -1 : 1;
    if (exponent == (1 << exponents) - 1)
        return fraction == 0 ? sign * INFINITY : NAN;
    return sign *
           (exponent == 0 ? ldexp(fraction, 1 - bias) : ldexp(1 + fraction, exponent - bias));
}

static void every_half_converts_to_its_value_at_any_alignment(void **state)
{
    (void)state;
    enum { ALL = 65536 };
    unsigned char *bytes = mem_alloc(2 * ALL + 1, 1);
    float *values = mem_alloc(ALL, sizeof *values);
    for (size_t shift = 0; shift < 2; shift++) {
        for (size_t i = 0; i < ALL; i++)
            memcpy(bytes + shift + 2 * i, &(uint16_t){(uint16_t)i}, 2);
        for (int brain = 0; brain < 2; brain++) {
            Tensor tensor = {.name = "x",
                             .dtype = brain ? DTYPE_BF16 : DTYPE_F16,
                             .rank = 1,
                             .shape = {ALL},
                             .data = bytes + shift,
                             .bytes = 2 * ALL};
            tensor_to_f32(&tensor, 0, ALL, values);
            for (size_t i = 0; i < ALL; i++) {
                double wanted = half_value((uint16_t)i, brain ? 7 : 10, brain ? 127 : 15);
                if (isnan(wanted) ? !isnan(values[i]) : (double)values[i] != wanted)
                    fail_msg("%s %zx: %g, wanted %g", dtype_name(tensor.dtype), i,
                             (double)values[i], wanted);
            }
            tensor_to_f32(&tensor, 0x3C01, 3, values);
            for (size_t i = 0; i < 3; i++)
                assert_true(values[i] == (float)half_value((uint16_t)(0x3C01 + i), brain ? 7 : 10,
                                                           brain ? 127 : 15));
        }
    }
    mem_free(bytes);
    mem_free(values);
}

static void f32_is_copied_at_any_alignment(void **state)
{
    (void)state;
    uint64_t random = 5;
    unsigned char bytes[404];
    float wanted[100];
    float values[100];
    for (size_t shift = 0; shift < 4; shift++) {
        for (size_t i = 0; i < 100; i++)
            wanted[i] = random_float(&random);
        memcpy(bytes + shift, wanted, sizeof wanted);
        Tensor tensor = {.dtype = DTYPE_F32, .data = bytes + shift, .bytes = sizeof wanted};
        tensor_to_f32(&tensor, 0, 100, values);
        assert_memory_equal(values, wanted, sizeof wanted);
        tensor_to_f32(&tensor, 7, 20, values);
        assert_memory_equal(values, wanted + 7, 20 * sizeof *wanted);
    }
}

static void the_finite_check_names_the_first_bad_element(void **state)
{
    (void)state;
    enum { COUNT = 10000 };
    static const Dtype DTYPES[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const uint32_t INFINITE[] = {0x7F800000u, 0x7C00u, 0x7F80u};
    static const uint32_t LARGEST[] = {0x7F7FFFFFu, 0x7BFFu, 0x7F7Fu};
    uint64_t random = 9;
    unsigned char *bytes = mem_alloc(4 * COUNT + 1, 1);
    for (int round = 0; round < 60; round++) {
        int kind = round % 3;
        size_t size = dtype_bytes(DTYPES[kind]);
        uint32_t sign = (uint32_t)(1u << (8 * size - 1)) * random_below(&random, 2);
        Tensor tensor = {
            .name = "w", .dtype = DTYPES[kind], .data = bytes + 1, .bytes = COUNT * size};
        for (size_t i = 0; i < COUNT; i++)
            memcpy(bytes + 1 + i * size, &(uint32_t){LARGEST[kind] | sign}, size);
        assert_ok(tensor_check_finite(&tensor, "f"));
        size_t first = random_below(&random, COUNT);
        bool nan = random_below(&random, 2) != 0;
        uint32_t bad = (INFINITE[kind] | sign) + nan;
        memcpy(bytes + 1 + first * size, &bad, size);
        size_t later = first + random_below(&random, (uint32_t)(COUNT - first));
        if (later != first)
            memcpy(bytes + 1 + later * size, &INFINITE[kind], size);
        char wanted[64];
        snprintf(wanted, sizeof wanted, "f: tensor w: element %zu is %s", first,
                 nan ? "NaN" : "infinite");
        assert_int_equal(tensor_check_finite(&tensor, "f"), ERR_INPUT);
        assert_string_equal(error_message(), wanted);
    }
    mem_free(bytes);
}

static Status write_and_read(const char *path)
{
    Tensor specs[] = {{.name = "a", .dtype = DTYPE_U8, .rank = 1, .shape = {4}},
                      {.name = "b", .dtype = DTYPE_F32, .rank = 2, .shape = {2, 1}}};
    SafeTensorsWriter *writer = NULL;
    SafeTensors *file = NULL;
    TRY(safetensors_writer_open(path, specs, 2, &writer));
    assert_ok(safetensors_writer_append(writer, 1, "12345678", 8));
    assert_ok(safetensors_writer_append(writer, 0, "abcd", 4));
    TRY(safetensors_writer_commit(writer));
    TRY(safetensors_open(path, &file));
    safetensors_close(file);
    return OK;
}

static void every_failing_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    const char *path = scratch_path("memory.safetensors");
    FailingAllocation failing = {0};
    while (failing_next(&failing))
        failing_end(&failing, write_and_read(path));
    assert_true(failing.k > 20);
}

static void changed_bytes_never_do_harm(void **state)
{
    (void)state;
    uint64_t random = 77;
    unsigned char good[512];
    static const char HEADER[] =
        "{" TENSOR("a", 4, 0, 4) "," TENSOR("b", 4, 4, 8) ",\"__metadata__\":{\"format\":\"pt\"}}";
    size_t length = sizeof HEADER - 1;
    size_t bytes = 8 + length + 8;
    memset(good, 0, sizeof good);
    good[0] = (unsigned char)length;
    memcpy(good + 8, HEADER, length);
    int accepted = 0;
    for (int round = 0; round < 20000; round++) {
        unsigned char bad[512];
        memcpy(bad, good, bytes);
        for (uint32_t n = random_below(&random, 3); n > 0; n--)
            bad[random_below(&random, (uint32_t)bytes)] = (unsigned char)random_next(&random);
        SafeTensors *file = NULL;
        if (safetensors_view("changed", bad, bytes, &file) != OK)
            continue;
        accepted++;
        for (size_t i = 0; i < safetensors_count(file); i++) {
            const Tensor *tensor = safetensors_at(file, i);
            assert_true((const unsigned char *)tensor->data >= bad);
            assert_true((const unsigned char *)tensor->data + tensor->bytes <= bad + bytes);
        }
        safetensors_close(file);
    }
    assert_true(accepted > 1000 && accepted < 19000);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_whose_header_cannot_be_there_is_refused),
        cmocka_unit_test(a_header_that_is_no_description_of_tensors_is_refused),
        cmocka_unit_test(data_offsets_must_hold_the_shape_and_lie_in_the_file),
        cmocka_unit_test(the_tensors_must_cover_the_data_without_overlap_or_hole),
        cmocka_unit_test(unusual_but_valid_files_are_accepted),
        cmocka_unit_test(what_was_written_reads_back_byte_for_byte),
        cmocka_unit_test(a_file_appears_only_when_every_tensor_got_all_its_bytes),
        cmocka_unit_test(a_header_of_64000_tensors_loads_in_seconds),
        cmocka_unit_test(every_half_converts_to_its_value_at_any_alignment),
        cmocka_unit_test(f32_is_copied_at_any_alignment),
        cmocka_unit_test(the_finite_check_names_the_first_bad_element),
        cmocka_unit_test(every_failing_allocation_is_an_error_without_a_leak),
        cmocka_unit_test(changed_bytes_never_do_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
