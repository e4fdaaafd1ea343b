/* Status codes and the thread's error record.
 *
 * A function that can fail returns Status. The one that first sees the failure writes the reason
 * with fail(); callers that know more of the place put it in front with fail_in(). Only cli/ prints
 * the record. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include <stddef.h>

typedef enum {
    OK = 0,
    STATUS_END, /* a stream has no more items; not an error */
    ERR_USAGE,  /* the command line is wrong */
    ERR_INPUT,  /* a file or value given by the user is wrong */
    ERR_PLAN,   /* a plan does not go with the trace or the model; the record begins with its key */
    ERR_NOT_A_TRACE, /* the file is no Moebius trace */
    ERR_SCHEMA,      /* a trace of a newer schema than this program knows */
    ERR_CORRUPT,     /* a checksum, length or value in a trace does not hold */
    ERR_OUTPUT,      /* an output path that cannot be created */
    ERR_UNSUPPORTED, /* a valid request that this build or backend cannot run */
    ERR_IO,          /* reading or writing failed (disk full, device error) */
    ERR_MEMORY,      /* an allocation failed */
    ERR_MISMATCH,    /* a validation did not hold */
    ERR_INTERRUPTED  /* the user asked to stop */
} Status;

/* Passes a failure on where nothing is held. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        Status try_status = (call);                                                                \
        if (try_status != OK)                                                                      \
            return try_status;                                                                     \
    } while (0)

/* Writes the thread's error record ("WHERE: WHY") and returns STATUS. Long texts are cut at 1 KiB;
 * control characters become question marks, so that the record is one line. */
Status fail(Status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "PLACE: " in front of the record, unless STATUS is OK or STATUS_END. Returns STATUS. */
Status fail_in(Status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Of a file that gets its name NAME only when it is complete: where the record begins with a path
 * that begins with PREFIX, NAME takes that path's place. Returns STATUS. */
Status fail_as(Status status, const char *prefix, const char *name);

/* The standard record for a failed allocation. WHAT names the object, e.g. "packed trace". Returns
 * ERR_MEMORY. */
Status fail_memory(const char *what, size_t bytes);

/* The record of this thread; "" when nothing failed since error_clear(). Valid until the next
 * fail(). */
const char *error_message(void);
void error_clear(void);

/* Exit status of the program: 0 done, 1 the work failed or a validation did not hold, 2 usage or
 * bad input. */
int status_exit_code(Status status);

#endif
