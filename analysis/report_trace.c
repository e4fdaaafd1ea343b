#include <inttypes.h>

#include "analysis/characterise.h"
#include "analysis/html.h"
#include "analysis/plot.h"
#include "analysis/report.h"
#include "analysis/trace_summary.h"
#include "base/memory.h"
#include "base/number_text.h"

static void tell_origin(FILE *stream, const TraceReader *reader, const TraceSummary *summary)
{
    static const char *const TITLES[] = {"trace", ""};
    const TraceRun *run = trace_reader_run(reader);
    const char *const rows[][2] = {
        {"created", run->created},
        {"tool", run->tool},
        {"source", run->source},
        {"model", run->model},
        {"device", run->device},
        {"complete", summary->complete ? "yes" : "no: recording did not end properly"}};
    HtmlTable table = html_table_begin(stream, TITLES, "ll");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        html_cell(&table, "%s", rows[i][0]);
        html_cell(&table, "%s", rows[i][1] != NULL ? rows[i][1] : "-");
    }
    html_table_end(&table);
}

static void tell_phases(FILE *stream, const TraceSummary *summary)
{
    static const char *const TITLES[] = {"phase", "steps", "tokens"};
    char text[NUMBER_BYTES];
    HtmlTable table = html_table_begin(stream, TITLES, "lrr");
    for (int i = 0; i < TRACE_PHASES; i++) {
        if (summary->steps[i] == 0)
            continue;
        html_cell(&table, "%s", phase_name((Phase)i));
        html_cell(&table, "%s", number_text(summary->steps[i], text));
        html_cell(&table, "%s", number_text(summary->phase_tokens[i], text));
    }
    html_cell(&table, "total");
    html_cell(&table, "%s", number_text(summary->total_steps, text));
    html_cell(&table, "%s", number_text(summary->tokens, text));
    html_table_end(&table);
}

static void tell_layers(FILE *stream, const PackedTrace *trace)
{
    static const char *const TITLES[] = {"layer",  "name",    "stack", "experts",    "top_k",
                                         "shared", "d_model", "d_ff",  "expert size"};
    char text[NUMBER_BYTES];
    HtmlTable table = html_table_begin(stream, TITLES, "rllrrrrrr");
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        const TraceLayer *layer = &trace->layers[i];
        html_cell(&table, "%" PRIu32, layer->layer);
        html_cell(&table, "%s", layer->name);
        html_cell(&table, "%s", stack_name(layer->stack));
        html_cell(&table, "%" PRIu32, layer->experts);
        html_cell(&table, "%" PRIu32, layer->top_k);
        html_cell(&table, "%" PRIu32, layer->shared_experts);
        html_cell(&table, "%" PRIu32, layer->d_model);
        html_cell(&table, "%" PRIu32, layer->d_ff);
        html_cell(&table, "%s",
                  layer->expert_bytes > 0 ? bytes_text(layer->expert_bytes, text) : "-");
    }
    html_table_end(&table);
}

/* Loads of these times an even share and more have a level of their own. */
static const double HEAT_BOUNDS[] = {0.25, 0.5, 0.75, 1, 1.5, 2.5, 5};
_Static_assert(sizeof HEAT_BOUNDS / sizeof HEAT_BOUNDS[0] == HEAT_LEVELS - 2, "a bound for each");

/* Of LOAD, the mean of some of the EXPERTS experts of LAYER. */
static int heat_level(double load, const LayerCharacter *layer, uint32_t experts)
{
    double times = load * experts / (double)layer->assignments;
    int level = 1;
    if (load <= 0)
        return 0;
    while (level < HEAT_LEVELS - 1 && times >= HEAT_BOUNDS[level - 1])
        level++;
    return level;
}

static void draw_row(HeatMap *map, uint32_t row, const TraceLayer *of, const LayerCharacter *layer,
                     uint32_t each)
{
    int levels[HEAT_COLUMNS];
    char name[16];
    size_t n = 0;
    for (uint32_t first = 0; first < of->experts; first += each) {
        double sum = 0;
        uint32_t end = of->experts - first < each ? of->experts : first + each;
        for (uint32_t i = first; i < end; i++)
            sum += (double)layer->load[i];
        levels[n++] = heat_level(sum / (end - first), layer, of->experts);
    }
    snprintf(name, sizeof name, "%" PRIu32, of->layer);
    heat_map_row(map, row, name, levels, n);
}

static void draw_scale(FILE *stream)
{
    int levels[HEAT_LEVELS];
    for (int i = 0; i < HEAT_LEVELS; i++)
        levels[i] = i;
    HeatMap map = heat_map_begin(stream, "Scale of the heat map", 1, HEAT_LEVELS);
    heat_map_row(&map, 0, "scale", levels, HEAT_LEVELS);
    heat_map_end(&map, "From the left: never chosen; less than a quarter of an even share of the "
                       "layer's assignments; then from 0.25, 0.5, 0.75, 1 (even), 1.5 and 2.5 "
                       "times on; 5 times or more.");
}

static void draw_heat(FILE *stream, const PackedTrace *trace, const Character *character)
{
    uint32_t most = 1;
    char caption[160];
    for (uint32_t i = 0; i < trace->n_layers; i++)
        most = trace->layers[i].experts > most ? trace->layers[i].experts : most;
    uint32_t each = (most + HEAT_COLUMNS - 1) / HEAT_COLUMNS;
    html_heading(stream, "Which experts do the work");
    HeatMap map = heat_map_begin(stream, "Assignments of every expert, layer by layer",
                                 trace->n_layers, (most + each - 1) / each);
    for (uint32_t i = 0; i < trace->n_layers; i++)
        draw_row(&map, i, &trace->layers[i], &character->layers[i], each);
    snprintf(caption, sizeof caption,
             "A row is a MoE layer, a column %" PRIu32 " expert%s, by id from the left; the more "
             "colour, the more token assignments.",
             each, each > 1 ? "s (their mean)" : "");
    heat_map_end(&map, caption);
    draw_scale(stream);
}

static void character_cells(HtmlTable *table, const LayerCharacter *layer)
{
    char texts[CHARACTER_TEXTS][NUMBER_BYTES];
    character_texts(layer, texts);
    for (int i = 0; i < CHARACTER_TEXTS; i++)
        html_cell(table, "%s", texts[i]);
    for (int i = 1; i < REUSE_WITHINS; i++)
        html_cell(table, "%.4f", layer->reuse_within[i]);
    html_cell(table, "%.2f", layer->waste_factor);
}

static void correlation_cells(HtmlTable *table, const LayerCharacter *layer)
{
    if (layer->pairs == 0) {
        html_cell(table, "-");
        html_cell(table, "-");
        return;
    }
    html_cell(table, "%.3f", layer->correlation);
    html_cell(table, "%.3f (%" PRIu32 ", %" PRIu32 ")", layer->most_correlation,
              layer->most_pair[0], layer->most_pair[1]);
}

static void tell_character(FILE *stream, const PackedTrace *trace, const Character *character)
{
    static const char *const TITLES[] = {"layer",     "events", "needed",   "share",    "tenth",
                                         "effective", "again",  "reuse",    "<= 4",     "<= 16",
                                         "<= 64",     "waste",  "mean |r|", "largest r"};
    html_heading(stream, "What the routing is like, layer by layer");
    HtmlTable table = html_table_begin(stream, TITLES, "lrrrrrrrrrrrrr");
    for (uint32_t i = 0; i < character->n_layers; i++) {
        html_cell(&table, "%" PRIu32, trace->layers[i].layer);
        character_cells(&table, &character->layers[i]);
        correlation_cells(&table, &character->layers[i]);
    }
    html_cell(&table, "total");
    character_cells(&table, &character->total);
    html_cell(&table, "-");
    html_cell(&table, "-");
    html_table_end(&table);
    html_paragraph(
        stream, "note",
        "An event is one layer of one step. needed, share: experts that an event needs, and of all "
        "the layer has (1 - share is the activation sparsity). tenth: of the assignments, what the "
        "busiest tenth of the experts gets. effective: how many equally busy experts would be as "
        "uneven. again: lookups whose expert the event before needed too. reuse: events since an "
        "expert was needed last, in the mean; <= 4, 16, 64: the share of reuses that come within "
        "so many. waste: rows of static gating, with the least capacity that drops nothing in the "
        "step, for an assignment. r: Pearson's, of two experts' being needed.");
}

static void tell_lead(FILE *stream, const Character *character)
{
    const LayerCharacter *total = &character->total;
    if (total->events == 0) {
        html_paragraph(stream, "lead", "No event of the trace needs any expert.");
        return;
    }
    html_paragraph(stream, "lead",
                   "An event, one layer of one step, needs %.2f experts in the mean, %.4f of those "
                   "that the layer has. The busiest tenth of the experts gets %.4f of the "
                   "assignments; %.4f of the lookups are of experts that the event before needed "
                   "too. Static gating that drops nothing would compute %.2f rows for each "
                   "assignment.",
                   character_needed(total), total->active, total->busiest_tenth, total->again,
                   total->waste_factor);
    html_paragraph(stream, "note",
                   "This is before any policy, and says nothing of time: moebius sweep --hardware "
                   "does.");
}

static Status draw_shares(FILE *stream, const PackedTrace *trace, const Character *character)
{
    double *values;
    size_t n = character->n_layers;
    TRY(mem_new(&values, 4 * n, sizeof *values, "plot"));
    for (size_t i = 0; i < n; i++) {
        values[i] = trace->layers[i].layer;
        values[n + i] = character->layers[i].active;
        values[2 * n + i] = character->layers[i].busiest_tenth;
        values[3 * n + i] = character->layers[i].again;
    }
    Plot plot = plot_begin(stream, "Sparsity, skew and locality by layer",
                           plot_axis("layer", values[0], values[n - 1]), plot_axis("share", 0, 1));
    plot_series(&plot, "experts an event needs", PLOT_LINE, values, values + n, n);
    plot_series(&plot, "work of busiest tenth", PLOT_LINE, values, values + 2 * n, n);
    plot_series(&plot, "needed again at once", PLOT_LINE, values, values + 3 * n, n);
    plot_end(&plot, NULL);
    mem_free(values);
    return OK;
}

static void tell_contents(FILE *stream, const TraceReader *reader, const TraceSummary *summary,
                          const PackedTrace *trace)
{
    char text[4][NUMBER_BYTES];
    html_heading(stream, "What the trace holds");
    tell_origin(stream, reader, summary);
    tell_phases(stream, summary);
    tell_layers(stream, trace);
    html_paragraph(
        stream, NULL,
        "%s requests; token ids %s, weights %s, scores %s; %s residency events, %s timed "
        "operations; %s, %.1f bytes per token.",
        number_text(summary->requests, text[0]), summary->has_token_ids ? "yes" : "no",
        summary->has_weights ? "yes" : "no", summary->has_scores ? "yes" : "no",
        number_text(summary->residency_events, text[1]), number_text(summary->timing_ops, text[2]),
        bytes_text(summary->file_bytes, text[3]), trace_summary_bytes_per_token(summary));
}

static Status write_page(const char *path, const TraceReader *reader, const TraceSummary *summary,
                         const PackedTrace *trace, FILE *stream)
{
    char title[1024];
    Character character;
    TRY(characterise(trace, ALL_PHASES, &character));
    snprintf(title, sizeof title, "Trace: %s", path);
    html_begin(stream, title);
    html_paragraph(stream, NULL,
                   "This is a trace: which experts the tokens of a Mixture-of-Experts model were "
                   "routed to, step by step.");
    tell_lead(stream, &character);
    draw_heat(stream, trace, &character);
    tell_character(stream, trace, &character);
    Status status = character.n_layers > 1 ? draw_shares(stream, trace, &character) : OK;
    tell_contents(stream, reader, summary, trace);
    html_end(stream);
    character_free(&character);
    return status;
}

static Status summarize(TraceReader *reader, const char *path, TraceSummary *summary)
{
    TraceStep step;
    Status status = trace_summary_begin(reader, path, summary);
    while (status == OK && (status = trace_reader_next_step(reader, &step)) == OK)
        trace_summary_add(summary, &step);
    return status == STATUS_END ? OK : status;
}

Status report_trace(const char *path, FILE *stream, uint64_t *steps)
{
    TraceReader *reader;
    TraceSummary summary;
    PackedTrace trace;
    TRY(trace_reader_open(path, &reader));
    Status status = summarize(reader, path, &summary);
    if (status == OK)
        status = packed_trace_load(path, &trace);
    if (status == OK) {
        *steps = summary.total_steps;
        status = write_page(path, reader, &summary, &trace, stream);
        packed_trace_free(&trace);
    }
    trace_reader_close(reader);
    return status;
}
