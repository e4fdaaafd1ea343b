/* Foreign traces in: reads what other tools and engines dump and writes a trace of schema 1.
 *
 * An import either leaves a complete, checked trace under its name or nothing: it is written in a
 * folder OUT.tmp-XXXXXX (base/scratch.h) and gets its name at the end. What the source does not say
 * is not made up: unknown texts and sizes stay empty or 0, and run.notes says where a number comes
 * from (its key "import"). */
#ifndef TRACES_IMPORT_H
#define TRACES_IMPORT_H

#include "traces/trace.h"

typedef enum {
    IMPORT_NPY,           /* [token, layer, k] expert ids, as vLLM's users save them */
    IMPORT_BIGMOE_CSV,    /* BigMoeOnEdge route trace, CSV v1 */
    IMPORT_JSONL,         /* one line per (token, layer): traces/import_jsonl.h */
    IMPORT_COUNTS,        /* how many tokens each expert got: traces/import_counts.h */
    IMPORT_SGLANG,        /* expert distribution recorder, mode per_token: traces/import_sglang.c */
    IMPORT_SGLANG_COUNTS, /* the same, modes stat, stat_approx and per_pass */
    IMPORT_VLLM,          /* returned routed experts: traces/import_vllm.c */
    IMPORT_TRTLLM,        /* expert statistics, a folder: traces/import_trtllm.c */
    IMPORT_FORMATS
} ImportFormat;

/* NULL-terminated, by ImportFormat; what --from takes. */
extern const char *const IMPORT_FORMAT_NAMES[IMPORT_FORMATS + 1];

/* How tokens become steps where the source does not say. */
typedef enum {
    IMPORT_STEP_TOKEN,    /* each token is one decode step */
    IMPORT_STEP_SEQUENCE, /* each sequence is one prefill step */
    IMPORT_STEP_REQUEST,  /* of each sequence the prompt is one prefill step, every token after it a
                             decode step */
    IMPORT_STEP_COUNT /* STEP_TOKENS consecutive tokens are one prefill step, also across the end
                         of a sequence; one token is a decode step */
} ImportStep;

typedef struct {
    ImportFormat from;
    const char *path;
    const char *out;       /* must not exist */
    const char *sequences; /* CSV (traces/import_sequences.h) or NULL: one sequence */
    const char *label;     /* columns of that CSV, separated by commas; NULL: the usual ones */
    const char *model;     /* NULL: what the source says */
    uint32_t experts;      /* per layer; 0: what the source says, else the largest id + 1 */
    uint64_t expert_bytes; /* 0: what the source says, else unknown */
    uint32_t first_layer;  /* the model's number of the first MoE layer, where the source counts */
    bool step_given;       /* else the source's steps, or IMPORT_STEP_TOKEN where it has none */
    ImportStep step;
    uint32_t step_tokens;
    const volatile int *stop; /* becomes nonzero: give up with ERR_INTERRUPTED; may be NULL */
    void (*progress)(void *argument, uint64_t done, uint64_t total); /* in tokens; may be NULL */
    void *progress_argument;
} ImportOptions;

typedef struct {
    uint64_t steps;
    uint64_t tokens;
    uint64_t requests;
    uint64_t ids;     /* (token, layer, slot), dropped ones included */
    uint64_t dropped; /* of these, marked EXPERT_DROPPED */
    uint32_t layers;
} ImportReport;

/* Fails with ERR_USAGE for an option that FROM has no use for, with ERR_INPUT or ERR_UNSUPPORTED
 * for a source that does not hold ("FILE: PLACE: WHY"), with ERR_OUTPUT, ERR_IO or ERR_MEMORY.
 * Nothing is left behind then. */
Status trace_import(const ImportOptions *options, ImportReport *report);

#endif
