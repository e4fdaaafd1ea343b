/* Decoding with an expert buffer, from one slot a layer to all experts: what latency each size
 * costs, what memory it saves, and how fast its loads run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench_command.h"
#include "cli/plan_input.h"
#include "cli/print.h"
#include "cli/table.h"
#include "policies/eviction.h"

enum { MAX_SIZES = 32, LEAST_WARM_UP = 3, MOST_WARM_UP = 48, FILL_TOKENS = 2048 };

typedef struct {
    ModelInput model;
    DeviceInput device;
    const char *batches_text;
    BenchBatch batches[BENCH_MAX_BATCHES];
    uint32_t n_batches;
    const char *slots_text; /* NULL: powers of two, and all */
    const char *plan;
    OptionList sets;
    uint32_t context;
    uint32_t repeats;
    const char *routing;
    bool json;
} Arguments;

/* One batch with one number of slots. */
typedef struct {
    uint32_t requests;
    uint32_t slots; /* 0: no buffer, all experts in device memory */
    uint64_t slot_bytes;
    StepTimes times;
    double floor_ns; /* computing, or the loads, whichever takes longer */
    uint64_t lookups;
    uint64_t misses;
    uint64_t bytes_loaded; /* in all steps that were measured */
    double load_ns;        /* while a load ran */
    double all_ns;         /* of these steps */
} Row;

typedef struct {
    const Arguments *arguments;
    Plan plan;     /* with a buffer of some size ... */
    Plan resident; /* ... of slots for all experts, which are there from the start ... */
    Plan without;  /* ... and without one */
    StepBench bench;
    Ceilings ceilings;
    uint32_t sizes[MAX_SIZES]; /* descending */
    uint32_t n_sizes;
    uint32_t position; /* of the next step */
    Row *rows;         /* [(1 + n_sizes) * n_batches]: without a buffer first */
    uint32_t n_rows;
} Measurement;

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        MODEL_OPTIONS(&arguments->model, true),
        TEXT_OPTION("batch", "LIST", "requests at a time (default 8)", &arguments->batches_text),
        TEXT_OPTION("slots", "LIST",
                    "slots of each layer's buffer (default: 1, 2, 4 and so on, and all)",
                    &arguments->slots_text),
        U32_OPTION("context", "N", "tokens of each request before (default 64)", 1, FILL_TOKENS,
                   &arguments->context),
        TEXT_OPTION("routing", "TEXT", ROUTING_HELP, &arguments->routing),
        U32_OPTION("repeats", "N", "steps that are measured (default 15)", 1, BENCH_MAX_REPEATS,
                   &arguments->repeats),
        PLAN_OPTIONS(&arguments->plan, &arguments->sets),
        DEVICE_OPTIONS(&arguments->device),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "bench buffer",
        .summary = "Measures decoding with the plan's expert buffer (default: lru, each layer its "
                   "own) at every size, and without one: latency, misses, the rate of loads, and "
                   "the memory that is saved. The largest holds every expert from the start.",
        .example = "moebius bench buffer --model shape:nllb-moe-54b --layers 8 --device cuda "
                   "--routing zipf:1",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    TRY(model_input_check(&table, &arguments->model));
    return bench_batches_read(&table, "batch", arguments->batches_text, 1, arguments->batches,
                              &arguments->n_batches);
}

/* Experts of the layer that has most. */
static Status read_most(const char *model, uint32_t *most)
{
    Checkpoint *checkpoint;
    TRY(checkpoint_open_model(model, &checkpoint));
    *most = checkpoint_config(checkpoint)->max_experts;
    checkpoint_close(checkpoint);
    return OK;
}

static int compare_sizes(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

static Status read_sizes(Measurement *m, uint32_t most)
{
    const char *text = m->arguments->slots_text;
    for (uint32_t size = 1; text == NULL && size < most; size *= 2)
        m->sizes[m->n_sizes++] = size;
    while (text != NULL && *text != '\0') {
        char *end = NULL;
        bool all = strncmp(text, "all", 3) == 0;
        unsigned long size = all ? most : strtoul(text, &end, 10);
        end = all ? (char *)(size_t)text + 3 : end;
        if (end == text || size < 1 || size > most || m->n_sizes + 1 == MAX_SIZES ||
            (*end != '\0' && *end != ','))
            return fail(ERR_USAGE, "--slots: '%s', allowed are 1 to %u and all, up to %d of them",
                        m->arguments->slots_text, most, MAX_SIZES - 1);
        m->sizes[m->n_sizes++] = (uint32_t)size;
        text = *end == ',' ? end + 1 : end;
    }
    /* The largest is where prompts are filled in, and shows what a buffer costs in itself. */
    m->sizes[m->n_sizes++] = most;
    qsort(m->sizes, m->n_sizes, sizeof *m->sizes, compare_sizes);
    uint32_t n = 1;
    for (uint32_t i = 1; i < m->n_sizes; i++)
        if (m->sizes[i] != m->sizes[n - 1])
            m->sizes[n++] = m->sizes[i];
    m->n_sizes = n;
    return OK;
}

/* Opens the one executor that all rows are measured in, without a buffer and with room for one. */
static Status open_bench(Measurement *m)
{
    const Arguments *arguments = m->arguments;
    StepBenchSetup setup = {.model = arguments->model.name,
                            .device = &arguments->device,
                            .plan = &m->without,
                            .others = &m->plan,
                            .n_others = 1,
                            .routing = arguments->routing};
    for (uint32_t i = 0; i < arguments->n_batches; i++)
        if (arguments->batches[i].requests > setup.max_requests)
            setup.max_requests = arguments->batches[i].requests;
    setup.max_tokens =
        setup.max_requests > FILL_TOKENS ? setup.max_requests : (uint32_t)FILL_TOKENS;
    setup.max_length = arguments->context + (1 + m->n_sizes) * (MOST_WARM_UP + arguments->repeats);
    return step_bench_open(&setup, &m->bench);
}

/* Gives each layer SLOTS slots, which are empty unless there is one for every expert. */
static Status set_slots(Measurement *m, uint32_t slots)
{
    Plan plan = slots == m->sizes[0] ? m->resident : m->plan;
    plan.buffer.slots = slots;
    return executor_set_plan(m->bench.executor, &plan);
}

/* All experts of every MoE layer, as a plan's buffer.initial says it. */
static Status list_experts(Executor *executor, cJSON *lists)
{
    uint32_t n_layers;
    const TraceLayer *layers = executor_layers(executor, &n_layers);
    for (uint32_t i = 0; i < n_layers; i++) {
        char name[16];
        cJSON *list;
        snprintf(name, sizeof name, "%u", layers[i].layer);
        TRY(json_add_array(lists, name, &list));
        for (uint32_t e = 0; e < layers[i].experts; e++)
            TRY(json_push(list, cJSON_CreateNumber(e)));
    }
    return OK;
}

/* The plan of the largest buffer, which loads its experts before any step: some hardly ever come.
 */
static Status make_resident(Measurement *m)
{
    cJSON *json;
    cJSON *lists = cJSON_CreateObject();
    TRY(plan_to_json(&m->plan, &json));
    Status status = list_experts(m->bench.executor, lists);
    if (status == OK && !eviction_needs_hot(m->plan.buffer.evict))
        status = plan_json_put(json, "buffer.initial", lists);
    if (status == OK)
        status = plan_from_json(json, "bench buffer", &m->resident);
    cJSON_Delete(lists);
    cJSON_Delete(json);
    return status;
}

static Status run_step(Measurement *m, uint32_t requests, StepOutput *output, double *ns)
{
    const StepBenchStep step = {
        .requests = requests, .tokens = 1, .position = m->position++, .logits = LOGITS_LAST};
    return step_bench_run(&m->bench, &step, output, ns);
}

/* Adds up the records of a step. Loads follow each other, so that one ends before the next does. */
static void note_step(const StepOutput *output, double ns, Row *row)
{
    uint64_t end_ns = 0;
    row->all_ns += ns;
    for (size_t i = 0; i < output->n_residency; i++) {
        const ResidencyRecord *record = &output->residency[i];
        bool miss = record->kind == RESIDENCY_LOAD || record->kind == RESIDENCY_BYPASS ||
                    record->kind == RESIDENCY_HOST;
        row->misses += miss;
        row->lookups += miss || record->kind == RESIDENCY_HIT;
        if (record->bytes == 0)
            continue;
        uint64_t start_ns = record->start_ns > end_ns ? record->start_ns : end_ns;
        end_ns = record->start_ns + record->duration_ns;
        row->bytes_loaded += record->bytes;
        row->load_ns += end_ns > start_ns ? (double)(end_ns - start_ns) : 0;
    }
}

static double compute_floor_ns(const Measurement *m, const StepOutput *output, uint32_t requests)
{
    const ModelConfig *config = m->bench.config;
    StepWork work = {.requests = requests,
                     .tokens = 1,
                     .context = m->position - 1,
                     .source = model_is_encoder_decoder(config) ? m->arguments->context : 0,
                     .logits = requests,
                     .experts = output->experts,
                     .element_bytes = step_bench_element_bytes(&m->bench)};
    StepCost cost = step_cost(config, &work);
    return step_floor_ns(&cost, &m->ceilings);
}

/* Steps after which SLOTS slots have been filled about twice over. */
static uint32_t warm_up_steps(const Measurement *m, uint32_t requests, uint32_t slots)
{
    uint32_t steps = 2 * slots / (requests * m->bench.config->max_top_k) + LEAST_WARM_UP;
    return steps < MOST_WARM_UP ? steps : MOST_WARM_UP;
}

static Status measure_row(Measurement *m, uint32_t requests, uint32_t slots)
{
    Row *row = &m->rows[m->n_rows++];
    double ns[BENCH_MAX_REPEATS];
    StepOutput output;
    *row = (Row){.requests = requests, .slots = slots};
    for (uint32_t i = warm_up_steps(m, requests, slots); i > 0; i--)
        TRY(run_step(m, requests, &output, &ns[0]));
    for (uint32_t i = 0; i < m->arguments->repeats; i++) {
        TRY(run_step(m, requests, &output, &ns[i]));
        note_step(&output, ns[i], row);
    }
    double loads_ns =
        1e9 * (double)row->bytes_loaded / m->arguments->repeats / m->ceilings.upload_bytes_per_s;
    row->floor_ns = compute_floor_ns(m, &output, requests);
    row->floor_ns = loads_ns > row->floor_ns ? loads_ns : row->floor_ns;
    row->slot_bytes = executor_slot_bytes(m->bench.executor);
    row->times = step_times(ns, m->arguments->repeats);
    return OK;
}

static Status fill(Measurement *m, uint32_t requests)
{
    step_bench_empty(&m->bench);
    m->position = m->arguments->context;
    return step_bench_fill(&m->bench, requests, m->arguments->context);
}

static Status measure_unbuffered(Measurement *m)
{
    const Arguments *arguments = m->arguments;
    TRY(open_bench(m));
    for (uint32_t i = 0; i < arguments->n_batches; i++) {
        TRY(fill(m, arguments->batches[i].requests));
        TRY(measure_row(m, arguments->batches[i].requests, 0));
    }
    return OK;
}

/* The prompts are filled in with all slots there are; each size then goes on from there, empty. */
static Status measure_buffered(Measurement *m)
{
    const Arguments *arguments = m->arguments;
    TRY(make_resident(m));
    for (uint32_t i = 0; i < arguments->n_batches; i++) {
        uint32_t requests = arguments->batches[i].requests;
        TRY(set_slots(m, m->sizes[0]));
        TRY(fill(m, requests));
        for (uint32_t s = 0; s < m->n_sizes; s++) {
            if (s > 0)
                TRY(set_slots(m, m->sizes[s]));
            TRY(measure_row(m, requests, m->sizes[s]));
        }
    }
    return OK;
}

static double rate(double bytes, double ns)
{
    return ns > 0 ? bytes * 1e9 / ns : 0;
}

/* The row of the same batch without a buffer. */
static const Row *unbuffered(const Measurement *m, const Row *row)
{
    const Row *other = m->rows;
    while (other->requests != row->requests)
        other++;
    return other;
}

static Status add_row(cJSON *list, const Measurement *m, const Row *row)
{
    cJSON *item = cJSON_CreateObject();
    const Row *whole = unbuffered(m, row);
    TRY(json_push(list, item));
    TRY(json_add_u64(item, "requests", row->requests));
    TRY(row->slots > 0 ? json_add_u64(item, "slots", row->slots) : json_add_null(item, "slots"));
    TRY(json_add_u64(item, "slot_bytes", row->slot_bytes));
    TRY(json_add_f64(item, "saved_bytes", (double)whole->slot_bytes - (double)row->slot_bytes));
    TRY(bench_add_times(item, &row->times));
    TRY(json_add_f64(item, "floor_ns", row->floor_ns));
    TRY(json_add_f64(item, "to_unbuffered", row->times.median_ns / whole->times.median_ns));
    TRY(json_add_u64(item, "lookups", row->lookups));
    TRY(json_add_u64(item, "misses", row->misses));
    TRY(json_add_u64(item, "bytes_loaded", row->bytes_loaded));
    TRY(json_add_f64(item, "load_bytes_per_s", rate((double)row->bytes_loaded, row->load_ns)));
    return json_add_f64(item, "step_load_bytes_per_s",
                        rate((double)row->bytes_loaded, row->all_ns));
}

static Status fill_json(cJSON *json, const Measurement *m, int argc, char **argv)
{
    cJSON *list;
    cJSON *plan;
    TRY(bench_add_origin(json, argc, argv, &m->bench, &m->ceilings));
    TRY(plan_to_json(&m->plan, &plan));
    TRY(json_attach(json, "plan", plan));
    TRY(json_add_array(json, "rows", &list));
    for (uint32_t i = 0; i < m->n_rows; i++)
        TRY(add_row(list, m, &m->rows[i]));
    return OK;
}

static Status print_rows_json(const Measurement *m, int argc, char **argv)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, m, argc, argv));
}

static void print_row(const Measurement *m, const Row *row, Table *table)
{
    char text[NUMBER_BYTES];
    const Row *whole = unbuffered(m, row);
    double load_rate = rate((double)row->bytes_loaded, row->load_ns);
    table_cell(table, "%u", row->requests);
    if (row->slots > 0)
        table_cell(table, "%u", row->slots);
    else
        table_cell(table, "no buffer");
    table_cell(table, "%s", bytes_text(row->slot_bytes, text));
    table_cell(table, "%.1f %%", 100 * (1 - (double)row->slot_bytes / (double)whole->slot_bytes));
    table_cell(table, "%.3f", row->times.median_ns / 1e6);
    table_cell(table, "%.3f", row->times.least_ns / 1e6);
    table_cell(table, "%.3f", row->times.most_ns / 1e6);
    table_cell(table, "%.3f", row->floor_ns / 1e6);
    table_cell(table, "%.2f", row->times.median_ns / whole->times.median_ns);
    table_cell(table, "%s", ratio_text(row->misses, row->lookups, text));
    table_cell(table, "%.1f", load_rate / 1e9);
    table_cell(table, "%.1f %%", 100 * load_rate / m->ceilings.upload_bytes_per_s);
    table_cell(table, "%.1f %%",
               100 * rate((double)row->bytes_loaded, row->all_ns) / m->ceilings.upload_bytes_per_s);
}

static Status print_rows(const Measurement *m)
{
    static const char *const TITLES[] = {
        "requests", "slots", "device memory", "saved",     "ms",        "min",         "max",
        "floor",    "ratio", "miss ratio",    "load GB/s", "of upload", "of step time"};
    Table *table;
    bench_print_origin(&m->bench, &m->ceilings);
    printf("buffer: %s, order %s, scope %s; ratio: to no buffer\n", m->plan.buffer.evict,
           plan_order_name(m->plan.buffer.order), plan_scope_name(m->plan.buffer.scope));
    TRY(table_new(TITLES, "rrrrrrrrrrrrr", &table));
    for (uint32_t i = 0; i < m->n_rows; i++)
        print_row(m, &m->rows[i], table);
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

/* The plan's choices with a buffer in slots of each layer. */
static Status read_plan(const Arguments *arguments, Plan *plan)
{
    TRY(plan_input(arguments->plan, &arguments->sets, plan));
    if (!plan->buffer.on) {
        snprintf(plan->buffer.evict, sizeof plan->buffer.evict, "lru");
        plan->buffer.order = ORDER_BATCH;
        plan->buffer.scope = SCOPE_LAYER;
    }
    plan->buffer.bytes = 0;
    return plan->buffer.scope == SCOPE_LAYER
               ? OK
               : fail(ERR_USAGE, "bench buffer: the plan's buffer.scope must be \"layer\"");
}

static Status measure(Measurement *m, int argc, char **argv)
{
    const Arguments *arguments = m->arguments;
    uint32_t most = 0;
    TRY(read_plan(arguments, &m->plan));
    TRY(read_most(arguments->model.name, &most));
    TRY(read_sizes(m, most));
    m->plan.buffer.on = true;
    m->plan.buffer.slots = m->sizes[0];
    m->without = plan_default();
    m->without.gating = m->plan.gating;
    TRY(mem_new(&m->rows, (1 + m->n_sizes) * (size_t)arguments->n_batches, sizeof *m->rows,
                "benchmark"));
    TRY(ceilings_measure_on(arguments->device.name, &m->ceilings));
    TRY(measure_unbuffered(m));
    TRY(measure_buffered(m));
    return arguments->json ? print_rows_json(m, argc, argv) : print_rows(m);
}

Status command_bench_buffer(int argc, char **argv)
{
    Arguments arguments = {
        .device = {.name = "cpu"}, .batches_text = "8", .context = 64, .repeats = 15};
    Measurement measurement = {.arguments = &arguments};
    Status status = parse(argc, argv, &arguments);
    if (status == OK)
        status = plan_input_blame(measure(&measurement, argc, argv), arguments.plan);
    step_bench_close(&measurement.bench);
    plan_free(&measurement.plan);
    plan_free(&measurement.resident);
    mem_free(measurement.rows);
    option_list_free(&arguments.sets);
    return status;
}
