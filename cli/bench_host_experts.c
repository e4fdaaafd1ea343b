/* Experts on the host's cores: what the shapes of published models take there, by experts and rows,
 * beside the rate at which the same threads read memory. */
#include <stdio.h>

#include "base/memory.h"
#include "cli/bench_command.h"
#include "cli/print.h"
#include "cli/table.h"
#include "exec/cpu/host_bench.h"
#include "exec/shape.h"

enum { MAX_CELLS = 3 * BENCH_MAX_BATCHES * BENCH_MAX_BATCHES };

typedef struct {
    const char *shape; /* NULL: three of them */
    const char *active_text;
    const char *rows_text;
    BenchBatch active[BENCH_MAX_BATCHES];
    BenchBatch rows[BENCH_MAX_BATCHES];
    uint32_t n_active;
    uint32_t n_rows;
    uint32_t threads;
    uint32_t repeats;
    bool json;
} Arguments;

typedef struct {
    const char *shape;
    uint32_t active;
    uint32_t rows; /* of each */
    size_t bytes;  /* of weights */
    double median_ns;
    double spread;
    double read_rate; /* bytes a second */
} Cell;

typedef struct {
    const Arguments *arguments;
    Cell cells[MAX_CELLS];
    size_t n_cells;
    size_t threads;
} Measurement;

static const char *const SHAPES[] = {"qwen3-30b-a3b", "olmoe-1b-7b", "mixtral-8x7b"};

static Status parse(int argc, char **argv, Arguments *arguments)
{
    const Option options[] = {
        TEXT_OPTION("shape", "NAME",
                    "whose experts (default: qwen3-30b-a3b, olmoe-1b-7b and mixtral-8x7b)",
                    &arguments->shape),
        TEXT_OPTION("active", "LIST", "experts of a call (default 1,8)", &arguments->active_text),
        TEXT_OPTION("rows", "LIST", "rows of each (default 1,4,16,64)", &arguments->rows_text),
        U32_OPTION("threads", "N", "default: all processors", 1, MAX_THREADS, &arguments->threads),
        U32_OPTION("repeats", "N", "calls of which the median is told (default 25)", 1, 10000,
                   &arguments->repeats),
        JSON_OPTION(&arguments->json),
    };
    const OptionTable table = {
        .command = "bench host-experts",
        .summary =
            "Times experts that the host's cores compute, with random weights that no cache holds.",
        .example = "moebius bench host-experts --shape qwen3-30b-a3b --rows 1,16",
        .options = options,
        .n_options = sizeof options / sizeof options[0]};
    TRY(options_parse(&table, argc, argv));
    TRY(bench_batches_read(&table, "active", arguments->active_text, 1, arguments->active,
                           &arguments->n_active));
    return bench_batches_read(&table, "rows", arguments->rows_text, 1, arguments->rows,
                              &arguments->n_rows);
}

/* The experts of the first MoE layer of shape NAME. */
static Status find_shape(const char *name, FfnShape *shape)
{
    ModelConfig config = {0};
    const Architecture *architecture;
    Status status = shape_config(name, &config, &architecture);
    uint32_t layer = 0;
    while (status == OK && layer < config.n_layers && !config.layers[layer].moe)
        layer++;
    if (status == OK && layer == config.n_layers)
        status = fail(ERR_INPUT, "shape %s: it has no experts", name);
    if (status == OK)
        *shape = config.layers[layer].ffn;
    model_config_free(&config);
    return status;
}

static uint32_t most_of(const BenchBatch *list, uint32_t n)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++)
        most = list[i].requests > most ? list[i].requests : most;
    return most;
}

static Status measure_cells(Measurement *m, const char *name, HostBench *bench)
{
    const Arguments *arguments = m->arguments;
    double read_rate = host_bench_read_rate(bench);
    m->threads = host_bench_threads(bench);
    for (uint32_t a = 0; a < arguments->n_active; a++)
        for (uint32_t r = 0; r < arguments->n_rows; r++) {
            Cell *cell = &m->cells[m->n_cells++];
            *cell = (Cell){.shape = name,
                           .active = arguments->active[a].requests,
                           .rows = arguments->rows[r].requests,
                           .read_rate = read_rate};
            cell->bytes = cell->active * host_bench_expert_bytes(bench);
            TRY(host_bench_run(bench, cell->active, cell->rows, arguments->repeats,
                               &cell->median_ns, &cell->spread));
        }
    return OK;
}

static Status measure_shape(Measurement *m, const char *name)
{
    const Arguments *arguments = m->arguments;
    FfnShape shape;
    HostBench *bench;
    TRY(find_shape(name, &shape));
    TRY(host_bench_new(&shape, most_of(arguments->active, arguments->n_active),
                       most_of(arguments->rows, arguments->n_rows), arguments->threads,
                       HOST_BENCH_BYTES, &bench));
    Status status = measure_cells(m, name, bench);
    host_bench_free(bench);
    return status;
}

static double floor_ns(const Cell *cell)
{
    return (double)cell->bytes * 1e9 / cell->read_rate;
}

static Status add_cell(cJSON *list, const Cell *cell)
{
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(json_add_text(item, "shape", cell->shape));
    TRY(json_add_u64(item, "active", cell->active));
    TRY(json_add_u64(item, "rows", cell->rows));
    TRY(json_add_u64(item, "weight_bytes", cell->bytes));
    TRY(json_add_f64(item, "median_ns", cell->median_ns));
    TRY(json_add_f64(item, "spread", cell->spread));
    TRY(json_add_f64(item, "read_bytes_per_s", cell->read_rate));
    return json_add_f64(item, "floor_ns", floor_ns(cell));
}

static Status fill_json(cJSON *json, const Measurement *m, int argc, char **argv)
{
    cJSON *list;
    TRY(bench_add_command(json, argc, argv));
    TRY(json_add_u64(json, "threads", m->threads));
    TRY(json_add_text(json, "kernel", host_bench_kernel()));
    TRY(json_add_array(json, "cells", &list));
    for (size_t i = 0; i < m->n_cells; i++)
        TRY(add_cell(list, &m->cells[i]));
    return OK;
}

static Status print_cells(const Measurement *m)
{
    static const char *const TITLES[] = {"shape", "experts", "rows",  "ms",
                                         "GB/s",  "floor",   "ratio", "spread"};
    Table *table;
    printf("%zu threads, %s; floor: the weights at the rate that the threads read memory at\n",
           m->threads, host_bench_kernel());
    TRY(table_new(TITLES, "lrrrrrrr", &table));
    for (size_t i = 0; i < m->n_cells; i++) {
        const Cell *cell = &m->cells[i];
        table_cell(table, "%s", cell->shape);
        table_cell(table, "%u", cell->active);
        table_cell(table, "%u", cell->rows);
        table_cell(table, "%.4f", cell->median_ns / 1e6);
        table_cell(table, "%.1f", (double)cell->bytes / cell->median_ns);
        table_cell(table, "%.4f", floor_ns(cell) / 1e6);
        table_cell(table, "%.2f", cell->median_ns / floor_ns(cell));
        table_cell(table, "%.1f %%", 100 * cell->spread);
    }
    Status status = table_print(table, stdout);
    table_free(table);
    return status;
}

static Status measure(Measurement *m, int argc, char **argv)
{
    const Arguments *arguments = m->arguments;
    cJSON *json;
    if (arguments->shape != NULL)
        TRY(measure_shape(m, arguments->shape));
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES && arguments->shape == NULL; i++)
        TRY(measure_shape(m, SHAPES[i]));
    if (!arguments->json)
        return print_cells(m);
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, m, argc, argv));
}

Status command_bench_host_experts(int argc, char **argv)
{
    Arguments arguments = {.active_text = "1,8", .rows_text = "1,4,16,64", .repeats = 25};
    Measurement *m;
    TRY(parse(argc, argv, &arguments));
    TRY(mem_new(&m, 1, sizeof *m, "benchmark"));
    m->arguments = &arguments;
    Status status = measure(m, argc, argv);
    mem_free(m);
    return status;
}
