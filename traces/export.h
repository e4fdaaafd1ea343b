/* Traces out, for tools that read neither SQLite nor our blobs.
 *
 *   csv  a row per choice: step,phase,layer,token,slot,expert,weight,request,position; expert and
 *        weight are empty where a token was not computed, weight also where none was recorded
 *   npy  expert ids [token, layer, k] of one stack's tokens in the order of the steps, i16 (i32
 * when a layer has more than 32,768 experts), -1 where not computed: what import --from npy reads
 *
 * Files appear under their name only when complete. */
#ifndef TRACES_EXPORT_H
#define TRACES_EXPORT_H

#include "traces/trace.h"

typedef enum { EXPORT_CSV, EXPORT_NPY } ExportFormat;

typedef struct {
    ExportFormat to;
    const char *trace;
    const char *out;
    Stack stack;              /* npy: which tokens */
    const volatile int *stop; /* becomes nonzero: give up with ERR_INTERRUPTED; may be NULL */
} ExportOptions;

typedef struct {
    uint64_t steps;
    uint64_t tokens;
    uint64_t ids;
} ExportReport;

/* Fails as trace_reader_open() and trace_reader_next_step(), with ERR_INPUT when npy is asked of
 * layers that differ in top_k or of a stack without a step, with ERR_OUTPUT or ERR_IO. */
Status trace_export(const ExportOptions *options, ExportReport *report);

#endif
