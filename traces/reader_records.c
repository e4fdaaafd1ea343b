/* What a step has besides its routing: records of residency and of time, and predictions. */
#include <string.h>

#include "traces/reader_state.h"

enum { MAX_RANK = UINT8_MAX };

static const TraceLayer *find_layer(const TraceHead *head, uint32_t layer)
{
    uint32_t low = 0;
    uint32_t high = head->n_layers;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (head->layers[middle].layer < layer)
            low = middle + 1;
        else
            high = middle;
    }
    return low < head->n_layers && head->layers[low].layer == layer ? &head->layers[low] : NULL;
}

/* Checks the columns that both record tables share and copies the blob, which may lie unaligned. */
static Status take_records(TraceReader *reader, Row *row, size_t unit, size_t *count)
{
    uint32_t unused;
    const void *data;
    size_t bytes;
    row->number = sqlite3_column_int64(row->statement, 0);
    TRY(row_u32(row, 0, 0, UINT32_MAX, &unused));
    TRY(row_u32(row, 1, 0, MAX_RANK, &unused));
    TRY(row_blob_of(row, 2, false, unit, &data, &bytes));
    TRY(row_check_crc(row, 3));
    TRY(block_fit(&reader->records, &reader->records_bytes, bytes, "records"));
    if (bytes > 0)
        memcpy(reader->records, data, bytes);
    *count = bytes / unit;
    return OK;
}

Status reader_take_residency(TraceReader *reader, Row *row, const ResidencyRecord **records,
                             size_t *count)
{
    TRY(take_records(reader, row, sizeof **records, count));
    *records = reader->records;
    for (size_t i = 0; i < *count; i++) {
        const ResidencyRecord *record = &(*records)[i];
        const TraceLayer *layer = find_layer(&reader->head, record->layer);
        if (record->kind >= RESIDENCY_KINDS)
            return row_fail(row, 2, "record %zu: kind %u, allowed is 0 to %d", i, record->kind,
                            RESIDENCY_KINDS - 1);
        if (layer == NULL)
            return row_fail(row, 2, "record %zu: layer %u is no MoE layer", i, record->layer);
        if (record->expert >= layer->experts)
            return row_fail(row, 2, "record %zu: layer %u: expert %u, the model has %u", i,
                            record->layer, record->expert, layer->experts);
    }
    return OK;
}

Status reader_take_timing(TraceReader *reader, Row *row, const TimingRecord **records,
                          size_t *count)
{
    TRY(take_records(reader, row, sizeof **records, count));
    *records = reader->records;
    return OK;
}

/* Puts STATEMENT on the row of STEP and KEY, its rank or distance. */
static Status find_records(const TraceReader *reader, sqlite3_stmt *statement, uint32_t step,
                           uint32_t key)
{
    sqlite3_reset(statement);
    SQL_TRY(&reader->store, sqlite3_bind_int64(statement, 1, step));
    SQL_TRY(&reader->store, sqlite3_bind_int64(statement, 2, key));
    return store_step(&reader->store, statement);
}

/* After what was taken of ROW, with STATUS: without such a row there is nothing. */
static Status end_records(const Row *row, Status status)
{
    sqlite3_reset(row->statement);
    return status == STATUS_END ? OK : status;
}

Status trace_reader_residency(TraceReader *reader, uint32_t step, uint32_t rank,
                              const ResidencyRecord **records, size_t *count)
{
    Row row = {.store = &reader->store,
               .statement = reader->residency_row,
               .subject = "step",
               .table = "residency"};
    *records = NULL;
    *count = 0;
    Status status = find_records(reader, row.statement, step, rank);
    if (status == OK)
        status = reader_take_residency(reader, &row, records, count);
    return end_records(&row, status);
}

Status trace_reader_timing(TraceReader *reader, uint32_t step, uint32_t rank,
                           const TimingRecord **records, size_t *count)
{
    Row row = {.store = &reader->store,
               .statement = reader->timing_row,
               .subject = "step",
               .table = "timing"};
    *records = NULL;
    *count = 0;
    Status status = find_records(reader, row.statement, step, rank);
    if (status == OK)
        status = reader_take_timing(reader, &row, records, count);
    return end_records(&row, status);
}

Status reader_take_prediction(TraceReader *reader, Row *row, uint32_t tokens, Stack stack,
                              const uint16_t **experts, const uint16_t **scores)
{
    const void *stored;
    const void *weights;
    uint32_t distance;
    StackSpan span = reader->spans[stack];
    TRY(row_u32(row, 1, 1, TRACE_MAX_LAYERS - 1, &distance));
    if (distance >= span.count)
        return row_fail(row, 1, "%u, allowed is 1 to %u", distance,
                        span.count > 1 ? span.count - 1 : 0);
    span = layers_ahead(reader->head.layers, span, distance);
    size_t ids = span.top_k * tokens; /* below 2^20 * 2^24 */
    TRY(row_blob(row, 2, false, ids * reader->id_bytes, &stored));
    TRY(row_blob(row, 3, false, 2 * ids, &weights));
    TRY(row_check_crc(row, 4));
    TRY(block_fit(&reader->predicted, &reader->predicted_bytes, 4 * ids, "predictions"));
    uint16_t *to = reader->predicted;
    if (reader->id_bytes == 1)
        layers_widen_ids(stored, ids, to);
    else
        memcpy(to, stored, 2 * ids);
    *experts = to;
    *scores = memcpy(to + ids, weights, 2 * ids);
    if (layers_check_experts("", reader->head.layers, span, 0, tokens, to, ERR_CORRUPT) != OK)
        return row_fail(row, 2, "an expert that its layer does not have");
    return OK;
}

Status trace_reader_prediction(TraceReader *reader, uint32_t distance, const uint16_t **experts,
                               const uint16_t **scores)
{
    const TraceStep *step = &reader->step;
    Row row = {.store = &reader->store,
               .statement = reader->prediction_row,
               .subject = "step",
               .table = "prediction",
               .number = step->step};
    *experts = NULL;
    *scores = NULL;
    if (row.statement == NULL)
        return OK;
    Status status = find_records(reader, row.statement, step->step, distance);
    if (status == OK)
        status = reader_take_prediction(reader, &row, step->tokens, step->stack, experts, scores);
    return end_records(&row, status);
}
