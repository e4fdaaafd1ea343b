/* The inside of a TraceReader, for traces/reader*.c and traces/check.c. */
#ifndef TRACES_READER_STATE_H
#define TRACES_READER_STATE_H

#include "traces/active.h"
#include "traces/head.h"
#include "traces/layers.h"
#include "traces/read_ahead.h"
#include "traces/reader.h"
#include "traces/step_buffer.h"

struct TraceReader {
    Store store;
    TraceHead head;
    StackSpan spans[2]; /* by Stack */
    size_t id_bytes;
    uint64_t steps;
    uint64_t requests;
    sqlite3_stmt *step_rows;     /* all, ascending */
    sqlite3_stmt *routing_rows;  /* all, ascending; moves along with step_rows */
    sqlite3_stmt *ids_rows;      /* the same without weights and scores; NULL: read whole rows */
    sqlite3_stmt *routing_row;   /* of one step that ids_rows does not tell enough of */
    sqlite3_stmt *request_rows;  /* all, ascending */
    sqlite3_stmt *residency_row; /* of one (step, rank) */
    sqlite3_stmt *timing_row;
    sqlite3_stmt *prediction_row; /* of one (step, distance); NULL: the trace has no such table */
    ReadAhead *ahead;
    uint32_t distances;
    uint64_t steps_read;
    bool steps_ended;
    bool requests_ended;
    bool routing_only;
    bool routing_bytes;
    StepBuffer arrays; /* of the step read last */
    TraceStep step;
    uint32_t next_event; /* of that step: layers of its stack already given */
    size_t next_id;      /* where the next event's ids begin in step.experts */
    ActiveSet active;
    void *records; /* residency or timing */
    size_t records_bytes;
    void *predicted; /* u16 ids, then f16 scores */
    size_t predicted_bytes;
};

/* Check the row (step, rank, events or ops, crc) that ROW stands on and copy its records into the
 * reader. */
Status reader_take_residency(TraceReader *reader, Row *row, const ResidencyRecord **records,
                             size_t *count);
Status reader_take_timing(TraceReader *reader, Row *row, const TimingRecord **records,
                          size_t *count);

/* The same for the row (step, distance, experts, scores, crc) of a step of TOKENS tokens whose
 * stack is STACK. */
Status reader_take_prediction(TraceReader *reader, Row *row, uint32_t tokens, Stack stack,
                              const uint16_t **experts, const uint16_t **scores);

/* Prepares ids_rows where most steps have a checksum of their ids alone. */
Status reader_open_ids(TraceReader *reader);
/* Whether ids_rows stands on a row whose types and lengths are right for a step of IDS, and
 * *EXPERTS, which are valid until it moves, are what their own checksum says. Where not, the whole
 * row tells why, or that it is right nevertheless. */
bool reader_take_ids(const TraceReader *reader, uint64_t ids, const void **experts);

#endif
