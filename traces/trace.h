/* What a trace holds: the plain data that recorder, reader, simulator and executor share. Schema 1,
 * traces/schema.sql. */
#ifndef TRACES_TRACE_H
#define TRACES_TRACE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    TRACE_APPLICATION_ID = 0x4D6F4265,
    TRACE_SCHEMA = 1,
    TRACE_MAX_LAYERS = 1024,   /* MoE layers */
    TRACE_MAX_EXPERTS = 65535, /* experts of one layer: 0xFFFF means dropped */
    TRACE_MAX_TOP_K = 1024,
    TRACE_MAX_TOKENS = 1 << 24, /* tokens of one step */
};

/* One expert's bytes: sums over the loads of a trace then fit 64 bits. */
#define TRACE_MAX_EXPERT_BYTES ((uint64_t)1 << 40)
/* All experts of a model: a number that JSON holds exactly. */
#define TRACE_MAX_MODEL_BYTES ((uint64_t)1 << 53)

#define EXPERT_DROPPED                                                                             \
    UINT16_MAX /* a (token, slot) that was routed but not computed: over capacity */
#define TOKEN_UNKNOWN UINT32_MAX
#define SLOT_UNKNOWN UINT32_MAX /* in a residency record from an engine that does not say */

typedef enum { STACK_DECODER, STACK_ENCODER } Stack;
typedef enum { PHASE_PREFILL, PHASE_DECODE, PHASE_ENCODE, PHASE_MIXED } Phase;

const char *stack_name(Stack stack);
const char *phase_name(Phase phase);

/* One MoE layer. Texts are zero-terminated copies, cut to fit. */
typedef struct {
    uint32_t
        layer; /* the model's layer number; decoder layers go on counting after encoder layers */
    char name[96];
    Stack stack;
    uint32_t experts;
    uint32_t top_k;
    uint32_t shared_experts;
    uint32_t d_model;
    uint32_t d_ff;
    uint64_t expert_bytes; /* of one expert's weights, as stored on the host */
    char gate[256];        /* JSON: how the router scores and normalises; "" = NULL */
} TraceLayer;

/* Where a trace came from. Texts belong to whoever fills the struct; NULL is written as NULL (or ""
 * where required). */
typedef struct {
    const char *created; /* NULL: now */
    const char *tool;
    const char *source;
    const char *model;
    const char *model_config; /* JSON */
    const char *device;
    const char *plan;  /* JSON */
    const char *notes; /* JSON object or NULL; the writer adds its own keys */
} TraceRun;

typedef struct {
    uint32_t request;
    const char *label; /* may be NULL */
    uint64_t arrival_ns;
    uint32_t prompt_tokens;
    uint32_t output_tokens;
} TraceRequest;

typedef enum {
    RESIDENCY_HIT,      /* a lookup that found its expert in SLOT; with bytes and time where it had
                           to be loaded then, since its prefetch had been cancelled */
    RESIDENCY_LOAD,     /* a lookup that missed: host -> SLOT */
    RESIDENCY_PREFETCH, /* host -> SLOT without a lookup; of 0 bytes when it was cancelled before it
                           began */
    RESIDENCY_EVICT,    /* the expert left SLOT */
    RESIDENCY_BYPASS,   /* a lookup that missed and passed through the staging slot (SLOT = slots of
                           the scope) */
    RESIDENCY_HOST,     /* a lookup that missed and was computed on the host: SLOT is UINT32_MAX */
    RESIDENCY_KINDS
} ResidencyKind;

const char *residency_kind_name(ResidencyKind kind);

/* One record of residency.events, in the order of the decisions. Times are 0 where nothing was
 * measured. */
typedef struct {
    uint32_t layer; /* the model's layer number */
    uint32_t expert;
    uint32_t kind; /* ResidencyKind */
    uint32_t slot; /* within the scope: the layer's slots, or the device's */
    uint64_t bytes;
    uint64_t start_ns;
    uint64_t duration_ns;
} ResidencyRecord;

typedef struct {
    uint32_t layer;
    uint32_t op;
    uint64_t start_ns;
    uint64_t duration_ns;
} TimingRecord;

static_assert(sizeof(ResidencyRecord) == 40 && sizeof(TimingRecord) == 24,
              "records are written as they lie");

/* What a trace that is being written survives. */
typedef enum {
    DURABLE_PROCESS, /* the program's end at any moment: all but the open transaction */
    DURABLE_POWER,   /* loss of power too; costs time */
    DURABLE_NOT /* nothing until it is closed: for a file that is thrown away after a failure */
} Durability;

/* One step as the recorder takes it and the reader gives it. All pointers belong to the giver. */
typedef struct {
    uint32_t step;
    Phase phase;
    Stack stack; /* which MoE layers ROUTING covers; an encode step covers the encoder's */
    uint64_t start_ns;
    uint64_t duration_ns;
    uint32_t tokens;
    const uint32_t *request;  /* [tokens] */
    const uint32_t *position; /* [tokens] */
    const uint32_t *token;    /* [tokens] or NULL */
    const uint8_t *rank;      /* [tokens] or NULL */
    const uint16_t *experts;  /* per MoE layer of the stack, one after the other: [tokens][top_k],
                                 router order */
    const uint8_t *expert_bytes; /* the same as ids of a byte, UINT8_MAX where dropped, instead of
                                    EXPERTS, which is NULL: from a reader that was asked for them;
                                    else NULL */
    const float *weights;        /* same shape, or NULL */
    const uint16_t *scores;      /* f16, SCORE_COUNT values, or NULL; the layout is in run.notes */
    size_t score_count;
    /* What was predicted of MoE layers ahead: the part of distance D (from 1) begins D - 1 times
     * the size of EXPERTS into the array, and is laid out like EXPERTS without the stack's first D
     * layers. For the recorder; a reader gives them with trace_reader_prediction(). */
    uint32_t n_distances;           /* 0: nothing */
    const uint16_t *predicted;      /* [n_distances][ids of EXPERTS] */
    const float *predicted_weights; /* same shape */
} TraceStep;

/* Half-precision conversion, round to nearest even. */
uint16_t f16_from_f32(float value);
float f32_from_f16(uint16_t half);

#endif
