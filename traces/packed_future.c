#include "traces/packed_future.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"

/* Blocks are no shorter, so that what is done once for each costs nothing. */
enum { LEAST_LOOKUPS = 1 << 17 };

/* Steps, events and lookups before a block. */
typedef struct {
    uint64_t step;
    uint64_t event;
    uint64_t lookup;
} BlockStart;

struct PackedFuture {
    PackedTrace trace; /* its arrays are the caller's */
    bool serial;
    uint32_t *offsets; /* [n_layers] of the layers' experts in one array */
    uint32_t n_experts;
    uint64_t n_blocks;
    BlockStart *starts; /* [n_blocks + 1] the last is the end */
    uint32_t *coming;   /* [n_blocks][n_experts] when each is needed behind the block */
    uint64_t longest;   /* lookups of a block */
};

struct FutureReader {
    const PackedFuture *future;
    uint64_t block; /* that NEXT is of */
    bool has_block;
    uint32_t *coming; /* [n_experts] scratch */
    uint32_t *next;   /* [longest] */
};

static void add_offsets(const PackedTrace *trace, uint32_t *offsets, uint32_t *n_experts)
{
    *n_experts = 0; /* at most 1024 * 65535 */
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        offsets[i] = *n_experts;
        *n_experts += trace->layers[i].experts;
    }
}

/* Steps END to START, right to left: what was seen last is what comes next. COMING goes from what
 * it is behind them to what it is before. NEXT, unless NULL, is of the lookups from START on. */
static void walk_back(const PackedFuture *future, BlockStart start, BlockStart end,
                      uint32_t *coming, uint32_t *next)
{
    const PackedTrace *trace = &future->trace;
    uint64_t lookup = end.lookup;
    uint64_t event = end.event;
    for (uint64_t step = end.step; step-- > start.step;)
        for (uint32_t done = trace->step_events[step]; done-- > 0;) {
            uint32_t *of_layer = coming + future->offsets[trace->step_first_layer[step] + done];
            event--;
            for (uint32_t i = trace->n_active[event]; i-- > 0;) {
                uint32_t *use = &of_layer[trace->experts[--lookup]];
                if (next != NULL)
                    next[lookup - start.lookup] = *use;
                *use = (uint32_t)(future->serial ? lookup : event);
            }
        }
}

/* As many lookups a block as make its numbers and those kept at the ends of blocks take equal room.
 */
static uint64_t lookups_of_block(const PackedFuture *future)
{
    uint64_t lookups = LEAST_LOOKUPS;
    while (lookups * lookups < future->trace.n_lookups * future->n_experts)
        lookups += lookups / 8;
    return lookups;
}

/* Cuts the trace into blocks; writes their starts, unless STARTS is NULL. Returns how many. */
static uint64_t cut(const PackedFuture *future, BlockStart *starts)
{
    const PackedTrace *trace = &future->trace;
    const uint64_t enough = lookups_of_block(future);
    BlockStart at = {0};
    uint64_t n = 0;
    uint64_t first = 0;
    for (; at.step < trace->n_steps; at.step++) {
        if (at.step == 0 || at.lookup - first >= enough) {
            if (starts != NULL)
                starts[n] = at;
            first = at.lookup;
            n++;
        }
        for (uint32_t i = 0; i < trace->step_events[at.step]; i++)
            at.lookup += trace->n_active[at.event++];
    }
    if (starts != NULL)
        starts[n] = at;
    return n;
}

static Status make_future(PackedFuture *future)
{
    const PackedTrace *trace = &future->trace;
    TRY(mem_new(&future->offsets, trace->n_layers, sizeof *future->offsets, "next uses"));
    add_offsets(trace, future->offsets, &future->n_experts);
    future->n_blocks = cut(future, NULL);
    TRY(mem_new(&future->starts, future->n_blocks + 1, sizeof *future->starts, "next uses"));
    TRY(mem_new(&future->coming, future->n_blocks * future->n_experts, sizeof *future->coming,
                "next uses"));
    cut(future, future->starts);
    for (uint64_t i = 0; i < future->n_blocks; i++) {
        uint64_t lookups = future->starts[i + 1].lookup - future->starts[i].lookup;
        future->longest = lookups > future->longest ? lookups : future->longest;
    }
    return OK;
}

/* Each block's COMING is what it is before the block behind. */
static void look_back(PackedFuture *future)
{
    size_t bytes = future->n_experts * sizeof *future->coming;
    for (uint64_t i = future->n_blocks; i-- > 0;) {
        uint32_t *coming = future->coming + i * future->n_experts;
        if (i + 1 == future->n_blocks) {
            memset(coming, 0xFF, bytes);
            continue;
        }
        memcpy(coming, coming + future->n_experts, bytes);
        walk_back(future, future->starts[i + 1], future->starts[i + 2], coming, NULL);
    }
}

Status packed_future_new(const PackedTrace *trace, bool serial, PackedFuture **out)
{
    PackedFuture *future;
    *out = NULL;
    if (trace->n_lookups > UINT32_MAX - 1 || trace->n_events > UINT32_MAX - 1)
        return fail(ERR_INPUT,
                    "packed trace: %" PRIu64 " lookups, at most %u can be looked into the future",
                    trace->n_lookups, UINT32_MAX - 1);
    TRY(mem_new(&future, 1, sizeof *future, "next uses"));
    future->trace = *trace;
    future->serial = serial;
    Status status = make_future(future);
    if (status != OK) {
        packed_future_free(future);
        return status;
    }
    look_back(future);
    *out = future;
    return OK;
}

void packed_future_free(PackedFuture *future)
{
    if (future == NULL)
        return;
    mem_free(future->coming);
    mem_free(future->starts);
    mem_free(future->offsets);
    mem_free(future);
}

size_t packed_future_bytes(const PackedFuture *future)
{
    return sizeof *future + future->trace.n_layers * sizeof *future->offsets +
           (future->n_blocks + 1) * sizeof *future->starts +
           future->n_blocks * future->n_experts * sizeof *future->coming;
}

Status future_reader_new(const PackedFuture *future, FutureReader **out)
{
    FutureReader *reader;
    TRY(mem_new(&reader, 1, sizeof *reader, "next uses"));
    reader->future = future;
    Status status =
        mem_new(&reader->coming, future->n_experts, sizeof *reader->coming, "next uses");
    if (status == OK)
        status = mem_new(&reader->next, future->longest, sizeof *reader->next, "next uses");
    if (status != OK) {
        future_reader_free(reader);
        return status;
    }
    *out = reader;
    return OK;
}

void future_reader_free(FutureReader *reader)
{
    if (reader == NULL)
        return;
    mem_free(reader->next);
    mem_free(reader->coming);
    mem_free(reader);
}

size_t future_reader_bytes(const FutureReader *reader)
{
    const PackedFuture *future = reader->future;
    return sizeof(FutureReader) + (future->n_experts + future->longest) * sizeof(uint32_t);
}

static void read_block(FutureReader *reader, uint64_t block)
{
    const PackedFuture *future = reader->future;
    memcpy(reader->coming, future->coming + block * future->n_experts,
           future->n_experts * sizeof *reader->coming);
    walk_back(future, future->starts[block], future->starts[block + 1], reader->coming,
              reader->next);
    reader->block = block;
    reader->has_block = true;
}

const uint32_t *future_reader_at(FutureReader *reader, uint64_t lookup)
{
    const BlockStart *starts = reader->future->starts;
    uint64_t block =
        reader->has_block && lookup >= starts[reader->block].lookup ? reader->block : 0;
    while (block + 1 < reader->future->n_blocks && lookup >= starts[block + 1].lookup)
        block++;
    if (!reader->has_block || block != reader->block)
        read_block(reader, block);
    return reader->next + (lookup - starts[block].lookup);
}

uint64_t future_reader_end(const FutureReader *reader, uint64_t step)
{
    const PackedFuture *future = reader->future;
    bool may_stay = reader->has_block && step >= future->starts[reader->block].step;
    uint64_t block = may_stay ? reader->block : 0;
    while (block + 1 < future->n_blocks && step >= future->starts[block + 1].step)
        block++;
    return future->starts[block + 1].step;
}

Status packed_next_use(const PackedTrace *trace, bool serial, uint32_t **next)
{
    PackedFuture *future;
    *next = NULL;
    TRY(packed_future_new(trace, serial, &future));
    Status status = mem_new(next, trace->n_lookups, sizeof **next, "next uses");
    for (uint64_t i = 0; i < future->n_blocks && status == OK; i++)
        walk_back(future, future->starts[i], future->starts[i + 1],
                  future->coming + i * future->n_experts, *next + future->starts[i].lookup);
    packed_future_free(future);
    return status;
}
