/* The digest in run.notes: what protects the tables that have no crc column.
 *
 * The recorder ends the notes object with two keys of its own:
 *
 *   "complete": false        true once recorder_close() has finished the file
 *   "digest": {"run": C, "layers": C, "requests": C, "request_rows": N, "steps": N,
 *              "residency_rows": N, "timing_rows": N, "prediction_rows": N, "notes": "XXXXXXXX"}
 *
 * run      CRC-32C (traces/rowcrc.h) over the run row's columns id to plan
 * layers   over all columns of all layer rows, in order, as if they were one row
 * requests the sum modulo 2^32 of the CRC of each request row
 * notes    eight hexadecimal digits: the CRC-32C of the notes text before them
 *
 * They change in the transaction that changes the rows. The recorder marks the run table with the
 * SQL comment DIGEST_MARK, so that a lost digest shows; traces by others need none. */
#ifndef TRACES_DIGEST_H
#define TRACES_DIGEST_H

#include <stdbool.h>

#include "traces/trace.h"

#define DIGEST_MARK "/* with digest */"

typedef struct {
    bool present;
    bool complete;
    uint32_t run;
    uint32_t layers;
    uint32_t requests;
    uint64_t request_rows;
    uint64_t steps;
    uint64_t residency_rows;
    uint64_t timing_rows;
    bool has_predictions; /* false: by a recorder that knew no such table */
    uint64_t prediction_rows;
} Digest;

/* Notes being kept up to date: the caller's keys and room for the digest behind them. */
typedef struct {
    char *text; /* zero-terminated after digest_print() */
    size_t prefix;
} DigestNotes;

/* CALLER is a JSON object or NULL; its keys "complete" and "digest" are left out. Fails with
 * ERR_INPUT. Freed with mem_free(notes->text). */
Status digest_notes_new(const char *caller, DigestNotes *notes);
/* Writes DIGEST into NOTES. Returns the length of the text. */
size_t digest_print(const Digest *digest, DigestNotes *notes);

/* Reads the digest in NOTES (may be NULL); without one, digest->present is false. Fails with
 * ERR_CORRUPT when it is damaged, or absent though MARKED. FILE begins the message. */
Status digest_parse(const char *file, const char *notes, bool marked, Digest *digest);

#endif
