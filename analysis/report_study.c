#include <inttypes.h>

#include "analysis/html.h"
#include "analysis/plot.h"
#include "analysis/report.h"
#include "base/memory.h"
#include "base/number_text.h"
#include "sim/study_front.h"

/* What the plans that can be run extent. */
typedef struct {
    double least_bytes;
    double most_bytes;
    double most_tokens_per_s;
} Extent;

static const StudyConditions RUNNABLE = {.misses_at_most = 1};

static Status read_extent(const StudyReader *reader, Extent *extent)
{
    sqlite3_stmt *statement = NULL;
    TRY(study_reader_select(reader, "min(peak_bytes), max(peak_bytes), max(tokens_per_s)",
                            &RUNNABLE, "1", &statement));
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *extent = (Extent){sqlite3_column_double(statement, 0), sqlite3_column_double(statement, 1),
                           sqlite3_column_double(statement, 2)};
    sqlite3_finalize(statement);
    return code == SQLITE_ROW ? OK : study_reader_fail(reader, code);
}

static Status draw_plans(const StudyReader *reader, Plot *plot, double unit)
{
    sqlite3_stmt *statement = NULL;
    PlotSpots *spots;
    int code = SQLITE_DONE;
    TRY(mem_new(&spots, 1, sizeof *spots, "plot"));
    Status status =
        study_reader_select(reader, "peak_bytes, tokens_per_s", &RUNNABLE, "plan_id", &statement);
    while (status == OK && (code = sqlite3_step(statement)) == SQLITE_ROW)
        plot_dot(plot, spots, sqlite3_column_double(statement, 0) / unit,
                 sqlite3_column_double(statement, 1));
    if (status == OK && code != SQLITE_DONE)
        status = study_reader_fail(reader, code);
    sqlite3_finalize(statement);
    mem_free(spots);
    return status;
}

static Status draw_front(Plot *plot, const StudyFront *front, double unit)
{
    double *points;
    TRY(mem_new(&points, 2 * front->n_points, sizeof *points, "plot"));
    for (size_t i = 0; i < front->n_points; i++) {
        points[i] = (double)front->points[i].time.peak_bytes / unit;
        points[front->n_points + i] = front->points[i].time.tokens_per_s;
    }
    plot_series(plot, "no other is as fast", PLOT_STEPS, points, points + front->n_points,
                front->n_points);
    mem_free(points);
    return OK;
}

static Status plot_front(const StudyReader *reader, FILE *stream, const StudyFront *front)
{
    static const char *const NAMES[] = {"device memory (B)", "device memory (KiB)",
                                        "device memory (MiB)", "device memory (GiB)"};
    Extent extent = {0};
    double unit = 1;
    int name = 0;
    TRY(read_extent(reader, &extent));
    for (; name < 3 && extent.most_bytes >= 1024 * unit; name++)
        unit *= 1024;
    Plot plot =
        plot_begin(stream, "Tokens per second against device memory",
                   plot_axis(NAMES[name], extent.least_bytes / unit, extent.most_bytes / unit),
                   plot_axis("tokens/s", 0, extent.most_tokens_per_s));
    Status status = draw_plans(reader, &plot, unit);
    if (status == OK)
        status = draw_front(&plot, front, unit);
    plot_end(&plot, "Dots: every plan of the study that can be run; those that fall on one spot "
                    "are drawn once.");
    return status;
}

static void print_front(FILE *stream, const StudyFront *front)
{
    static const char *const TITLES[] = {"plan", "device memory",     "in bytes", "tokens/s",
                                         "time", "waited for misses", "of time",  "miss ratio"};
    char text[NUMBER_BYTES];
    HtmlTable table = html_table_begin(stream, TITLES, "lrrrrrrr");
    for (size_t i = 0; i < front->n_points; i++) {
        const FrontPoint *point = &front->points[i];
        const PlanTime *time = &point->time;
        double total = (double)time->total_ns;
        html_cell(&table, "%s", point->name);
        html_cell(&table, "%s", bytes_text(time->peak_bytes, text));
        html_cell(&table, "%" PRIu64, time->peak_bytes);
        html_cell(&table, "%.1f", time->tokens_per_s);
        html_cell(&table, "%s", duration_text(time->total_ns, text));
        html_cell(&table, "%s", duration_text(time->exposed_load_ns, text));
        html_cell(&table, "%.1f %%", total > 0 ? 100 * (double)time->exposed_load_ns / total : 0);
        html_cell(&table, "%.4f", point->miss_ratio);
    }
    html_table_end(&table);
}

static Status tell_front(const StudyReader *reader, FILE *stream, const StudyFront *front)
{
    if (front->n_points == 0) {
        html_paragraph(stream, "note", "No plan that can be run has a result yet.");
        return OK;
    }
    const FrontPoint *last = &front->points[front->n_points - 1];
    char least[NUMBER_BYTES];
    char most[NUMBER_BYTES];
    html_paragraph(stream, "lead",
                   "Of %" PRIu64
                   " plans that can be run, %zu are not beaten in throughput with as little "
                   "memory: from %.1f tokens/s in %s of device memory to %.1f tokens/s in %s.",
                   front->candidates, front->n_points, front->points[0].time.tokens_per_s,
                   bytes_text(front->points[0].time.peak_bytes, least), last->time.tokens_per_s,
                   bytes_text(last->time.peak_bytes, most));
    TRY(plot_front(reader, stream, front));
    print_front(stream, front);
    html_paragraph(stream, "note",
                   "To have one of them as a plan: moebius plan --from STUDY --best time "
                   "--memory-at-most BYTES --out plan.json, with its bytes from the table. Device "
                   "memory is all of it at the peak; time waited for misses is what MoE layers "
                   "waited, not what loads took.");
    return OK;
}

static Status tell_time(const StudyReader *reader, FILE *stream)
{
    StudyFront front;
    html_heading(stream, "Time and memory");
    if (!reader->has_times) {
        html_paragraph(stream, "lead",
                       "This study has no times: it was swept without a hardware profile. What "
                       "follows counts misses, and a hit rate is not a throughput; moebius sweep "
                       "--hardware gives every plan a time.");
        return OK;
    }
    TRY(study_front_read(reader, &RUNNABLE, &front));
    Status status = tell_front(reader, stream, &front);
    study_front_free(&front);
    return status;
}

static const char *column_text(sqlite3_stmt *row, const char *name)
{
    for (int i = 0; i < sqlite3_column_count(row); i++)
        if (sqlite3_stricmp(sqlite3_column_name(row, i), name) == 0)
            return (const char *)sqlite3_column_text(row, i);
    return NULL;
}

/* "steps FIRST to END - 1", or NONE where the study does not say. */
static void steps_row(HtmlTable *table, sqlite3_stmt *row, const char *title, const char *part,
                      const char *none)
{
    char name[32];
    snprintf(name, sizeof name, "%s_first", part);
    const char *first = column_text(row, name);
    snprintf(name, sizeof name, "%s_end", part);
    const char *end = column_text(row, name);
    html_cell(table, "%s", title);
    if (first == NULL || end == NULL)
        html_cell(table, "%s", none);
    else
        html_cell(table, "steps from %s to before %s, counted from 0", first, end);
}

static void tell_scored_row(FILE *stream, sqlite3_stmt *row)
{
    static const char *const TITLES[] = {"study", ""};
    static const char *const ROWS[][2] = {{"name", "name"},
                                          {"created", "created"},
                                          {"by", "tool"},
                                          {"trace", "trace"},
                                          {"digest of the trace", "trace_digest"},
                                          {"hardware profile", "hardware"}};
    HtmlTable table = html_table_begin(stream, TITLES, "ll");
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        const char *text = column_text(row, ROWS[i][1]);
        html_cell(&table, "%s", ROWS[i][0]);
        html_cell(&table, "%s", text != NULL ? text : "none");
    }
    steps_row(&table, row, "learnt from", "train", "nothing: no plan learns");
    steps_row(&table, row, "scored on", "test", "all steps");
    html_table_end(&table);
}

static Status tell_scored(const StudyReader *reader, FILE *stream)
{
    sqlite3_stmt *statement = NULL;
    html_heading(stream, "What was scored");
    int code =
        sqlite3_prepare_v2(reader->sqlite, "SELECT * FROM study ORDER BY id", -1, &statement, NULL);
    while (code == SQLITE_OK || code == SQLITE_ROW) {
        code = sqlite3_step(statement);
        if (code == SQLITE_ROW)
            tell_scored_row(stream, statement);
    }
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? OK : study_reader_fail(reader, code);
}

static Status write_page(StudyReader *reader, FILE *stream, uint64_t *results)
{
    char title[1024];
    char text[2][NUMBER_BYTES];
    StudyCheck count;
    TRY(study_reader_count(reader, &count));
    *results = count.results;
    snprintf(title, sizeof title, "Study: %s", reader->path);
    html_begin(stream, title);
    html_paragraph(stream, NULL,
                   "This is a study: plans (which experts are kept on the device, how many, what "
                   "is loaded ahead) replayed over a recorded trace. %s of its %s plans have a "
                   "result.",
                   number_text(count.results, text[0]), number_text(count.plans, text[1]));
    TRY(tell_time(reader, stream));
    TRY(report_misses(reader, stream));
    study_reader_trust(reader);
    TRY(tell_scored(reader, stream));
    html_end(stream);
    return OK;
}

Status report_study(const char *path, FILE *stream, uint64_t *results)
{
    StudyReader reader;
    Status status = study_reader_open(path, &reader);
    if (status == OK)
        status = write_page(&reader, stream, results);
    study_reader_close(&reader);
    return status;
}
