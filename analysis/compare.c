#include "analysis/compare.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

typedef enum { EXPECTED, ACTUAL } Log;

struct Compare {
    CompareRecord *queue; /* [room]: records of the log that is ahead, from head on */
    size_t room;
    size_t head;
    size_t count;
    Log ahead;                            /* whose they are */
    CompareRecord recent[COMPARE_AROUND]; /* the last that agreed, a ring by report.compared */
    bool differs;
    CompareReport report;
};

Status compare_new(Compare **compare)
{
    return mem_new(compare, 1, sizeof **compare, "comparison");
}

void compare_free(Compare *compare)
{
    if (compare == NULL)
        return;
    mem_free(compare->queue);
    mem_free(compare);
}

static bool is_equal(const CompareRecord *left, const CompareRecord *right)
{
    return left->step == right->step && left->record.layer == right->record.layer &&
           left->record.expert == right->record.expert && left->record.kind == right->record.kind &&
           left->record.slot == right->record.slot;
}

static CompareSide *side_of(Compare *compare, Log log)
{
    return log == EXPECTED ? &compare->report.expected_side : &compare->report.actual_side;
}

static Status enqueue(Compare *compare, Log log, const CompareRecord *record)
{
    if (compare->head + compare->count == compare->room && compare->head > compare->room / 2) {
        memmove(compare->queue, compare->queue + compare->head,
                compare->count * sizeof *compare->queue);
        compare->head = 0;
    }
    TRY(mem_grow(&compare->queue, &compare->room, compare->head + compare->count,
                 sizeof *compare->queue, "comparison"));
    compare->queue[compare->head + compare->count++] = *record;
    compare->ahead = log;
    return OK;
}

static CompareRecord dequeue(Compare *compare)
{
    CompareRecord record = compare->queue[compare->head++];
    if (--compare->count == 0)
        compare->head = 0;
    return record;
}

static void count_equal(Compare *compare, const CompareRecord *record)
{
    CompareReport *report = &compare->report;
    compare->recent[report->compared % COMPARE_AROUND] = *record;
    report->compared++;
    if (record->record.kind < RESIDENCY_KINDS)
        report->by_kind[record->record.kind]++;
}

/* Up to the difference both logs are the same, so they share what stands before it. */
static void fill_before(Compare *compare, CompareSide *side)
{
    uint64_t compared = compare->report.compared;
    side->n_before = compared < COMPARE_AROUND ? (uint32_t)compared : COMPARE_AROUND;
    for (uint32_t i = 0; i < side->n_before; i++)
        side->before[i] = compare->recent[(compared - side->n_before + i) % COMPARE_AROUND];
}

static void add_after(CompareSide *side, const CompareRecord *record)
{
    if (side->n_after < COMPARE_AROUND)
        side->after[side->n_after++] = *record;
}

/* HERE is the record of the log that was ahead, OTHER its counterpart or NULL. */
static void note_difference(Compare *compare, const CompareRecord *here, const CompareRecord *other)
{
    CompareSide *ahead = side_of(compare, compare->ahead);
    CompareSide *behind = side_of(compare, compare->ahead == EXPECTED ? ACTUAL : EXPECTED);
    compare->differs = true;
    compare->report.at = compare->report.compared;
    fill_before(compare, ahead);
    fill_before(compare, behind);
    ahead->has_here = true;
    ahead->here = *here;
    behind->has_here = other != NULL;
    if (other != NULL)
        behind->here = *other;
    while (compare->count > 0) {
        CompareRecord next = dequeue(compare);
        add_after(ahead, &next);
    }
}

static Status push(Compare *compare, Log log, uint32_t step, const ResidencyRecord *record)
{
    CompareRecord pushed = {.step = step, .record = *record};
    if (compare->differs) {
        add_after(side_of(compare, log), &pushed);
        return OK;
    }
    if (compare->count == 0 || compare->ahead == log)
        return enqueue(compare, log, &pushed);
    CompareRecord counterpart = dequeue(compare);
    if (is_equal(&counterpart, &pushed))
        count_equal(compare, &pushed);
    else
        note_difference(compare, &counterpart, &pushed);
    return OK;
}

Status compare_expect(Compare *compare, uint32_t step, const ResidencyRecord *record)
{
    TRY(push(compare, EXPECTED, step, record));
    compare->report.expected++;
    return OK;
}

Status compare_actual(Compare *compare, uint32_t step, const ResidencyRecord *record)
{
    TRY(push(compare, ACTUAL, step, record));
    compare->report.actual++;
    return OK;
}

CompareReport compare_finish(Compare *compare)
{
    if (!compare->differs && compare->count > 0) {
        CompareRecord first = dequeue(compare);
        note_difference(compare, &first, NULL);
    }
    compare->report.agreed = !compare->differs;
    return compare->report;
}

static const char *kind_text(uint32_t kind)
{
    return kind < RESIDENCY_KINDS ? residency_kind_name((ResidencyKind)kind) : "unknown kind";
}

static void record_text(const CompareSide *side, char *text, size_t bytes)
{
    const CompareRecord *here = &side->here;
    if (side->has_here)
        snprintf(text, bytes, "%s of expert %" PRIu32 " of layer %" PRIu32 " in slot %" PRIu32,
                 kind_text(here->record.kind), here->record.expert, here->record.layer,
                 here->record.slot);
    else
        snprintf(text, bytes, "nothing more");
}

Status compare_status(const CompareReport *report)
{
    char expected[96];
    char actual[96];
    if (report->agreed)
        return OK;
    const CompareSide *side =
        report->expected_side.has_here ? &report->expected_side : &report->actual_side;
    record_text(&report->expected_side, expected, sizeof expected);
    record_text(&report->actual_side, actual, sizeof actual);
    return fail(ERR_MISMATCH, "event %" PRIu64 ": step %" PRIu32 ": expected %s, got %s%s",
                report->at, side->here.step, expected, actual,
                report->expected_side.has_here && report->actual_side.has_here &&
                        report->expected_side.here.step != report->actual_side.here.step
                    ? " in another step"
                    : "");
}

/* A text that grows. */
typedef struct {
    char *text;
    size_t used;
    size_t room;
} Text;

/* LINE_BYTES bound every line below. */
enum { LINE_BYTES = 128, MAX_LINES = 32 };

static void add_line(Text *text, const char *mark, const char *log, const CompareRecord *record)
{
    int length = snprintf(text->text + text->used, text->room - text->used,
                          "%s %-9s step %7" PRIu32 "  layer %4" PRIu32 "  expert %5" PRIu32
                          "  %-8s  slot %5" PRIu32 "\n",
                          mark, log, record->step, record->record.layer, record->record.expert,
                          kind_text(record->record.kind), record->record.slot);
    text->used += (size_t)length;
}

static void add_side(Text *text, const char *log, const CompareSide *side)
{
    for (uint32_t i = 0; i < side->n_before; i++)
        add_line(text, " ", log, &side->before[i]);
    if (side->has_here)
        add_line(text, ">", log, &side->here);
    else
        text->used += (size_t)snprintf(text->text + text->used, text->room - text->used,
                                       "> %-9s has ended\n", log);
    for (uint32_t i = 0; i < side->n_after; i++)
        add_line(text, " ", log, &side->after[i]);
}

Status compare_text(const CompareReport *report, char **out)
{
    Text text = {.room = LINE_BYTES * MAX_LINES};
    TRY(mem_new(&text.text, text.room, 1, "comparison"));
    text.used += (size_t)snprintf(text.text, text.room, "kind       events that agree\n");
    for (uint32_t kind = 0; kind < RESIDENCY_KINDS; kind++)
        text.used +=
            (size_t)snprintf(text.text + text.used, text.room - text.used, "%-9s  %18" PRIu64 "\n",
                             kind_text(kind), report->by_kind[kind]);
    if (report->agreed) {
        snprintf(text.text + text.used, text.room - text.used,
                 "simulator and executor agree on all %" PRIu64 " events\n", report->compared);
    } else {
        text.used += (size_t)snprintf(text.text + text.used, text.room - text.used,
                                      "first difference: event %" PRIu64 " (expected has %" PRIu64
                                      " events, actual %" PRIu64 ")\n",
                                      report->at, report->expected, report->actual);
        add_side(&text, "expected", &report->expected_side);
        add_side(&text, "actual", &report->actual_side);
    }
    *out = text.text;
    return OK;
}

static Status fill_record(cJSON *object, const CompareRecord *record)
{
    TRY(json_add_u64(object, "step", record->step));
    TRY(json_add_u64(object, "layer", record->record.layer));
    TRY(json_add_u64(object, "expert", record->record.expert));
    TRY(json_add_text(object, "kind", kind_text(record->record.kind)));
    return json_add_u64(object, "slot", record->record.slot);
}

static Status add_records(cJSON *object, const char *key, const CompareRecord *records,
                          uint32_t count)
{
    cJSON *list;
    TRY(json_add_array(object, key, &list));
    for (uint32_t i = 0; i < count; i++) {
        cJSON *item = cJSON_CreateObject();
        TRY(json_push(list, item));
        TRY(fill_record(item, &records[i]));
    }
    return OK;
}

static Status add_here(cJSON *object, const CompareSide *side)
{
    cJSON *child;
    if (!side->has_here)
        return json_add_null(object, "here");
    TRY(json_add_object(object, "here", &child));
    return fill_record(child, &side->here);
}

static Status add_json_side(cJSON *object, const char *key, const CompareSide *side)
{
    cJSON *child;
    TRY(json_add_object(object, key, &child));
    TRY(add_records(child, "before", side->before, side->n_before));
    TRY(add_here(child, side));
    return add_records(child, "after", side->after, side->n_after);
}

static Status fill_json(const CompareReport *report, cJSON *json)
{
    cJSON *kinds;
    cJSON *difference;
    TRY(json_add_bool(json, "agreed", report->agreed));
    TRY(json_add_u64(json, "compared", report->compared));
    TRY(json_add_u64(json, "expected", report->expected));
    TRY(json_add_u64(json, "actual", report->actual));
    TRY(json_add_object(json, "by_kind", &kinds));
    for (uint32_t kind = 0; kind < RESIDENCY_KINDS; kind++)
        TRY(json_add_u64(kinds, kind_text(kind), report->by_kind[kind]));
    if (report->agreed)
        return json_add_null(json, "first_difference");
    TRY(json_add_object(json, "first_difference", &difference));
    TRY(json_add_u64(difference, "event", report->at));
    TRY(add_json_side(difference, "expected", &report->expected_side));
    return add_json_side(difference, "actual", &report->actual_side);
}

Status compare_json(const CompareReport *report, cJSON **json)
{
    *json = cJSON_CreateObject();
    Status status = *json != NULL ? fill_json(report, *json) : fail_memory("comparison", 0);
    if (status != OK) {
        cJSON_Delete(*json);
        *json = NULL;
    }
    return status;
}
