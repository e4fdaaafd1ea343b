/* What a model is: the sizes and choices of its blocks, as read from config.json. Plain data.
 *
 * Every supported model is embedding, layers of attention and FFN with a norm before each, a last
 * norm and an output matrix; encoder-decoder models have two stacks of layers, and their decoder's
 * layers look at the encoder's output between attention and FFN. */
#ifndef EXEC_MODEL_H
#define EXEC_MODEL_H

#include "traces/trace.h"

enum { MAX_EOS = 8, MAX_ROPE_PAIRS = 512 };

/* The type that a backend multiplies matrices in; the default is its own choice. */
typedef enum { COMPUTE_DEFAULT, COMPUTE_F32, COMPUTE_BF16 } ComputeType;

typedef enum { NORM_RMS, NORM_LAYER } NormKind;

typedef enum {
    ACTIVATION_SILU,
    ACTIVATION_GELU,      /* by the error function */
    ACTIVATION_GELU_TANH, /* by its usual approximation */
    ACTIVATION_RELU,
    ACTIVATION_CLAMPED_SWIGLU /* g = min(gate, limit), u = clamp(up, +-limit):
                                 g sigmoid(alpha g) (u + 1); gated FFNs only */
} Activation;

/* gated: out = second (act(gate x + b) . (up x + b)) + b; else out = second act(first x + b) + b */
typedef struct {
    uint32_t d_model;
    uint32_t d_ff;
    bool gated;
    bool bias;
    Activation activation;
    float alpha;
    float limit;
} FfnShape;

typedef enum {
    ROTARY_NONE,
    ROTARY_HALVES,     /* element i turns with i + dims / 2 */
    ROTARY_INTERLEAVED /* element 2 i turns with 2 i + 1 */
} RotaryKind;

/* Attention of one layer. Latent attention (DeepSeek-V2, section 2.1: kv_rank > 0) has keys of
 * key_dim = nope + rotary_dims, of which only the latent [kv_rank] and one rotated part for all
 * heads are cached. */
typedef struct {
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t key_dim;
    uint32_t value_dim;
    uint32_t window; /* keys that a query sees, itself included; 0: all */
    float scale;     /* of query times key */
    bool qkv_bias;
    bool o_bias;
    bool head_norm; /* queries and keys are RMS-normed, each head by itself */
    bool row_norm;  /* ... or all heads as one row */
    float norm_eps; /* of these, and of the latents */
    bool sinks;     /* each head has a logit that takes its share and gives nothing */
    bool relative_bias;
    float clip; /* queries, keys and values are clamped to +-clip; 0: not */
    RotaryKind rotary;
    uint32_t rotary_dims; /* the first of a key; in latent attention the last */
    uint32_t kv_rank;
    uint32_t q_rank; /* 0: queries are projected at once */
} AttentionConfig;

typedef enum {
    ROUTER_SOFTMAX,       /* softmax over all experts, then the top k */
    ROUTER_SIGMOID,       /* each expert's own sigmoid */
    ROUTER_TOP_K_SOFTMAX, /* the top k logits, softmax over these */
    ROUTER_SPARSEMIXER    /* Liu et al. 2023: two choices, each by a softmax over what is close to
                             the best, the second without the first */
} RouterKind;

typedef struct {
    RouterKind kind;
    bool bias;          /* of the logits */
    bool correction;    /* a bias of the choice alone; weights come from the scores without it */
    bool normalise;     /* the k weights are divided by their sum */
    float scale;        /* of the weights */
    float output_scale; /* of the experts' sum, not part of the weights */
    uint32_t groups;    /* the choice is limited to the best top_groups of so many groups; 1: not */
    uint32_t top_groups;
    uint32_t group_best; /* a group's score is the sum of its best so many */
    float jitter;        /* sparsemixer: twice this is close */
    /* An expert takes at most ceil(capacity * tokens of the step); 0: no limit. */
    double capacity;
    bool normalise_kept; /* normalise over what was not dropped */
} RouterConfig;

typedef struct {
    Stack stack;
    bool moe;
    bool cross;       /* attends to the encoder's output */
    uint32_t experts; /* MoE layers only, as are top_k and router */
    uint32_t top_k;
    uint32_t shared_experts; /* as configured; they run as one FFN */
    bool shared_gate;        /* the shared FFN is weighted by a sigmoid */
    AttentionConfig attention;
    RouterConfig router;
    FfnShape ffn;    /* of one expert, or of the dense FFN */
    FfnShape shared; /* d_ff 0: none */
} LayerConfig;

typedef enum {
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_LLAMA3,
    ROPE_YARN,
    ROPE_LONGROPE,
    ROPE_DYNAMIC /* differs from the default only beyond max_positions, where no request goes */
} RopeType;

/* How positions become angles (exec/rope.h makes the tables). */
typedef struct {
    RopeType type;
    float theta;
    double factor;
    double attention_factor; /* of cosine and sine; 0: by the type's rule */
    double mscale;           /* yarn; 0: not given */
    double mscale_all_dim;
    double beta_fast;
    double beta_slow;
    bool truncate;
    double low_frequency_factor; /* llama3 */
    double high_frequency_factor;
    uint32_t original_positions;
    uint32_t max_positions;
    /* longrope: divisors of each rotary pair's frequency in short and in long requests, and the
     * factor of cosine and sine of each (0: by the rule) */
    float short_factor[MAX_ROPE_PAIRS];
    float long_factor[MAX_ROPE_PAIRS];
    double short_mscale;
    double long_mscale;
} RopeConfig;

typedef struct {
    char architecture[64]; /* config.json model_type, "qwen3_moe" */
    uint32_t vocabulary;
    uint32_t d_model;
    uint32_t n_layers;         /* of both stacks */
    uint32_t n_encoder_layers; /* the first of LAYERS; 0: decoder only */
    uint32_t predict_layers;   /* stored after the last, for predicting ahead; not run */
    uint32_t max_positions;
    NormKind norm;
    bool norm_bias;
    float norm_eps;
    float embedding_scale;
    float head_scale; /* of what the output matrix sees */
    bool tied_head;   /* the output matrix is the embedding */
    bool head_bias;
    bool sinusoidal;        /* positions are added to the embedding: waves, */
    bool learned_positions; /* or stored ones */
    RopeConfig rope;
    uint32_t relative_buckets; /* T5's position bias */
    uint32_t relative_max_distance;
    uint32_t n_eos;
    uint32_t eos[MAX_EOS];
    uint32_t pad;           /* TOKEN_UNKNOWN: none */
    uint32_t decoder_start; /* TOKEN_UNKNOWN: none */
    uint32_t n_moe_layers;  /* of both stacks */
    uint32_t max_experts;   /* over layers */
    uint32_t max_top_k;
    LayerConfig *layers; /* [n_layers], the encoder's first */
    char *json;          /* text of config.json */
} ModelConfig;

static inline bool model_is_encoder_decoder(const ModelConfig *config)
{
    return config->n_encoder_layers > 0;
}

static inline bool model_adds_positions(const ModelConfig *config)
{
    return config->sinusoidal || config->learned_positions;
}

/* The layers of STACK are [*first, *end). */
static inline void model_stack(const ModelConfig *config, Stack stack, uint32_t *first,
                               uint32_t *end)
{
    *first = stack == STACK_ENCODER ? 0 : config->n_encoder_layers;
    *end = stack == STACK_ENCODER ? config->n_encoder_layers : config->n_layers;
}

/* Experts that a token of STACK is given to, in all of its MoE layers together. */
static inline size_t model_stack_routed(const ModelConfig *config, Stack stack)
{
    size_t routed = 0;
    uint32_t first;
    uint32_t end;
    model_stack(config, stack, &first, &end);
    for (uint32_t i = first; i < end; i++)
        routed += config->layers[i].moe ? config->layers[i].top_k : 0;
    return routed;
}

/* The same of both stacks. */
static inline size_t model_routed(const ModelConfig *config)
{
    return model_stack_routed(config, STACK_DECODER) + model_stack_routed(config, STACK_ENCODER);
}

#endif
