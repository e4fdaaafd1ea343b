/* What the files of host_experts share; nobody else's. */
#ifndef EXEC_CPU_HOST_EXPERTS_PARTS_H
#define EXEC_CPU_HOST_EXPERTS_PARTS_H

#include "exec/cpu/cpu.h"
#include "exec/cpu/host_experts.h"
#include "exec/cpu/host_packed.h"

enum { MOST_STRIPS = 4 /* of one item: a block */ };

/* Rows [first, first + n) of those computed at a time, of one expert. */
typedef struct {
    const void *weights;
    uint32_t first;
    uint32_t n;
} Piece;

/* Up to PAIR_ROWS rows of a piece, from FIRST on. */
typedef struct {
    uint32_t piece;
    uint32_t first;
    uint32_t n;
} RowSet;

/* Columns of N rows, of TOKENS [n] of the WIDTH columns of IN, to bf16 OUT [n][columns] or, as the
 * kernel asks for it, in pairs. */
typedef struct {
    const float *in;
    const uint32_t *tokens;
    uint32_t n;
    uint32_t width;
    uint32_t columns;
    void *out;
} GatheredRows;

/* What a thread gathers, or what it multiplies. */
typedef union {
    GatheredRows rows;
    PackedStrip strips;
} OwnItem;

struct HostExperts {
    ThreadPool *pool;
    const PackedKernel *packed;
    uint32_t max_rows;
    void *in;       /* [max_rows][d_model] f32; bf16 for packed experts, each piece's in the form
                       that the kernel asks for */
    void *inside;   /* [max_rows][d_ff] likewise */
    float *scratch; /* [threads][scratch_floats] */
    size_t scratch_floats;
    OwnItem *own;     /* [threads] */
    float *timed;     /* [HOST_TIMED_EXPERTS][d_model] results that nobody wants, and a row of 0 */
    uint32_t *tokens; /* [max_rows] */
    RowSet *sets;     /* of the pieces */
    Piece *pieces;    /* [max_pieces] */
    uint32_t max_pieces;
};

/* One call on its way. */
typedef struct {
    HostExperts *host;
    const HostWork *work;
    uint32_t n_rows;
    uint32_t n_pieces;
    uint32_t n_sets;
    uint32_t items;  /* of each piece, or each set, in the loop that runs */
    uint32_t strips; /* packed: of each item */
    FfnLayout layout;
    bool scatter;
    void *out;
    const uint32_t *rows;
} HostTask;

typedef enum { BIAS_GATE, BIAS_UP, BIAS_DOWN } Bias;

/* Elements [first, first + n) of a bias of the expert at WEIGHTS. */
void host_read_bias(const HostTask *task, const void *weights, Bias which, uint32_t first,
                    uint32_t n, float *to);

/* Gathers the rows, computes their insides, and what comes out of them, of packed experts. */
void host_run_packed(HostTask *task);

#endif
