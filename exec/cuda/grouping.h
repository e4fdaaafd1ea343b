/* Which rows belong to which expert, on the device.
 *
 * An assignment is one (token, slot), number token * top_k + slot. The rows of a grouped product
 * are the assignments sorted by expert, in token order, an expert's padded so that it has whole
 * tiles. The table of groups tells a product its tiles: rows of one group share an expert and are
 * cut into tiles of WIDTH rows. Everything is computed from the experts' ids without the host, the
 * same on every run. */
#ifndef EXEC_CUDA_GROUPING_H
#define EXEC_CUDA_GROUPING_H

#include "exec/cuda/check.h"

#include <stddef.h>
#include <stdint.h>

enum {
    MAX_EXPERTS = 512,
    MAX_WIDTH = 256,   /* rows of a tile */
    GROUP_ROWS = 2048, /* most rows of a group: what a product reads again comes from the L2 */
    TOKENS_PER_BLOCK = 128
};

#define NO_ROW UINT32_MAX

typedef struct {
    uint32_t weights_at; /* number of the expert's place in the weights */
    uint32_t first_row;
    uint32_t width; /* rows of a tile, a multiple of 16 */
} RowGroup;

typedef struct {
    uint32_t *n_groups;   /* device [1] */
    uint32_t *first_tile; /* device [n_groups + 1]; tiles of the groups before, the last: all */
    RowGroup *groups;     /* device [n_groups] */
} GroupTable;

/* Room for the groups of ASSIGNMENTS. */
static inline size_t grouping_max_groups(size_t assignments, uint32_t experts)
{
    return assignments / GROUP_ROWS + experts;
}

/* The widest tiles that suit ASSIGNMENTS: 128 or 256. Wide ones do more arithmetic for each byte of
 * weights that comes from the L2, narrow ones leave room for more bytes under way. */
static inline uint32_t grouping_max_width(size_t assignments, uint32_t experts)
{
    size_t average = assignments / experts;
    return average < 96 ? 128 : MAX_WIDTH;
}

/* The most rows that up to ASSIGNMENTS take, padding included: a multiple of 16. */
static inline size_t grouping_max_rows(size_t assignments, uint32_t experts, uint32_t max_width)
{
    size_t active = assignments < experts ? assignments : experts;
    return (assignments + 15) / 16 * 16 + 16 * (active + assignments / max_width);
}

/* Blocks of tokens whose counts are kept apart. */
static inline size_t grouping_blocks(uint32_t tokens)
{
    return (tokens + TOKENS_PER_BLOCK - 1) / TOKENS_PER_BLOCK;
}

/* Device memory of one grouping. */
typedef struct {
    uint32_t *count_before; /* [experts + 1]: assignments of the experts before */
    uint32_t *first_row;    /* [experts + 1]: rows of the experts before */
    uint32_t *assignment;   /* [max_rows]: of a row; NO_ROW: padding */
    uint32_t *row;          /* [tokens * top_k]: of an assignment; NO_ROW: dropped */
    uint32_t *block_counts; /* [blocks][experts]: counts, then those of the blocks before */
    uint32_t *done;         /* [1], 0 between calls */
    GroupTable table;       /* of all experts */
} Grouping;

typedef struct {
    uint32_t tokens;
    uint32_t top_k;
    uint32_t experts;
    uint32_t max_width; /* of tiles: 128 or 256 */
} GroupingShape;

#ifdef __cplusplus
extern "C" {
#endif

/* Groups IDS, device [tokens][top_k] (0xFFFF: dropped, has no row); an expert's place in the
 * weights is its id. */
Status grouping_run(const GroupingShape *shape, const uint16_t *ids, const Grouping *grouping,
                    cudaStream_t stream);

/* OUT, octet-packed, row r = in[token of row r], bf16 rows of COLUMNS (a multiple of 8), columns
 * up to the next multiple of 64 zero. Padding rows are left as they are. */
Status grouping_gather(const GroupingShape *shape, const Grouping *grouping, const void *in,
                       uint32_t columns, void *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
