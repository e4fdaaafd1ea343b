/* Plots as inline SVG in a page of analysis/html.h: two linear axes with round ticks, lines, points
 * and a legend. */
#ifndef ANALYSIS_PLOT_H
#define ANALYSIS_PLOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Round places on an axis: FIRST, FIRST + STEP, ... COUNT of them, STEP being 1, 2 or 5 times a
 * power of ten. */
typedef struct {
    double first;
    double step;
    int count;
} PlotTicks;

/* At most MOST (2 or more) places from LOW to HIGH, both finite, LOW < HIGH. */
PlotTicks plot_ticks(double low, double high, int most);

typedef struct {
    const char *name;
    double low;
    double high; /* above low */
} PlotAxis;

/* An axis that takes LOW to HIGH, and more where they are equal; 0 to 1 where they are no range. */
PlotAxis plot_axis(const char *name, double low, double high);

typedef struct {
    FILE *stream;
    PlotAxis x;
    PlotAxis y;
    int n_series; /* so far: gives a series its colour, and its row of the legend */
} Plot;

/* How a series is drawn. */
typedef enum { PLOT_LINE, PLOT_STEPS, PLOT_BOUND } PlotStyle;

/* Opens a figure; LABEL says what it shows to who cannot see it. */
Plot plot_begin(FILE *stream, const char *label, PlotAxis x, PlotAxis y);
/* Points X[n], Y[n] ascending by X, with marks where they are few: joined by a line; by steps, Y
 * holding until the next X; or by a dashed line of the colour of text. */
void plot_series(Plot *plot, const char *name, PlotStyle style, const double *x, const double *y,
                 size_t n);
/* Small dots without a line, pale. SPOTS are those already taken: a dot that would fall on another
 * is not drawn, so that a figure does not grow with the number of points. */
enum { PLOT_SPOTS_X = 220, PLOT_SPOTS_Y = 120 };
typedef struct {
    bool taken[PLOT_SPOTS_Y][PLOT_SPOTS_X];
} PlotSpots;
void plot_dot(Plot *plot, PlotSpots *spots, double x, double y);
/* CAPTION may be NULL. */
void plot_end(Plot *plot, const char *caption);

/* A map of rows of cells. */
typedef struct {
    FILE *stream;
    size_t rows;
    size_t columns;
    double height; /* of a row */
} HeatMap;

enum { HEAT_LEVELS = 9, HEAT_COLUMNS = 256 };

/* COLUMNS is at most HEAT_COLUMNS. */
HeatMap heat_map_begin(FILE *stream, const char *label, size_t rows, size_t columns);
/* LEVELS[n] of row ROW from the left, 0 (paper) to HEAT_LEVELS - 1; neighbours of one level are
 * drawn as one. */
void heat_map_row(HeatMap *map, size_t row, const char *name, const int *levels, size_t n);
void heat_map_end(HeatMap *map, const char *caption);

#endif
