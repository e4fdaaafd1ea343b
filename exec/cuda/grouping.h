/* Which rows belong to which expert, on the device.
 *
 * An assignment is one (token, slot), number token * top_k + slot. The rows of a grouped product
 * are the assignments sorted by expert, in token order, an expert's padded to a multiple of 16. The
 * table tells a product its tiles: rows of one group share an expert and are cut into tiles of the
 * same width, but for the last. Everything is computed from the experts' ids without the host, the
 * same on every run. */
#ifndef EXEC_CUDA_GROUPING_H
#define EXEC_CUDA_GROUPING_H

#include "exec/cuda/check.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "exec/backend.h"

enum {
    MAX_EXPERTS = 1024,
    MAX_WIDTH = 288,         /* rows of a tile */
    MIDDLE_WIDTH = 192,      /* ... where experts have fewer */
    NARROW_WIDTH = 128,      /* ... and where they have few */
    MANY_ASSIGNMENTS = 8192, /* from which some experts may have many, whatever the average */
    GROUP_ROWS = 2304, /* most rows of a group: what a product reads again comes from the L2 */
    TOKENS_PER_BLOCK = 128,
    TAKEN = 4,     /* words of a table */
    DONE_ROWS = 16 /* that a word of it counts */
};

#define NO_ROW UINT32_MAX

/* Rows of one expert, cut into tiles of the same width, the last of what is left. */
typedef struct {
    uint32_t weights_at; /* number of the expert's place in the weights */
    uint32_t first_row;
    uint32_t first_tile; /* number of its first tile in the table */
    uint16_t width;      /* rows of a tile, a multiple of 16 */
    uint16_t rows;       /* of all tiles, a multiple of 16 */
} RowGroup;

/* The tiles of a product, by number; those of experts with many rows come first. */
typedef struct {
    uint32_t *n_tiles; /* device [2]: all, and of experts with many rows */
    /* device [2][2], 0: what the first and the second product have taken of either kind */
    uint32_t *taken;
    RowGroup *tiles;   /* device [n_tiles], aligned to 16: the group of each */
    uint32_t *written; /* device [n_tiles], 0: parts of the rows that the second product reads */
    uint32_t *done;    /* device [rows / 16], 0: columns / 64 that the second product has written of
                        * 16 rows; NULL: nobody asks for them */
} GroupTable;

/* Room for the tiles of ASSIGNMENTS. */
static inline size_t grouping_max_tiles(size_t assignments, size_t experts)
{
    return assignments / NARROW_WIDTH + assignments / GROUP_ROWS + experts;
}

/* The widest tiles that suit ASSIGNMENTS. Wide ones do more arithmetic for each byte of weights
 * that comes from the L2, narrow ones leave room for more bytes under way; where most experts have
 * so few rows that stages take two blocks, there is room in either case. */
static inline uint32_t grouping_max_width(size_t assignments, uint32_t experts)
{
    size_t average = assignments / experts;
    if (average < 96)
        return assignments < MANY_ASSIGNMENTS ? NARROW_WIDTH : MAX_WIDTH;
    return average < 160 ? MIDDLE_WIDTH : MAX_WIDTH;
}

/* The most rows that up to ASSIGNMENTS take, padding included: a multiple of 16. */
static inline size_t grouping_max_rows(size_t assignments, size_t experts)
{
    size_t active = assignments < experts ? assignments : experts;
    return (assignments + 15) / 16 * 16 + 16 * (active + grouping_max_tiles(assignments, 0));
}

/* Device memory of one grouping. */
typedef struct {
    uint32_t *first_row; /* [experts + 1]: rows of the experts before */
    uint32_t *row;       /* [tokens * top_k]: of an assignment; NO_ROW: dropped */
    GroupTable table;    /* of all experts, each in the place of its own number */
} Grouping;

typedef struct {
    uint32_t tokens;
    uint32_t top_k;
    uint32_t experts;
    uint32_t max_width; /* of tiles */
} GroupingShape;

/* Groups IDS, device [tokens][top_k] (EXPERT_DROPPED: has no row): GROUPING and GROUPS. */
Status grouping_run(const GroupingShape *shape, const uint16_t *ids, const RowGroups *groups,
                    const Grouping *grouping, cudaStream_t stream);

/* The TABLE of the experts of N JOBS, at most MAX_EXPERTS, in their slots. SELECTED, [experts],
 * says which they are. JOBS may be reused on return. */
Status grouping_select(const GroupingShape *shape, const RowGroups *groups,
                       const Grouping *grouping, const ExpertJob *jobs, uint32_t n,
                       const GroupTable *table, uint8_t *selected, cudaStream_t stream);
/* ... of those that are PLACED, device [n]. */
Status grouping_select_placed(const GroupingShape *shape, const RowGroups *groups,
                              const Grouping *grouping, const ExpertJob *placed, uint32_t n,
                              const GroupTable *table, uint8_t *selected, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
