#include <inttypes.h>
#include <stdio.h>

#include "analysis/characterise.h"
#include "cli/command.h"
#include "cli/options.h"
#include "cli/print.h"
#include "cli/table.h"

static const char *const PHASE_CHOICES[] = {"prefill", "decode", "encode", "mixed", NULL};
_Static_assert(PHASE_PREFILL == 0 && PHASE_MIXED == 3 && ALL_PHASES == -1, "as in PHASE_CHOICES");

typedef struct {
    const char *path;
    int phase; /* or ALL_PHASES */
    bool json;
} Arguments;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        TRACE_OPTION(&arguments->path),
        CHOICE_OPTION("phase", "PHASE", "prefill, decode, encode or mixed: only steps of this kind",
                      PHASE_CHOICES, &arguments->phase),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "analyze",
        .summary = "Says what the routing of a trace is like, layer by layer and before any "
                   "policy: how many experts an event (one layer of one step) needs, how unevenly "
                   "they share the work, how soon they are needed again, which are needed "
                   "together, and what static gating would compute for each assignment.",
        .example = "moebius analyze trace.db\nmoebius analyze trace.db --phase decode",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    return options_parse(&table, argc, argv);
}

static void add_row(Table *table, const char *name, const LayerCharacter *layer)
{
    char texts[CHARACTER_TEXTS][NUMBER_BYTES];
    character_texts(layer, texts);
    table_cell(table, "%s", name);
    for (int i = 0; i < CHARACTER_TEXTS; i++)
        table_cell(table, "%s", texts[i]);
    table_cell(table, "%.2f", layer->waste_factor);
}

static void add_correlation(Table *table, const LayerCharacter *layer)
{
    table_cell(table, "%.3f", layer->correlation);
    if (layer->pairs > 0)
        table_cell(table, "%.3f (%" PRIu32 ", %" PRIu32 ")", layer->most_correlation,
                   layer->most_pair[0], layer->most_pair[1]);
    else
        table_cell(table, "-");
}

static Status print_people(const PackedTrace *trace, const Character *character)
{
    static const char *const TITLES[] = {"layer", "events",    "needed",   "share",
                                         "tenth", "effective", "again",    "reuse",
                                         "waste", "|r|",       "largest r"};
    Table *table;
    char name[16];
    TRY(table_new(TITLES, "rrrrrrrrrrr", &table));
    for (uint32_t i = 0; i < character->n_layers; i++) {
        snprintf(name, sizeof name, "%" PRIu32, trace->layers[i].layer);
        add_row(table, name, &character->layers[i]);
        add_correlation(table, &character->layers[i]);
    }
    add_row(table, "total", &character->total);
    table_cell(table, "-");
    table_cell(table, "-");
    Status status = table_print(table, stdout);
    table_free(table);
    TRY(status);
    puts("\nneeded, share: experts that an event needs, and of all the layer has (1 - share is the "
         "activation\nsparsity). tenth: of the assignments, what the busiest tenth of the experts "
         "gets. effective: how many\nequally busy experts would be as uneven. again: lookups whose "
         "expert the event before needed too.\nreuse: events since an expert was needed last. "
         "waste: rows of static gating, with the least capacity\nthat drops nothing in the step, "
         "for an assignment. r: Pearson's, of two experts' being needed.");
    return OK;
}

/* null where there is nothing that it could be of. */
static Status add_known(cJSON *json, const char *key, double value, bool known)
{
    return known ? json_add_f64(json, key, value) : json_add_null(json, key);
}

static Status add_reuse(cJSON *json, const LayerCharacter *layer)
{
    cJSON *object;
    char name[24];
    TRY(json_add_object(json, "reuse", &object));
    TRY(json_add_u64(object, "lookups", layer->reuses));
    TRY(add_known(object, "mean_events", layer->reuse_events, layer->reuses > 0));
    for (int i = 0; i < REUSE_WITHINS; i++) {
        snprintf(name, sizeof name, "within_%" PRIu32, REUSE_WITHIN[i]);
        TRY(add_known(object, name, layer->reuse_within[i], layer->reuses > 0));
    }
    return OK;
}

static Status fill_layer(cJSON *json, const LayerCharacter *layer)
{
    bool known = layer->events > 0;
    TRY(json_add_u64(json, "events", layer->events));
    TRY(json_add_u64(json, "lookups", layer->lookups));
    TRY(json_add_u64(json, "assignments", layer->assignments));
    TRY(add_known(json, "active_share", layer->active, known));
    TRY(add_known(json, "busiest_tenth_share", layer->busiest_tenth, known));
    TRY(add_known(json, "effective_experts", layer->effective_experts, known));
    TRY(add_known(json, "again_share", layer->again, known));
    TRY(add_reuse(json, layer));
    return add_known(json, "waste_factor", layer->waste_factor, known);
}

static Status add_pairs(cJSON *json, const LayerCharacter *layer)
{
    cJSON *object;
    cJSON *pair;
    TRY(json_add_object(json, "correlation", &object));
    TRY(json_add_u64(object, "pairs", layer->pairs));
    if (layer->pairs == 0)
        return OK;
    TRY(json_add_f64(object, "mean_absolute", layer->correlation));
    TRY(json_add_f64(object, "largest", layer->most_correlation));
    TRY(json_add_array(object, "largest_pair", &pair));
    for (int i = 0; i < 2; i++)
        TRY(json_push(pair, cJSON_CreateNumber(layer->most_pair[i])));
    return OK;
}

static Status fill_json(cJSON *json, const Arguments *arguments, const PackedTrace *trace,
                        const Character *character)
{
    cJSON *list;
    cJSON *object;
    TRY(print_add_bytes(json, "trace", span_of(arguments->path)));
    TRY(json_add_text(json, "phase",
                      arguments->phase != ALL_PHASES ? PHASE_CHOICES[arguments->phase] : "all"));
    TRY(json_add_object(json, "total", &object));
    TRY(fill_layer(object, &character->total));
    TRY(json_add_array(json, "per_layer", &list));
    for (uint32_t i = 0; i < character->n_layers; i++) {
        object = cJSON_CreateObject();
        TRY(json_push(list, object));
        TRY(json_add_u64(object, "layer", trace->layers[i].layer));
        TRY(json_add_u64(object, "experts", trace->layers[i].experts));
        TRY(json_add_u64(object, "experts_used", character->layers[i].used));
        TRY(fill_layer(object, &character->layers[i]));
        TRY(add_pairs(object, &character->layers[i]));
    }
    return OK;
}

static Status print_found(const Arguments *arguments, const PackedTrace *trace,
                          const Character *character)
{
    cJSON *json;
    if (!arguments->json)
        return print_people(trace, character);
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, arguments, trace, character));
}

Status command_analyze(int argc, char **argv)
{
    Arguments arguments = {.phase = ALL_PHASES};
    PackedTrace trace;
    Character character;
    TRY(parse(argc, argv, &arguments));
    TRY(packed_trace_load(arguments.path, &trace));
    Status status = characterise(&trace, arguments.phase, &character);
    if (status == OK) {
        status = print_found(&arguments, &trace, &character);
        character_free(&character);
    }
    packed_trace_free(&trace);
    return status;
}
