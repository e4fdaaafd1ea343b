#include "cli/info_timing.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/table.h"

Status op_times_add(TraceReader *reader, const TraceStep *step, OpTimes *times)
{
    const TimingRecord *records;
    size_t count;
    Phase phase = step->phase;
    TRY(trace_reader_timing(reader, step->step, 0, &records, &count));
    times->steps[phase] += count > 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t op = records[i].op < INFO_MAX_OPS ? records[i].op : INFO_MAX_OPS - 1;
        times->ns[op][phase] += records[i].duration_ns;
    }
    return OK;
}

/* The recorder's names of the operations, from the notes; *NAMES is NULL when there are none. */
static Status read_names(const TraceReader *reader, cJSON **notes, const cJSON **names)
{
    const char *text = trace_reader_run(reader)->notes;
    *notes = NULL;
    *names = NULL;
    if (text == NULL || text[0] == '\0')
        return OK;
    TRY(json_parse(text, strlen(text), "notes", notes));
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(*notes, "ops");
    *names = cJSON_IsArray(list) ? list : NULL;
    return OK;
}

static const char *name_of(const cJSON *names, uint32_t op, char text[NUMBER_BYTES])
{
    const cJSON *name = names != NULL ? cJSON_GetArrayItem(names, (int)op) : NULL;
    if (cJSON_IsString(name))
        return name->valuestring;
    snprintf(text, NUMBER_BYTES, "operation %" PRIu32, op);
    return text;
}

static bool took_time(const OpTimes *times, uint32_t op)
{
    for (int phase = 0; phase < INFO_PHASES; phase++)
        if (times->ns[op][phase] > 0)
            return true;
    return false;
}

static double mean_ns(const OpTimes *times, uint32_t op, int phase)
{
    return (double)times->ns[op][phase] / (double)times->steps[phase];
}

static Status add_op(cJSON *list, const OpTimes *times, const cJSON *names, uint32_t op)
{
    char text[NUMBER_BYTES];
    cJSON *item = cJSON_CreateObject();
    TRY(json_push(list, item));
    TRY(json_add_text(item, "op", name_of(names, op, text)));
    for (int phase = 0; phase < INFO_PHASES; phase++) {
        char key[32];
        if (times->steps[phase] == 0)
            continue;
        snprintf(key, sizeof key, "%s_ns", phase_name((Phase)phase));
        TRY(json_add_f64(item, key, mean_ns(times, op, phase)));
    }
    return OK;
}

Status op_times_add_json(cJSON *json, const TraceReader *reader, const OpTimes *times)
{
    cJSON *list;
    cJSON *notes;
    const cJSON *names;
    TRY(json_add_array(json, "ops", &list));
    Status status = read_names(reader, &notes, &names);
    for (uint32_t op = 0; op < INFO_MAX_OPS && status == OK; op++)
        if (took_time(times, op))
            status = add_op(list, times, names, op);
    cJSON_Delete(notes);
    return status;
}

static void add_row(const OpTimes *times, const cJSON *names, uint32_t op, Table *table)
{
    char text[NUMBER_BYTES];
    table_cell(table, "%s", name_of(names, op, text));
    for (int phase = 0; phase < INFO_PHASES; phase++)
        if (times->steps[phase] > 0)
            table_cell(table, "%.4f", mean_ns(times, op, phase) / 1e6);
}

Status op_times_print(const TraceReader *reader, const OpTimes *times)
{
    const char *titles[INFO_PHASES + 1] = {"ms in a step"};
    char align[INFO_PHASES + 2] = "l";
    size_t columns = 1;
    cJSON *notes;
    const cJSON *names;
    Table *table = NULL;
    for (int phase = 0; phase < INFO_PHASES; phase++)
        if (times->steps[phase] > 0) {
            titles[columns] = phase_name((Phase)phase);
            align[columns++] = 'r';
        }
    Status status = read_names(reader, &notes, &names);
    if (status == OK)
        status = table_new(titles, align, &table);
    for (uint32_t op = 0; op < INFO_MAX_OPS && status == OK; op++)
        if (took_time(times, op))
            add_row(times, names, op, table);
    if (status == OK)
        status = table_print(table, stdout);
    table_free(table);
    cJSON_Delete(notes);
    return status;
}
