/* Pages and plots: any bytes are escaped, pages are well-formed, ticks are round. */
#include "tests/xml_check.h"

#include <math.h>
#include <stdlib.h>

#include "analysis/html.h"
#include "analysis/plot.h"

/* What is written to STREAM, as text; freed with free(). */
typedef struct {
    FILE *stream;
    char *text;
    size_t bytes;
} Page;

static void page_open(Page *page)
{
    *page = (Page){0};
    page->stream = open_memstream(&page->text, &page->bytes);
    assert_non_null(page->stream);
}

static void page_close(Page *page)
{
    assert_int_equal(fclose(page->stream), 0);
}

static void assert_escaped(const char *text, const char *wanted)
{
    Page page;
    page_open(&page);
    html_text(page.stream, text);
    page_close(&page);
    assert_string_equal(page.text, wanted);
    free(page.text);
}

static void what_means_something_to_html_is_escaped(void **unused)
{
    (void)unused;
    assert_escaped("", "");
    assert_escaped("a < b && \"c\" > 'd'", "a &lt; b &amp;&amp; &quot;c&quot; &gt; &#39;d&#39;");
    assert_escaped("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
}

static void what_is_no_character_becomes_a_mark(void **unused)
{
    (void)unused;
    assert_escaped("a\xFFz", "a\xEF\xBF\xBDz");
    assert_escaped("\x1B[0m\x7F", "\xEF\xBF\xBD[0m\xEF\xBF\xBD");
    assert_escaped("\xEF\xBF\xBE", "\xEF\xBF\xBD");
    assert_escaped("\xC3", "\xEF\xBF\xBD");
    assert_escaped("tab\tline\n", "tab\tline\n");
}

static void pages_of_random_bytes_are_well_formed(void **unused)
{
    (void)unused;
    static const char *const TITLES[] = {"<one>", "two&"};
    uint64_t seed = 5;
    for (int round = 0; round < 200; round++) {
        char bytes[64];
        Page page;
        for (size_t i = 0; i + 1 < sizeof bytes; i++)
            bytes[i] = (char)(1 + random_below(&seed, 255));
        bytes[sizeof bytes - 1] = '\0';
        page_open(&page);
        html_begin(page.stream, bytes);
        html_heading(page.stream, bytes);
        html_paragraph(page.stream, "note", "%s", bytes);
        HtmlTable table = html_table_begin(page.stream, TITLES, "lr");
        html_cell(&table, "%s", bytes);
        html_cell(&table, "%d", round);
        html_table_end(&table);
        Plot plot = plot_begin(page.stream, bytes, plot_axis(bytes, 0, 1), plot_axis(bytes, 3, 3));
        plot_series(&plot, bytes, PLOT_STEPS, (double[]){0, 1}, (double[]){3, 3}, 2);
        plot_end(&plot, bytes);
        HeatMap map = heat_map_begin(page.stream, bytes, 1, 3);
        heat_map_row(&map, 0, bytes, (int[]){0, 8, 8}, 3);
        heat_map_end(&map, NULL);
        html_end(page.stream);
        page_close(&page);
        assert_true(xml_is_well_formed(page.text));
        free(page.text);
    }
}

static void every_rule_of_the_style_is_closed(void **unused)
{
    (void)unused;
    Page page;
    int depth = 0;
    page_open(&page);
    html_begin(page.stream, "");
    page_close(&page);
    const char *end = strstr(page.text, "</style>");
    assert_non_null(end);
    for (const char *at = page.text; at < end; at++) {
        depth += (*at == '{') - (*at == '}');
        assert_true(depth >= 0 && depth <= 2);
        if (*at == '\n' && at[1] != '*') /* only the rules for paper go on in a second line */
            assert_int_equal(depth, 0);
    }
    assert_int_equal(depth, 0);
    free(page.text);
}

static void ticks_are_round_few_and_within_the_axis(void **unused)
{
    (void)unused;
    uint64_t seed = 6;
    for (int round = 0; round < 20000; round++) {
        double scale = pow(10, (double)random_below(&seed, 25) - 10);
        double low = ((double)random_below(&seed, 2000) - 1000) * scale;
        double high = low + (1 + (double)random_below(&seed, 3000)) * scale;
        int most = 2 + (int)random_below(&seed, 10);
        PlotTicks ticks = plot_ticks(low, high, most);
        double slack = 1e-6 * ticks.step;
        double lead = ticks.step / pow(10, floor(log10(ticks.step * (1 + 1e-9))));
        assert_true(ticks.count >= 1 && ticks.count <= most);
        assert_true(fabs(lead - 1) < 1e-6 || fabs(lead - 2) < 1e-6 || fabs(lead - 5) < 1e-6);
        assert_true(ticks.first >= low - slack && ticks.first < low + ticks.step + slack);
        assert_true(ticks.first + (ticks.count - 1) * ticks.step <= high + slack);
        assert_true(ticks.first + ticks.count * ticks.step > high - slack);
        assert_true(fabs(remainder(ticks.first, ticks.step)) < slack);
    }
}

static void an_axis_of_one_place_or_of_none_can_be_drawn(void **unused)
{
    (void)unused;
    PlotAxis one = plot_axis("", 7, 7);
    assert_true(one.low < 7 && one.high > 7);
    const double none[][2] = {{0, 0}, {INFINITY, INFINITY}, {0, NAN}, {3, 2}, {0, 1e300}};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        PlotAxis axis = plot_axis("", none[i][0], none[i][1]);
        assert_true(isfinite(axis.low) && isfinite(axis.high) && axis.low < axis.high);
    }
}

static void dots_of_one_spot_are_drawn_once(void **unused)
{
    (void)unused;
    Page page;
    size_t dots = 0;
    PlotSpots *spots = calloc(1, sizeof *spots);
    page_open(&page);
    Plot plot = plot_begin(page.stream, "", plot_axis("", 0, 1), plot_axis("", 0, 1));
    for (int i = 0; i < 1000; i++)
        plot_dot(&plot, spots, 0.5, 0.25);
    plot_dot(&plot, spots, 0.9, 0.25);
    plot_dot(&plot, spots, NAN, 0.25);
    plot_dot(&plot, spots, 2, 0.25);
    plot_end(&plot, NULL);
    page_close(&page);
    for (const char *at = page.text; (at = strstr(at, "<circle")) != NULL; at++)
        dots++;
    assert_int_equal(dots, 2);
    free(page.text);
    free(spots);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_means_something_to_html_is_escaped),
        cmocka_unit_test(what_is_no_character_becomes_a_mark),
        cmocka_unit_test(pages_of_random_bytes_are_well_formed),
        cmocka_unit_test(every_rule_of_the_style_is_closed),
        cmocka_unit_test(ticks_are_round_few_and_within_the_axis),
        cmocka_unit_test(an_axis_of_one_place_or_of_none_can_be_drawn),
        cmocka_unit_test(dots_of_one_spot_are_drawn_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
