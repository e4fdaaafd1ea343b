/* One forward pass over a backend, and the memory it works in. */
#ifndef EXEC_FORWARD_H
#define EXEC_FORWARD_H

#include "exec/executor.h"
#include "exec/expert_slots.h"
#include "traces/ops.h"
#include "exec/weights.h"

/* Device memory. T is the most tokens of a step, K the largest top_k; widths are the largest over
 * layers. */
typedef struct {
    uint32_t *ids;        /* [T] */
    uint32_t *places;     /* [T] rows of the position table */
    uint32_t *picked;     /* [T] rows whose logits are wanted */
    Span *spans;          /* [T] */
    Span *source_spans;   /* [T] what the same tokens see of their sources */
    float *hidden;        /* [T][d_model] the residual stream */
    float *normed;        /* [T][d_model] */
    float *projected;     /* [T][qkv, or the latents] */
    float *low_rank;      /* [T][q_rank] twice: before and after its norm */
    float *queries;       /* [T][n_heads * key_dim] of latent and of cross attention */
    float *absorbed;      /* [T][n_heads * (kv_rank + rotary_dims)] */
    float *mixed_latents; /* [T][n_heads * kv_rank] */
    float *mixed;         /* [T][n_heads * value_dim] */
    float *ffn_hidden;    /* [T][2 * d_ff] of dense and shared FFNs */
    float *ffn_inside;    /* [T][d_ff] */
    float *gates;         /* [T] */
    float *scores;        /* [T][experts] */
    uint16_t *experts;    /* per MoE layer [tokens][top_k] */
    float *route_weights; /* same shape */
    uint16_t *forced_experts;
    float *forced_weights;
    uint32_t *row_groups; /* per MoE layer [max_experts + 1]: RowGroups.first */
    uint32_t *group_rows; /* [T * K] RowGroups.rows */
    uint32_t *found;      /* [1 + rows of logits]: 1 where the routing's weights have a NaN, else 0;
                             of each row the same, or in a greedy step its best token */
    void *expert_out;     /* what the experts give, in the backend's form */
    float *logits;        /* [LOGIT_ROWS][vocabulary] */
    void *keys;       /* decoder layers' caches, one after the other: [max_requests][max_length] */
    void *values;     /* the same; latent attention has none */
    void *cross_keys; /* decoder layers' */
    void *cross_values;
    void *encoder_keys; /* of the layer that runs */
    void *encoder_values;
} Activations;

/* Large routings of this many steps are kept; LARGE_ROUTING entries are large: of some 6 bytes,
 * they take a tenth of a millisecond to be copied. */
enum { ROUTINGS_KEPT = 3, LARGE_ROUTING = 1 << 17 };

/* Per MoE layer of a stack [tokens][top_k]. */
typedef struct {
    uint16_t *experts;
    float *weights;
} HostRouting;

/* Host memory that the device copies from and to. */
typedef struct {
    uint32_t *ids;
    uint32_t *places;
    uint32_t *picked;
    Span *spans;
    Span *source_spans;
    HostRouting small;                /* of a step with less than LARGE_ROUTING entries */
    HostRouting large[ROUTINGS_KEPT]; /* of others, in turn */
    uint16_t *experts;                /* of the present step: one of these */
    float *weights;
    uint16_t *forced_experts;
    float *forced_weights;
    float *scores;        /* per MoE layer [tokens][experts] */
    float *logits;        /* [rows wanted][vocabulary] */
    uint32_t *row_groups; /* per MoE layer [max_experts + 1] */
    uint32_t *found;
} ForwardHost;

/* Predictions of the routing of layers ahead (exec/forward_ahead.c). The part of distance D begins
 * D - 1 times the step's routed entries into its arrays, and holds [tokens][top_k] of each MoE
 * layer of the stack but the first D. */
typedef struct {
    uint32_t distances; /* there is room for so many */
    uint32_t recorded;  /* distances 1 to so many are given out; 0: none */
    uint32_t decided;   /* the distance that the plan's predictor asks for; 0: none */
    float *normed;      /* device [T][d_model] */
    Routing routing;    /* device: scores [T][experts], the rest [distances][entries] */
    uint16_t *experts;  /* host, the same */
    float *weights;
} Ahead;

/* What the plan's decisions see of an event besides its experts (exec/forward_signals.c), in host
 * memory. */
typedef struct {
    SignalNeeds needs;
    uint16_t *halves; /* [T][experts, or K] f16 */
    uint32_t *scores; /* [experts] */
    uint64_t *sums;   /* [experts] scratch */
    uint16_t *predicted;
    uint64_t *predicted_weights;
} DecisionSignals;

/* The operations of a step in their order. */
typedef struct {
    uint32_t *layer; /* [max] */
    uint32_t *op;    /* [max] */
    uint32_t *end;   /* [max] number of the stamp behind it */
    uint32_t n;
    uint32_t n_stamps;
} OpList;

/* Stamps of a step: an operation ran between the one behind it and the one before that. A step that
 * the backend repeats stamps the operations that were listed when it was queued. */
typedef struct {
    OpList lists[2][2];    /* by stack, and by whether logits are wanted */
    uint64_t *ns;          /* [max_stamps] */
    TimingRecord *records; /* [max] */
    uint32_t max;
    uint32_t max_stamps;
} Stamps;

/* What the host does meanwhile, in clock_ns() until the step is over. */
typedef struct {
    HostSpan *ops;     /* [stamps.max] */
    HostEvent *events; /* [n_moe_layers] */
    uint32_t n_events;
    uint64_t stamp_ns; /* when the last stamp was queued */
    HostSpan queue;
    HostSpan wait;
} HostNotes;

typedef struct {
    const Backend *backend;
    Device *device;
    const ModelConfig *config;
    const Plan *plan;
    BackendSizes sizes;
    uint32_t max_requests;
    uint32_t max_length;
    uint32_t max_tokens;
    uint32_t max_logits; /* rows of host.logits */
    ModelWeights weights;
    ExpertSlots slots;
    Activations at;
    ForwardHost host;
    Ahead ahead;
    DecisionSignals signals;
    Stamps stamps;
    uint32_t large_steps; /* that had a large routing */
    HostNotes notes;
} Forward;

/* Lay out what is above in device and in host memory (exec/layout.h); weights and slots are laid
 * out by their own functions. PINNED is for what the device copies, SIGNALS for what the plan's
 * decisions see, HOST for the rest. */
void forward_lay_out_cache(Forward *forward, Arena *arena);
void forward_lay_out_activations(Forward *forward, Arena *arena);
void forward_lay_out_pinned(Forward *forward, Arena *arena);
void forward_lay_out_host(Forward *forward, Arena *arena);
void forward_lay_out_signals(Forward *forward, Arena *arena);
/* Stamps that a step can make. */
uint32_t forward_max_stamps(const ModelConfig *config);

/* The cache of decoder layer LAYER (by the model's number): its own, or of the encoder's output; or
 * the one that the encoder's layers share. */
CacheLayer forward_cache(const Forward *forward, uint32_t layer);
CacheLayer forward_cross_cache(const Forward *forward, uint32_t layer);
CacheLayer forward_encoder_cache(const Forward *forward, uint32_t layer);

/* Runs a step of which nothing is kept but what it left in the caches, through the first LAYERS of
 * its stack at the most; host.spans[n_spans] and the rest are set as for forward_step(). */
Status forward_warm_up(Forward *forward, const StepInput *input, uint32_t n_spans, uint32_t layers);
/* Captures such a step, whole, as often as N, which changes nothing but that what a device takes
 * for graphs it has then; notes of steps are forgotten. */
Status forward_warm_up_graphs(Forward *forward, const StepInput *input, uint32_t n_spans,
                              uint32_t n);
/* Runs a step that has been checked, whose host.spans[n_spans], source_spans and places are set.
 * Fills all of OUTPUT but its times. Fails with ERR_INPUT when a router or the logits give NaN. */
Status forward_step(Forward *forward, const StepInput *input, uint32_t n_spans, StepOutput *output);

#endif
