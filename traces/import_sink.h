/* Where importers put their steps: a recorder under a temporary name, renamed when complete. */
#ifndef TRACES_IMPORT_SINK_H
#define TRACES_IMPORT_SINK_H

#include "base/json.h"
#include "traces/import.h"

/* Stands behind the trace's name in the temporary one, before its folder's six characters. */
#define IMPORT_TEMPORARY ".tmp-"

typedef struct ImportSink ImportSink;

/* What is known of the steps that will come. */
typedef struct {
    size_t bytes;    /* about what one takes in memory */
    uint64_t count;  /* 0: they differ in length */
    uint64_t tokens; /* of each but the last; where they differ of the longest, or 0: unknown */
    bool weights;    /* they have weights */
} ImportSteps;

/* Begins the trace that OPTIONS asks for. NOTES, an object of the importer's own facts, becomes
 * run.notes.import, with the format and the file put in front; it may be NULL and stays the
 * caller's. MODEL may be NULL. */
Status import_sink_open(const ImportOptions *options, const TraceLayer *layers, uint32_t n_layers,
                        const char *model, const cJSON *notes, const ImportSteps *steps,
                        ImportSink **sink);
Status import_sink_request(ImportSink *sink, const TraceRequest *request);
/* The next step gets the number STEP, above those before; later ones count on from it. */
void import_sink_number(ImportSink *sink, uint32_t step);
/* Numbers the step itself. RESIDENCY[n_residency] may be empty. Fails with ERR_INTERRUPTED once
 * OPTIONS->stop is set. */
Status import_sink_step(ImportSink *sink, TraceStep *step, const ResidencyRecord *residency,
                        size_t n_residency);
/* Gives the trace its name and fills REPORT. Frees SINK in any case; on failure nothing is left. */
Status import_sink_close(ImportSink *sink, ImportReport *report);
/* Removes what was written. Keeps the error record. Accepts NULL. */
void import_sink_abandon(ImportSink *sink);

#endif
