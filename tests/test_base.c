#define _XOPEN_SOURCE 700
#include "tests/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/crc32c.c" /* both ways of it, whatever this processor has */
#include "base/memory.h"
#include "base/progress.h"
#include "base/splitmix64.h"
#include "base/statistics.h"

/* Bit by bit, as the polynomial says. */
static uint32_t plain_crc(const unsigned char *data, size_t bytes)
{
    uint32_t state = UINT32_MAX;
    for (size_t i = 0; i < bytes; i++) {
        state ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            state = state >> 1 ^ (state & 1 ? 0x82F63B78u : 0);
    }
    return ~state;
}

static void crc32c_gives_the_published_values(void **unused)
{
    (void)unused;
    unsigned char bytes[32] = {0};
    assert_int_equal(crc32c(0, "123456789", 9), 0xE3069283u);
    assert_int_equal(crc32c(0, "", 0), 0);
    /* RFC 3720, B.4 */
    assert_int_equal(crc32c(0, bytes, 32), 0x8A9136AAu);
    memset(bytes, 0xFF, 32);
    assert_int_equal(crc32c(0, bytes, 32), 0x62A8AB43u);
    for (int i = 0; i < 32; i++)
        bytes[i] = (unsigned char)i;
    assert_int_equal(crc32c(0, bytes, 32), 0x46DD794Eu);
    for (int i = 0; i < 32; i++)
        bytes[i] = (unsigned char)(31 - i);
    assert_int_equal(crc32c(0, bytes, 32), 0x113FDB5Cu);
}

static void crc32c_is_the_same_both_ways_at_any_length_alignment_and_cut(void **unused)
{
    (void)unused;
    unsigned char data[2000];
    uint64_t state = 6;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)random_next(&state);
    for (int round = 0; round < 3000; round++) {
        size_t from = random_below(&state, 16);
        size_t bytes = random_below(&state, round % 2 ? 300 : sizeof data - 15);
        size_t cut = random_below(&state, (uint32_t)bytes + 1);
        uint32_t wanted = plain_crc(data + from, bytes);
        assert_int_equal(crc32c(0, data + from, bytes), wanted);
        assert_int_equal(crc32c(crc32c(0, data + from, cut), data + from + cut, bytes - cut),
                         wanted);
        assert_int_equal(~crc_portable(UINT32_MAX, data + from, bytes), wanted);
    }
}

static void a_temporary_file_is_called_by_the_name_that_it_will_have(void **unused)
{
    (void)unused;
    (fail)(ERR_IO, "out.db.tmp-a1b2c3/trace.db: the disk is full: sorry");
    assert_int_equal(fail_as(ERR_IO, "out.db.tmp-", "out.db"), ERR_IO);
    assert_string_equal(error_message(), "out.db: the disk is full: sorry");
    assert_int_equal(fail_as(ERR_IO, "out.db.tmp-", "out.db"), ERR_IO);
    assert_string_equal(error_message(), "out.db: the disk is full: sorry");
    assert_int_equal(fail_as(OK, "out.db", "no"), OK);
}

static void places_are_put_in_front_and_long_messages_cut(void **unused)
{
    (void)unused;
    error_clear();
    assert_string_equal(error_message(), "");
    Status status = (fail)(ERR_INPUT, "layer %d: wrong", 3);
    assert_int_equal(fail_in(status, "%s: step %d", "trace.db", 7), ERR_INPUT);
    assert_string_equal(error_message(), "trace.db: step 7: layer 3: wrong");
    assert_int_equal(fail_in(OK, "no"), OK);
    assert_int_equal(fail_in(STATUS_END, "no"), STATUS_END);
    assert_string_equal(error_message(), "trace.db: step 7: layer 3: wrong");
    (fail)(ERR_IO, "again: %s", error_message()); /* the record as its own argument */
    assert_string_equal(error_message(), "again: trace.db: step 7: layer 3: wrong");
    (fail)(ERR_INPUT, "a\nb\x1b[31m\x7f \xC3\xA9");
    assert_string_equal(error_message(), "a?b?[31m? \xC3\xA9");
    (fail)(ERR_INPUT, "why");
    fail_in(ERR_INPUT, "a\tb");
    assert_string_equal(error_message(), "a?b: why");
    char large[3000];
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    (fail)(ERR_IO, "%s", large);
    assert_int_equal(strlen(error_message()), 1023);
    fail_in(ERR_IO, "place");
    assert_memory_equal(error_message(), "place: xxx", 10);
    assert_true(strlen(error_message()) <= 1023);
    fail_in(ERR_IO, "%s", large);
    assert_true(strlen(error_message()) <= 1023);
    error_clear();
}

static void exit_status_is_2_for_bad_input_and_1_for_failed_work(void **unused)
{
    (void)unused;
    static const Status bad_input[] = {ERR_USAGE,   ERR_INPUT,  ERR_NOT_A_TRACE, ERR_SCHEMA,
                                       ERR_CORRUPT, ERR_OUTPUT, ERR_UNSUPPORTED};
    static const Status failed[] = {ERR_IO, ERR_MEMORY, ERR_MISMATCH, ERR_INTERRUPTED};
    assert_int_equal(status_exit_code(OK), 0);
    for (size_t i = 0; i < sizeof bad_input / sizeof *bad_input; i++)
        assert_int_equal(status_exit_code(bad_input[i]), 2);
    for (size_t i = 0; i < sizeof failed / sizeof *failed; i++)
        assert_int_equal(status_exit_code(failed[i]), 1);
}

static void the_clock_goes_forward_and_the_wall_text_is_iso_8601(void **unused)
{
    (void)unused;
    char text[21];
    uint64_t before = clock_ns();
    assert_true(clock_ns() >= before);
    assert_true(clock_wall_ns() > 1700000000u * (uint64_t)1000000000u);
    clock_wall_text(text);
    assert_int_equal(strlen(text), 20);
    for (size_t i = 0; i < 20; i++)
        assert_true(strchr("2000-00-00T00:00:00Z", text[i]) != NULL ||
                    (text[i] >= '0' && text[i] <= '9'));
    assert_int_equal(text[10], 'T');
    assert_int_equal(text[19], 'Z');
}

/* What PROGRESS puts on stderr while DONE of it are done. */
static size_t draw(Progress *progress, uint64_t done, char *text, size_t room)
{
    FILE *stream = tmpfile();
    assert_non_null(stream);
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    dup2(fileno(stream), STDERR_FILENO);
    progress_update(progress, done);
    progress_end(progress);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(stream);
    size_t bytes = fread(text, 1, room - 1, stream);
    text[bytes] = '\0';
    fclose(stream);
    return bytes;
}

/* The first five of seed 1234567, as its authors' program prints them. */
static void splitmix64_gives_the_published_values_in_turn_and_by_number(void **unused)
{
    (void)unused;
    static const uint64_t PUBLISHED[] = {6457827717110365317u, 3203168211198807973u,
                                         9817491932198370423u, 4593380528125082431u,
                                         16408922859458223821u};
    uint64_t state = 1234567;
    for (uint64_t i = 0; i < sizeof PUBLISHED / sizeof *PUBLISHED; i++) {
        assert_true(splitmix64_next(&state) == PUBLISHED[i]);
        assert_true(splitmix64_at(1234567, i + 1) == PUBLISHED[i]);
    }
    for (int i = 0; i < 1000; i++) {
        double share = splitmix64_share(&state);
        assert_true(share >= 0 && share < 1);
    }
}

/* RFC 4648, section 10, and what is none of it. */
static void base64_gives_the_published_texts_and_refuses_what_is_not_padded_whole(void **unused)
{
    (void)unused;
    static const char *const CODED[] = {"Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    static const char *const REFUSED[] = {
        "", "=", "====", "Zg", "Zg=", "Zm9", "Z===", "Zm9v\n", "Zm-v"};
    unsigned char out[16];
    size_t bytes;
    for (size_t i = 0; i < sizeof CODED / sizeof *CODED; i++) {
        assert_true(base64_decode(CODED[i], strlen(CODED[i]), out, &bytes));
        assert_int_equal(bytes, i + 1);
        assert_memory_equal(out, "foobar", bytes);
    }
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++)
        assert_false(base64_decode(REFUSED[i], strlen(REFUSED[i]), out, &bytes));
}

static void medians_and_variations_are_those_of_their_definitions(void **unused)
{
    (void)unused;
    uint64_t random = 5;
    assert_true(median_f64(NULL, 0) == 0 && median_u64(NULL, 0) == 0);
    assert_true(variation_f64(NULL, 0) == 0 && variation_f64(&(double){7}, 1) == 0);
    for (uint32_t n = 1; n < 40; n++) {
        double values[40];
        uint64_t counts[40];
        double sum = 0;
        double squares = 0;
        for (uint32_t i = 0; i < n; i++) {
            counts[i] = 1 + random_below(&random, 20);
            values[i] = (double)counts[i];
            sum += values[i];
            squares += values[i] * values[i];
        }
        double variance = n > 1 ? (squares - sum * sum / n) / (n - 1) : 0;
        double variation = sqrt(variance > 0 ? variance : 0) / (sum / n);
        assert_true(fabs(variation_f64(values, n) - variation) < 1e-6);
        double median = median_f64(values, n);
        assert_true(median == median_u64(counts, n));
        uint32_t below = 0;
        uint32_t above = 0;
        for (uint32_t i = 0; i < n; i++) {
            below += values[i] < median;
            above += values[i] > median;
        }
        assert_true(2 * below <= n && 2 * above <= n);
    }
}

static void progress_shows_share_rate_and_time_left_of_long_work_on_a_terminal(void **unused)
{
    (void)unused;
    char text[512];
    Progress progress;
    progress_start(&progress, "recording", "tokens", 200);
    progress.visible = true;
    assert_int_equal(draw(&progress, 1, text, sizeof text), 0); /* not long yet */
    progress.start_ns -= 10000000000u;                          /* ten seconds ago */
    progress.shown_ns -= 10000000000u;
    assert_true(draw(&progress, 50, text, sizeof text) > 0);
    assert_non_null(strstr(text, "recording: 50 of 200 tokens (25 %), 5/s, 30 s left"));
    assert_int_equal(strcmp(text + strlen(text) - 4, "\r\033[K"), 0);
    progress.shown_ns -= 10000000000u;
    draw(&progress, 300, text, sizeof text); /* more than was expected */
    assert_non_null(strstr(text, "0 s left"));
    progress.shown_ns -= 10000000000u;
    progress.total = 0;
    draw(&progress, 50, text, sizeof text);
    assert_non_null(strstr(text, "recording: 50 tokens, 5/s"));
    progress.shown_ns -= 10000000000u;
    progress.visible = false;
    progress.printed = false;
    assert_int_equal(draw(&progress, 60, text, sizeof text), 0);
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_gives_the_published_values),
        cmocka_unit_test(crc32c_is_the_same_both_ways_at_any_length_alignment_and_cut),
        cmocka_unit_test(a_temporary_file_is_called_by_the_name_that_it_will_have),
        cmocka_unit_test(places_are_put_in_front_and_long_messages_cut),
        cmocka_unit_test(exit_status_is_2_for_bad_input_and_1_for_failed_work),
        cmocka_unit_test(the_clock_goes_forward_and_the_wall_text_is_iso_8601),
        cmocka_unit_test(splitmix64_gives_the_published_values_in_turn_and_by_number),
        cmocka_unit_test(base64_gives_the_published_texts_and_refuses_what_is_not_padded_whole),
        cmocka_unit_test(medians_and_variations_are_those_of_their_definitions),
        cmocka_unit_test(progress_shows_share_rate_and_time_left_of_long_work_on_a_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
