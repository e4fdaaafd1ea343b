#include "traces/head.h"

#include <string.h>

#include "base/memory.h"
#include "traces/layers.h"

static Status check_tables(const Store *store)
{
    static const char *const TABLES[] = {"run",     "layer",     "request", "step",
                                         "routing", "residency", "timing"};
    const int n = sizeof TABLES / sizeof TABLES[0];
    int n_there = 0;
    int missing = 0;
    for (int i = n - 1; i >= 0; i--) {
        bool there;
        TRY(store_has_table(store, TABLES[i], &there));
        missing = there ? missing : i;
        n_there += there;
    }
    if (n_there < n)
        return fail(ERR_CORRUPT, "%s: table %s: missing; %d of the %d tables of a trace are there",
                    store->path, TABLES[missing], n_there, n);
    return OK;
}

Status head_check_schema(const Store *store)
{
    int64_t application;
    int64_t version;
    TRY(store_number(store, "PRAGMA application_id", &application));
    if (application != TRACE_APPLICATION_ID)
        return fail(ERR_NOT_A_TRACE, "%s: not a trace: application_id is 0x%08X, wanted is 0x%08X",
                    store->path, (unsigned)application, TRACE_APPLICATION_ID);
    TRY(store_number(store, "PRAGMA user_version", &version));
    if (version > TRACE_SCHEMA)
        return fail(ERR_SCHEMA, "%s: schema %lld, this program knows up to %d", store->path,
                    (long long)version, TRACE_SCHEMA);
    if (version != TRACE_SCHEMA)
        return fail(ERR_NOT_A_TRACE, "%s: not a trace: schema %lld, the first is 1", store->path,
                    (long long)version);
    return check_tables(store);
}

static Status copy_text(const Row *row, int column, bool optional, const char **copy)
{
    const char *text;
    TRY(row_text(row, column, optional, &text));
    if (text == NULL)
        return OK;
    size_t bytes = strlen(text) + 1;
    char *block;
    TRY(mem_new(&block, bytes, 1, "run"));
    memcpy(block, text, bytes);
    *copy = block;
    return OK;
}

static Status take_run(const Row *row, TraceHead *head)
{
    TraceRun *run = &head->run;
    uint64_t id;
    TRY(row_u64(row, 0, 0, INT64_MAX, &id));
    TRY(copy_text(row, 1, false, &run->created));
    TRY(copy_text(row, 2, false, &run->tool));
    TRY(copy_text(row, 3, false, &run->source));
    TRY(copy_text(row, 4, false, &run->model));
    TRY(copy_text(row, 5, true, &run->model_config));
    TRY(copy_text(row, 6, true, &run->device));
    TRY(copy_text(row, 7, true, &run->plan));
    TRY(copy_text(row, 8, true, &run->notes));
    int64_t marked;
    TRY(store_number(row->store,
                     "SELECT count(*) FROM sqlite_master WHERE name = 'run' AND instr(sql, "
                     "'" DIGEST_MARK "')",
                     &marked));
    TRY(digest_parse(row->store->path, run->notes, marked != 0, &head->digest));
    uint32_t crc = 0;
    TRY(row_crc(row, 8, &crc));
    if (head->digest.present && crc != head->digest.run)
        return row_fail(row, -1, "does not match its digest");
    return OK;
}

static Status read_run(const Store *store, TraceHead *head)
{
    Row row = {.store = store, .subject = "run", .number = -1};
    TRY(store_prepare(store,
                      "SELECT id, created, tool, source, model, model_config, device, plan, notes "
                      "FROM run",
                      &row.statement));
    Status status = store_step(store, row.statement);
    if (status == STATUS_END)
        status = fail(ERR_CORRUPT, "%s: run: no row, wanted is one", store->path);
    if (status == OK)
        status = take_run(&row, head);
    if (status == OK) {
        status = store_step(store, row.statement);
        if (status == OK)
            status = fail(ERR_CORRUPT, "%s: run: more than one row", store->path);
        else if (status == STATUS_END)
            status = OK;
    }
    sqlite3_finalize(row.statement);
    return status;
}

static void cut_text(const char *text, char *to, size_t size)
{
    size_t length = strnlen(text, size - 1);
    memcpy(to, text, length);
    to[length] = '\0';
}

static Status take_layer(const Row *row, TraceLayer *layer)
{
    const char *name;
    const char *stack;
    const char *gate;
    TRY(row_u32(row, 0, 0, UINT32_MAX, &layer->layer));
    TRY(row_text(row, 1, false, &name));
    TRY(row_text(row, 2, false, &stack));
    TRY(row_u32(row, 3, 1, TRACE_MAX_EXPERTS, &layer->experts));
    TRY(row_u32(row, 4, 1, TRACE_MAX_TOP_K, &layer->top_k));
    TRY(row_u32(row, 5, 0, UINT32_MAX, &layer->shared_experts));
    TRY(row_u32(row, 6, 0, UINT32_MAX, &layer->d_model));
    TRY(row_u32(row, 7, 0, UINT32_MAX, &layer->d_ff));
    TRY(row_u64(row, 8, 0, INT64_MAX, &layer->expert_bytes));
    TRY(row_text(row, 9, true, &gate));
    cut_text(name, layer->name, sizeof layer->name);
    cut_text(gate != NULL ? gate : "", layer->gate, sizeof layer->gate);
    if (strcmp(stack, stack_name(STACK_ENCODER)) == 0)
        layer->stack = STACK_ENCODER;
    else if (strcmp(stack, stack_name(STACK_DECODER)) == 0)
        layer->stack = STACK_DECODER;
    else
        return row_fail(row, 2, "\"%.32s\", allowed are decoder, encoder", stack);
    return OK;
}

static Status take_layers(Row *row, TraceHead *head)
{
    uint32_t crc = 0;
    for (;;) {
        Status status = store_step(row->store, row->statement);
        if (status == STATUS_END)
            break;
        TRY(status);
        row->number = sqlite3_column_int64(row->statement, 0);
        if (head->n_layers == TRACE_MAX_LAYERS)
            return row_fail(row, -1, "more than %d layers", TRACE_MAX_LAYERS);
        TRY(take_layer(row, &head->layers[head->n_layers++]));
        TRY(row_crc(row, 10, &crc));
    }
    TRY(layers_check(row->store->path, head->layers, head->n_layers, ERR_CORRUPT));
    if (head->digest.present && crc != head->digest.layers)
        return fail(ERR_CORRUPT, "%s: layer: the rows do not match their digest", row->store->path);
    return OK;
}

static Status read_layers(const Store *store, TraceHead *head)
{
    Row row = {.store = store, .subject = "layer", .number = -1};
    TRY(mem_new(&head->layers, TRACE_MAX_LAYERS, sizeof *head->layers, "layers"));
    TRY(store_prepare(store,
                      "SELECT layer, name, stack, experts, top_k, shared_experts, d_model, d_ff, "
                      "expert_bytes, gate FROM layer ORDER BY layer",
                      &row.statement));
    Status status = take_layers(&row, head);
    sqlite3_finalize(row.statement);
    return status;
}

Status head_read(const Store *store, TraceHead *head)
{
    *head = (TraceHead){0};
    Status status = read_run(store, head);
    if (status == OK)
        status = read_layers(store, head);
    if (status != OK)
        head_free(head);
    return status;
}

void head_free(TraceHead *head)
{
    const char *texts[] = {head->run.created, head->run.tool,         head->run.source,
                           head->run.model,   head->run.model_config, head->run.device,
                           head->run.plan,    head->run.notes};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        mem_free((void *)texts[i]);
    mem_free(head->layers);
    *head = (TraceHead){0};
}
