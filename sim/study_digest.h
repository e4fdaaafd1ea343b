/* What tells one trace from another, as study.db keeps it: "key=value" words, the same for the same
 * contents wherever the file lies. */
#ifndef SIM_STUDY_DIGEST_H
#define SIM_STUDY_DIGEST_H

#include "traces/packed.h"
#include "traces/signals.h"

/* steps, lookups and a CRC-32C over layers and routing; and one over each kind of signal that was
 * read (as many as there is room for): scores, requests, predictions by distance. */
typedef struct {
    char text[512];
} TraceDigest;

/* SIGNALS may be NULL. */
TraceDigest study_trace_digest(const PackedTrace *trace, const TraceSignals *signals);

/* True when no word that both have differs, and both have steps, lookups and crc32c. Results that
 * read no signals go with those over any. */
bool study_digests_agree(const char *left, const char *right);

/* One number for all that SIGNALS hold; 0 for NULL. */
uint32_t study_signals_crc(const TraceSignals *signals);

#endif
