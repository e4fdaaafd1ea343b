#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/html.h"
#include "analysis/plot.h"
#include "analysis/report.h"
#include "base/memory.h"
#include "base/statistics.h"

enum { SHOWN_SIZES = 8 };

/* The miss ratio of one policy by size, ascending. */
typedef struct {
    char scope[16];
    char order[16];
    int ranks;
    char evict[40];
    char predictor[64];
    double *slots; /* [n] */
    double *ratio; /* [n] */
    size_t n;
    size_t slots_room;
    size_t ratio_room;
} Curve;

/* Ordered so that curves of one scope, order of replay and number of ranks follow on. */
typedef struct {
    Curve *curves; /* [n] */
    size_t n;
    size_t room;
} Curves;

static bool is_bound(const Curve *curve)
{
    return strncmp(curve->evict, "belady", 6) == 0;
}

static bool is_of_panel(const Curve *a, const Curve *b)
{
    return strcmp(a->scope, b->scope) == 0 && strcmp(a->order, b->order) == 0 &&
           a->ranks == b->ranks;
}

static void curve_name(const Curve *curve, char name[128])
{
    bool plain = strcmp(curve->predictor, "none") == 0;
    snprintf(name, 128, "%s%s%s", curve->evict, plain ? "" : " + ", plain ? "" : curve->predictor);
}

static void copy_text(char *to, size_t bytes, sqlite3_stmt *row, int column)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    snprintf(to, bytes, "%s", text != NULL ? text : "");
}

static Status add_point(Curve *curve, double slots, double ratio)
{
    if (curve->n > 0 && curve->slots[curve->n - 1] == slots)
        return OK; /* rows of one size come with the fewest misses first */
    TRY(mem_grow(&curve->slots, &curve->slots_room, curve->n, sizeof *curve->slots, "curve"));
    TRY(mem_grow(&curve->ratio, &curve->ratio_room, curve->n, sizeof *curve->ratio, "curve"));
    curve->slots[curve->n] = slots;
    curve->ratio[curve->n++] = ratio;
    return OK;
}

static Status add_row(Curves *curves, sqlite3_stmt *row)
{
    Curve of = {0};
    Curve *last = curves->n > 0 ? &curves->curves[curves->n - 1] : NULL;
    copy_text(of.scope, sizeof of.scope, row, 0);
    copy_text(of.order, sizeof of.order, row, 1);
    copy_text(of.evict, sizeof of.evict, row, 2);
    copy_text(of.predictor, sizeof of.predictor, row, 3);
    of.ranks = sqlite3_column_int(row, 6);
    if (last == NULL || !is_of_panel(last, &of) || strcmp(last->evict, of.evict) != 0 ||
        strcmp(last->predictor, of.predictor) != 0) {
        TRY(mem_grow(&curves->curves, &curves->room, curves->n, sizeof of, "curves"));
        last = &curves->curves[curves->n++];
        *last = of;
    }
    return add_point(last, sqlite3_column_double(row, 4), sqlite3_column_double(row, 5));
}

/* Policies that know the future are bounds; of those only Belady's without prefetching is shown. */
static Status read_curves(const StudyReader *reader, Curves *curves)
{
    const bool predicts = study_reader_has_column(reader, "predictor");
    char columns[160];
    const StudyConditions conditions = {
        .misses_at_most = 1,
        .with_bounds = true,
        .where = predicts ? "slots > 0 AND (bound = 0 OR evict LIKE 'belady%' AND predictor ="
                            " 'none')"
                          : "slots > 0"};
    sqlite3_stmt *statement = NULL;
    int code = SQLITE_DONE;
    snprintf(columns, sizeof columns,
             "scope, replay_order, evict, %s, slots, miss_ratio,"
             " coalesce(json_extract(plan, '$.placement.ranks'), 1)",
             predicts ? "predictor" : "'none'");
    TRY(study_reader_select(reader, columns, &conditions,
                            "1 DESC, 2, 7, evict LIKE 'belady%', 3, 4, 5, 6", &statement));
    Status status = OK;
    while (status == OK && (code = sqlite3_step(statement)) == SQLITE_ROW)
        status = add_row(curves, statement);
    if (status == OK && code != SQLITE_DONE)
        status = study_reader_fail(reader, code);
    sqlite3_finalize(statement);
    return status;
}

static void curves_free(Curves *curves)
{
    for (size_t i = 0; i < curves->n; i++) {
        mem_free(curves->curves[i].slots);
        mem_free(curves->curves[i].ratio);
    }
    mem_free(curves->curves);
}

/* The ratio at SLOTS; NULL where that size was not replayed. */
static const double *ratio_at(const Curve *curve, double slots)
{
    for (size_t i = 0; i < curve->n; i++)
        if (curve->slots[i] == slots)
            return &curve->ratio[i];
    return NULL;
}

static void draw_panel(FILE *stream, const Curve *curves, size_t n)
{
    char name[128];
    double least = curves[0].slots[0];
    double most = least;
    for (size_t i = 0; i < n; i++) {
        const Curve *curve = &curves[i];
        least = curve->slots[0] < least ? curve->slots[0] : least;
        most = curve->slots[curve->n - 1] > most ? curve->slots[curve->n - 1] : most;
    }
    const bool of_layer = strcmp(curves[0].scope, "layer") == 0;
    const bool of_rank = curves[0].ranks > 1;
    char sizes[48];
    snprintf(sizes, sizeof sizes, "slots of %s%s", of_layer ? "a layer" : "the device",
             of_rank ? " of a rank" : "");
    Plot plot = plot_begin(stream, "Miss ratio against size, by policy",
                           plot_axis(sizes, least, most), plot_axis("miss ratio", 0, 1));
    for (size_t i = 0; i < n; i++) {
        curve_name(&curves[i], name);
        plot_series(&plot, name, is_bound(&curves[i]) ? PLOT_BOUND : PLOT_LINE, curves[i].slots,
                    curves[i].ratio, curves[i].n);
    }
    plot_end(&plot, NULL);
}

/* The sizes that a table shows: all where they are few, else some from the least to the most. */
static Status pick_sizes(const Curve *curves, size_t n, double sizes[SHOWN_SIZES], size_t *count)
{
    double *all;
    size_t total = 0;
    size_t distinct = 0;
    for (size_t i = 0; i < n; i++)
        total += curves[i].n;
    TRY(mem_new(&all, total, sizeof *all, "sizes"));
    total = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < curves[i].n; j++)
            all[total++] = curves[i].slots[j];
    qsort(all, total, sizeof *all, compare_f64);
    for (size_t i = 0; i < total; i++)
        if (distinct == 0 || all[distinct - 1] != all[i])
            all[distinct++] = all[i];
    *count = distinct < SHOWN_SIZES ? distinct : SHOWN_SIZES;
    for (size_t i = 0; i < *count; i++)
        sizes[i] = all[*count > 1 ? i * (distinct - 1) / (*count - 1) : 0];
    mem_free(all);
    return OK;
}

static Status print_panel(FILE *stream, const Curve *curves, size_t n)
{
    char align[SHOWN_SIZES + 2] = "l";
    double sizes[SHOWN_SIZES];
    char texts[SHOWN_SIZES][24];
    const char *titles[SHOWN_SIZES + 1] = {"miss ratio with slots:"};
    char name[128];
    size_t count;
    TRY(pick_sizes(curves, n, sizes, &count));
    for (size_t i = 0; i < count; i++) {
        snprintf(texts[i], sizeof texts[i], "%.0f", sizes[i]);
        titles[i + 1] = texts[i];
        align[i + 1] = 'r';
    }
    HtmlTable table = html_table_begin(stream, titles, align);
    for (size_t i = 0; i < n; i++) {
        curve_name(&curves[i], name);
        html_cell(&table, "%s", name);
        for (size_t j = 0; j < count; j++) {
            const double *ratio = ratio_at(&curves[i], sizes[j]);
            if (ratio != NULL)
                html_cell(&table, "%.4f", *ratio);
            else
                html_cell(&table, "-");
        }
    }
    html_table_end(&table);
    return OK;
}

/* Where LRU's curve falls most for a slot: below that size a stream of layers in turn throws out
 * what it needs next. */
static void tell_cliff(FILE *stream, const Curve *lru, const Curve *belady)
{
    size_t at = 0;
    double steepest = 0;
    for (size_t i = 1; i < lru->n; i++) {
        double fall = (lru->ratio[i - 1] - lru->ratio[i]) / (lru->slots[i] - lru->slots[i - 1]);
        if (fall > steepest) {
            steepest = fall;
            at = i;
        }
    }
    if (at == 0)
        return;
    html_paragraph(stream, NULL,
                   "LRU's cliff: from %.0f to %.0f slots its miss ratio falls from %.4f to %.4f, "
                   "the most for a slot of any two sizes that follow on.",
                   lru->slots[at - 1], lru->slots[at], lru->ratio[at - 1], lru->ratio[at]);
    const double *bound = belady != NULL ? ratio_at(belady, lru->slots[at - 1]) : NULL;
    if (bound != NULL)
        html_paragraph(
            stream, NULL,
            "With %.0f slots Belady's offline optimum misses %.4f of the lookups, LRU %.4f.",
            lru->slots[at - 1], *bound, lru->ratio[at - 1]);
}

static Status tell_panel(FILE *stream, const Curve *curves, size_t n)
{
    const Curve *lru = NULL;
    const Curve *belady = NULL;
    char title[128];
    char ranks[24] = "";
    if (curves->ranks > 1)
        snprintf(ranks, sizeof ranks, ", %d ranks", curves->ranks);
    snprintf(title, sizeof title, "Misses by policy and size: scope %s, order %s%s", curves->scope,
             curves->order, ranks);
    html_heading(stream, title);
    draw_panel(stream, curves, n);
    TRY(print_panel(stream, curves, n));
    for (size_t i = 0; i < n; i++) {
        if (strcmp(curves[i].evict, "lru") == 0 && strcmp(curves[i].predictor, "none") == 0)
            lru = &curves[i];
        if (strcmp(curves[i].evict, "belady") == 0)
            belady = &curves[i];
    }
    if (lru != NULL)
        tell_cliff(stream, lru, belady);
    return OK;
}

Status report_misses(const StudyReader *reader, FILE *stream)
{
    Curves curves = {0};
    Status status = read_curves(reader, &curves);
    for (size_t i = 0; i < curves.n && status == OK;) {
        size_t end = i + 1;
        while (end < curves.n && is_of_panel(&curves.curves[i], &curves.curves[end]))
            end++;
        status = tell_panel(stream, curves.curves + i, end - i);
        i = end;
    }
    if (status == OK && curves.n > 0)
        html_paragraph(
            stream, "note",
            "Of several plans of one policy and size, the one with the fewest misses. "
            "Belady (dashed) knows the future and begins with empty slots: no plan that "
            "can be run, and no bound for plans that begin with some experts loaded "
            "(buffer.initial). Under a budget of bytes, slots are the most that any scope "
            "has.");
    curves_free(&curves);
    return status;
}
