#include "analysis/plot.h"

#include <assert.h>
#include <math.h>

#include "analysis/html.h"

/* Of the drawing, in its own units. */
enum {
    WIDTH = 860,
    HEIGHT = 380,
    LEFT = 70,
    RIGHT = 660,
    TOP = 14,
    BOTTOM = 330,
    LEGEND = 680,
    LEGEND_ROW = 19,
    COLOURS = 8,
    MARKS = 64, /* a series of more points has none */
    MAP_LEFT = 60,
    MAP_RIGHT = 850
};

PlotTicks plot_ticks(double low, double high, int most)
{
    static const double FACTORS[] = {1, 2, 5, 10};
    assert(low < high && most >= 2);
    double power = pow(10, floor(log10((high - low) / most)));
    for (int i = 0;; i = (i + 1) % 4) {
        double step = FACTORS[i] * power;
        double first = ceil(low / step - 1e-9);
        double count = floor(high / step + 1e-9) - first + 1;
        if (count <= most)
            return (PlotTicks){.first = first * step, .step = step, .count = (int)count};
        if (i == 3)
            power *= 10;
    }
}

PlotAxis plot_axis(const char *name, double low, double high)
{
    if (!(fabs(low) < 1e100 && fabs(high) < 1e100 && low <= high))
        return (PlotAxis){.name = name, .low = 0, .high = 1};
    double more = high > low ? 0 : low != 0 ? fabs(low) / 10 : 1;
    return (PlotAxis){.name = name, .low = low - more, .high = high + more};
}

static double place_x(const Plot *plot, double x)
{
    return LEFT + (x - plot->x.low) / (plot->x.high - plot->x.low) * (RIGHT - LEFT);
}

static double place_y(const Plot *plot, double y)
{
    return BOTTOM - (y - plot->y.low) / (plot->y.high - plot->y.low) * (BOTTOM - TOP);
}

static void draw_line(FILE *stream, double x1, double y1, double x2, double y2)
{
    fprintf(stream, "<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", x1,
            y1, x2, y2);
}

static void draw_text(FILE *stream, double x, double y, const char *anchor, const char *text)
{
    fprintf(stream, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    html_text(stream, text);
    fputs("</text>\n", stream);
}

/* Without digits that the step does not tell apart. */
static void tick_text(const PlotTicks *ticks, int i, char *text, size_t bytes)
{
    double value = ticks->first + i * ticks->step;
    int places = ticks->step < 1 ? (int)ceil(-log10(ticks->step) - 1e-9) : 0;
    if (ticks->step < 1e-6 || fabs(value) >= 1e7)
        snprintf(text, bytes, "%.4g", value);
    else
        snprintf(text, bytes, "%.*f", places, fabs(value) < ticks->step / 2 ? 0 : value);
}

static void draw_axes(const Plot *plot)
{
    FILE *stream = plot->stream;
    char text[48];
    PlotTicks ticks = plot_ticks(plot->x.low, plot->x.high, 9);
    for (int i = 0; i < ticks.count; i++) {
        double x = place_x(plot, ticks.first + i * ticks.step);
        draw_line(stream, x, TOP, x, BOTTOM);
        tick_text(&ticks, i, text, sizeof text);
        draw_text(stream, x, BOTTOM + 17, "middle", text);
    }
    ticks = plot_ticks(plot->y.low, plot->y.high, 7);
    for (int i = 0; i < ticks.count; i++) {
        double y = place_y(plot, ticks.first + i * ticks.step);
        draw_line(stream, LEFT, y, RIGHT, y);
        tick_text(&ticks, i, text, sizeof text);
        draw_text(stream, LEFT - 7, y + 4, "end", text);
    }
    draw_text(stream, (LEFT + RIGHT) / 2.0, BOTTOM + 38, "middle", plot->x.name);
    fprintf(stream, "<g transform=\"translate(15 %d) rotate(-90)\">", (TOP + BOTTOM) / 2);
    draw_text(stream, 0, 0, "middle", plot->y.name);
    fputs("</g>\n", stream);
}

static void begin_figure(FILE *stream, const char *label, double height)
{
    fprintf(stream, "<figure><svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"", WIDTH,
            height);
    html_text(stream, label);
    fputs("\" xmlns=\"http://www.w3.org/2000/svg\">\n", stream);
}

static void end_figure(FILE *stream, const char *caption)
{
    fputs("</svg>\n", stream);
    if (caption != NULL) {
        fputs("<figcaption>", stream);
        html_text(stream, caption);
        fputs("</figcaption>", stream);
    }
    fputs("</figure>\n", stream);
}

Plot plot_begin(FILE *stream, const char *label, PlotAxis x, PlotAxis y)
{
    Plot plot = {.stream = stream, .x = x, .y = y};
    begin_figure(stream, label, HEIGHT);
    draw_axes(&plot);
    return plot;
}

/* Colour and dashes: those after the first eight come dashed. */
static void open_group(const Plot *plot, PlotStyle style)
{
    if (style == PLOT_BOUND)
        fputs("<g stroke=\"var(--ink)\" fill=\"var(--ink)\" stroke-dasharray=\"6 4\">",
              plot->stream);
    else
        fprintf(plot->stream, "<g stroke=\"var(--c%d)\" fill=\"var(--c%d)\"%s>",
                plot->n_series % COLOURS, plot->n_series % COLOURS,
                plot->n_series >= COLOURS ? " stroke-dasharray=\"2 3\"" : "");
}

static void draw_legend(const Plot *plot, const char *name)
{
    double y = TOP + 8 + plot->n_series * LEGEND_ROW;
    if (y > HEIGHT)
        return;
    fprintf(plot->stream, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke-width=\"2\"/>",
            LEGEND, y, LEGEND + 22, y);
    fputs("<g stroke=\"none\">", plot->stream);
    draw_text(plot->stream, LEGEND + 28, y + 4, "start", name);
    fputs("</g>", plot->stream);
}

void plot_series(Plot *plot, const char *name, PlotStyle style, const double *x, const double *y,
                 size_t n)
{
    FILE *stream = plot->stream;
    open_group(plot, style);
    fputs("<path fill=\"none\" stroke-width=\"2\" d=\"", stream);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && style == PLOT_STEPS)
            fprintf(stream, "H%.1f", place_x(plot, x[i]));
        fprintf(stream, "%c%.1f %.1f", i > 0 ? 'L' : 'M', place_x(plot, x[i]), place_y(plot, y[i]));
    }
    fputs("\"/>\n", stream);
    for (size_t i = 0; i < n && n <= MARKS; i++) {
        fprintf(stream, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.6\" stroke=\"none\"><title>",
                place_x(plot, x[i]), place_y(plot, y[i]));
        html_text(stream, name);
        fprintf(stream, ": %.4g, %.4g</title></circle>\n", x[i], y[i]);
    }
    draw_legend(plot, name);
    fputs("</g>\n", stream);
    plot->n_series++;
}

void plot_dot(Plot *plot, PlotSpots *spots, double x, double y)
{
    double across = (x - plot->x.low) / (plot->x.high - plot->x.low);
    double up = (y - plot->y.low) / (plot->y.high - plot->y.low);
    if (!(across >= 0 && across <= 1 && up >= 0 && up <= 1))
        return;
    bool *taken =
        &spots->taken[(size_t)(up * (PLOT_SPOTS_Y - 1))][(size_t)(across * (PLOT_SPOTS_X - 1))];
    if (*taken)
        return;
    *taken = true;
    fprintf(plot->stream,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2\" fill=\"var(--dim)\" fill-opacity=\"0.55\"/>\n",
            place_x(plot, x), place_y(plot, y));
}

void plot_end(Plot *plot, const char *caption)
{
    end_figure(plot->stream, caption);
}

HeatMap heat_map_begin(FILE *stream, const char *label, size_t rows, size_t columns)
{
    assert(columns > 0 && columns <= HEAT_COLUMNS);
    HeatMap map = {.stream = stream, .rows = rows, .columns = columns};
    map.height = rows <= 32 ? 16 : rows <= 128 ? 8 : 4;
    begin_figure(stream, label, map.height * (double)rows + 4);
    return map;
}

void heat_map_row(HeatMap *map, size_t row, const char *name, const int *levels, size_t n)
{
    double width = (double)(MAP_RIGHT - MAP_LEFT) / (double)map->columns;
    double y = map->height * (double)row + 2;
    size_t each = map->height >= 12 ? 1 : map->height >= 8 ? 2 : 4; /* rows that have a name */
    if (row % each == 0)
        draw_text(map->stream, MAP_LEFT - 6, y + map->height / 2 + 4, "end", name);
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        while (end < n && levels[end] == levels[i])
            end++;
        fprintf(map->stream,
                "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" fill=\"var(--heat)\" "
                "fill-opacity=\"%.3f\"/>",
                MAP_LEFT + (double)i * width, y, (double)(end - i) * width, map->height - 0.5,
                0.03 + 0.97 * levels[i] / (HEAT_LEVELS - 1));
        i = end;
    }
    fputs("\n", map->stream);
}

void heat_map_end(HeatMap *map, const char *caption)
{
    end_figure(map->stream, caption);
}
