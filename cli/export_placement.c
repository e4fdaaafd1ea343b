#include "cli/export_placement.h"

#include <inttypes.h>

#include "base/memory.h"
#include "policies/placement_slots.h"
#include "traces/layers.h"
#include "traces/reader.h"

/* What of a model the formats need. */
typedef struct {
    TraceLayer *layers; /* [n_layers]; number and experts */
    uint32_t n_layers;
    uint32_t all_layers; /* dense ones too; 0: not known */
} ModelLayers;

/* "num_hidden_layers" of a config, or of its text model. */
static uint32_t config_layers(const char *config)
{
    cJSON *json = config != NULL ? cJSON_Parse(config) : NULL;
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(json, "text_config");
    const cJSON *of = cJSON_IsObject(text) ? text : json;
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(of, "num_hidden_layers");
    bool is_count = cJSON_IsNumber(number) && number->valuedouble >= 1 &&
                    number->valuedouble <= TRACE_MAX_LAYERS;
    uint32_t layers = is_count ? (uint32_t)number->valuedouble : 0;
    cJSON_Delete(json);
    return layers;
}

static Status copy_layers(const TraceReader *reader, const char *trace, ModelLayers *model)
{
    const TraceLayer *layers = trace_reader_layers(reader, &model->n_layers);
    for (uint32_t i = 0; i < model->n_layers; i++)
        if (layers[i].stack == STACK_ENCODER)
            return fail(ERR_INPUT,
                        "%s: layer %" PRIu32 " is an encoder's: the format has one stack", trace,
                        layers[i].layer);
    TRY(mem_new(&model->layers, model->n_layers, sizeof *model->layers, "layers"));
    for (uint32_t i = 0; i < model->n_layers; i++)
        model->layers[i] = layers[i];
    model->all_layers = config_layers(trace_reader_run(reader)->model_config);
    return OK;
}

static Status layers_of_trace(const char *trace, ModelLayers *model)
{
    TraceReader *reader;
    TRY(trace_reader_open(trace, &reader));
    Status status = copy_layers(reader, trace, model);
    trace_reader_close(reader);
    return status;
}

static Status layers_of_map(const Plan *plan, ModelLayers *model)
{
    const PlanTable *map = plan->placement.map.table;
    if (map == NULL)
        return fail(ERR_INPUT,
                    "placement.method \"%s\" needs TRACE, which says what layers there are",
                    PLACEMENT_METHOD_NAMES[plan->placement.method]);
    model->n_layers = plan_table_layers(map);
    TRY(mem_new(&model->layers, (size_t)model->n_layers + 1, sizeof *model->layers, "layers"));
    for (uint32_t i = 0; i < model->n_layers; i++) {
        model->layers[i].layer = plan_table_layer(map, i);
        model->layers[i].experts = plan_table_rows(map, i);
    }
    return OK;
}

static Status write_sglang(const PlacementExport *options, const ModelLayers *model,
                           const PlacementSlots *slots, PlacementExported *done)
{
    const TraceLayer *layers = model->layers;
    uint32_t last = layers[model->n_layers - 1].layer;
    done->layers = options->layers > 0 ? options->layers : model->all_layers;
    if (done->layers == 0)
        done->layers = last + 1;
    for (uint32_t i = 1; i < model->n_layers; i++)
        if (layers[i].experts != layers[0].experts)
            return fail(ERR_INPUT,
                        "layer %" PRIu32 " has %" PRIu32 " experts, layer %" PRIu32 " has %" PRIu32
                        ": the format has as many in each layer",
                        layers[i].layer, layers[i].experts, layers[0].layer, layers[0].experts);
    return export_sglang(slots, layers[0].experts, done->layers, options->out);
}

static Status write_slots(const PlacementExport *options, const Plan *plan,
                          const ModelLayers *model, PlacementExported *done)
{
    PlacementSlots slots;
    const PlanTable *map;
    TRY(placement_map(plan, model->layers, model->n_layers, &map));
    Status status = placement_slots(map, plan->placement.ranks, &slots);
    plan_table_release(map);
    TRY(status);
    *done = (PlacementExported){.ranks = plan->placement.ranks,
                                .moe_layers = slots.n_layers,
                                .layers = slots.n_layers,
                                .slots = slots.n_slots,
                                .replicas = plan->placement.replicas};
    status = options->is_trtllm ? export_trtllm(&slots, options->updates, options->out)
                                : write_sglang(options, model, &slots, done);
    placement_slots_free(&slots);
    return status;
}

Status export_placement(const PlacementExport *options, PlacementExported *done)
{
    Plan plan;
    ModelLayers model = {0};
    TRY(plan_load(options->plan, &plan));
    Status status = options->trace != NULL
                        ? layers_of_trace(options->trace, &model)
                        : fail_in(layers_of_map(&plan, &model), "%s", options->plan);
    if (status == OK)
        status = fail_in(write_slots(options, &plan, &model, done), "%s", options->plan);
    mem_free(model.layers);
    plan_free(&plan);
    return status;
}
