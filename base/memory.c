#define _GNU_SOURCE /* madvise, MAP_ANONYMOUS, mremap */

#include "base/memory.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    ALIGNMENT = 64,
    LARGE_BYTES = 4 << 20,
    LEAST_ROOM = 64,
    LEAST_CHUNK = 1024,
    MOST_CHUNK = (8 << 20) - 64,
    FRESH_BYTES = 1 << 16
};

/* How a block was made, in the word before it. */
typedef enum { BLOCK_ALIGNED, BLOCK_PLAIN, BLOCK_OF_CHUNK } BlockKind;

/* Sits in front of a block, so that its size and start are known when it is resized or freed.
 * MAPPED_BYTES is what was mapped for it, 0 when it came from the heap. */
typedef struct {
    size_t bytes;
    size_t mapped_bytes;
    void *heap; /* what is to be freed */
    unsigned char pad[ALIGNMENT - 3 * sizeof(size_t) - sizeof(void *)];
    size_t kind; /* BlockKind */
} BlockHeader;

/* The same of blocks of SQLite and cJSON, which want neither zeroes nor more than malloc's
 * alignment, but many small ones quickly. */
typedef struct {
    size_t bytes;
    size_t kind;
} PlainHeader;

static_assert(sizeof(PlainHeader) % _Alignof(max_align_t) == 0, "blocks are aligned as malloc's");

/* A large block that many of cJSON are cut from. */
typedef struct {
    _Atomic size_t live; /* blocks that are not freed, and MANY while more are cut */
    size_t cut;          /* blocks so far */
    size_t room;         /* bytes, this head's among them, ... */
    size_t used;         /* ... and so many of them are taken */
} Chunk;

/* The same as PlainHeader of a block of a chunk. */
typedef struct {
    uint32_t bytes;
    uint32_t offset; /* in the chunk */
    size_t kind;
} PieceHeader;

static_assert(sizeof(Chunk) % _Alignof(max_align_t) == 0, "pieces are aligned as malloc's");
static_assert(sizeof(PieceHeader) == sizeof(PlainHeader), "one kind word before any block");

static const size_t MANY = SIZE_MAX / 2;
static _Thread_local size_t chunk_bytes; /* 0: cJSON has blocks of their own */
static _Thread_local Chunk *chunk;

static size_t kind_of(const void *block)
{
    return ((const PlainHeader *)block - 1)->kind;
}

static _Atomic int64_t live_blocks;
static _Atomic uint64_t allocations;
static _Atomic int64_t fail_countdown; /* 0: off; reaching 0 from 1 fails that allocation */
static _Atomic bool fail_was_reached;
static _Thread_local uint64_t failures;

static bool must_fail(void)
{
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0)
        return false;
    if (atomic_fetch_sub(&fail_countdown, 1) != 1)
        return false;
    atomic_store(&fail_was_reached, true);
    return true;
}

/* One more allocation that could not be made. */
static void *no_block(void)
{
    failures++;
    return NULL;
}

/* A large block is mapped: fresh pages are zero as they come, and huge ones cost a tenth of the
 * faults, which is what filling gigabytes of weights waits for. */
static BlockHeader *map_block(size_t rounded)
{
    void *map = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    madvise(map, rounded, MADV_HUGEPAGE);
    BlockHeader *header = map;
    header->mapped_bytes = rounded;
    return header;
}

/* Aligned by hand: of small blocks malloc() keeps lists and aligned_alloc() has none. Nor has
 * calloc(), which knows instead which pages the system has just zeroed. */
static BlockHeader *heap_block(size_t rounded, bool zero)
{
    bool fresh = zero && rounded >= FRESH_BYTES;
    char *heap = fresh ? calloc(1, rounded + ALIGNMENT) : malloc(rounded + ALIGNMENT);
    if (heap == NULL)
        return NULL;
    BlockHeader *header = (void *)(heap + ALIGNMENT - (uintptr_t)heap % ALIGNMENT);
    header->heap = heap;
    header->mapped_bytes = 0;
    if (zero && !fresh)
        memset(header + 1, 0, rounded - sizeof(BlockHeader));
    return header;
}

static size_t rounded_bytes(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + sizeof(BlockHeader);
}

static void *block_new(size_t bytes, bool zero)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    if (bytes > SIZE_MAX - 3 * ALIGNMENT || must_fail())
        return no_block();
    size_t rounded = rounded_bytes(bytes);
    BlockHeader *header = bytes >= LARGE_BYTES ? map_block(rounded) : heap_block(rounded, zero);
    if (header == NULL)
        return no_block();
    header->bytes = bytes;
    header->kind = BLOCK_ALIGNED;
    atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    return header + 1;
}

void *mem_alloc(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return no_block();
    return block_new(bytes, true);
}

/* N of its blocks are not needed any more; the last takes the chunk with it. */
static void leave_chunk(Chunk *left, size_t n)
{
    if (atomic_fetch_sub_explicit(&left->live, n, memory_order_acq_rel) == n)
        mem_free(left);
}

void mem_free(void *block)
{
    if (block == NULL)
        return;
    if (kind_of(block) == BLOCK_OF_CHUNK) {
        PieceHeader *piece = (PieceHeader *)block - 1;
        leave_chunk((void *)((char *)piece - piece->offset), 1);
        return;
    }
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    if (kind_of(block) == BLOCK_PLAIN) {
        free((PlainHeader *)block - 1);
        return;
    }
    BlockHeader *header = (BlockHeader *)block - 1;
    if (header->mapped_bytes > 0)
        munmap(header, header->mapped_bytes);
    else
        free(header->heap);
}

static size_t bytes_of(const void *block)
{
    if (kind_of(block) == BLOCK_OF_CHUNK)
        return ((const PieceHeader *)block - 1)->bytes;
    return kind_of(block) == BLOCK_PLAIN ? ((const PlainHeader *)block - 1)->bytes
                                         : ((const BlockHeader *)block - 1)->bytes;
}

/* A block that is mapped keeps its pages. */
static void *map_resize(BlockHeader *header, size_t bytes)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    if (bytes > SIZE_MAX - 3 * ALIGNMENT || must_fail())
        return no_block();
    size_t rounded = rounded_bytes(bytes);
    BlockHeader *moved = mremap(header, header->mapped_bytes, rounded, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED)
        return no_block();
    moved->bytes = bytes;
    moved->mapped_bytes = rounded;
    return moved + 1;
}

void *mem_resize(void *block, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return no_block();
    BlockHeader *header =
        block != NULL && kind_of(block) == BLOCK_ALIGNED ? (BlockHeader *)block - 1 : NULL;
    if (header != NULL && header->mapped_bytes > 0 && bytes >= LARGE_BYTES)
        return map_resize(header, bytes);
    void *moved = block_new(bytes, false);
    if (moved == NULL || block == NULL)
        return moved;
    size_t old_bytes = bytes_of(block);
    memcpy(moved, block, old_bytes < bytes ? old_bytes : bytes);
    mem_free(block);
    return moved;
}

static Status fail_array(const char *what, size_t count, size_t size)
{
    size_t bytes;
    return fail_memory(what, __builtin_mul_overflow(count, size, &bytes) ? SIZE_MAX : bytes);
}

Status mem_resize_array(void *array_pointer, size_t count, size_t size, const char *what)
{
    void *array;
    memcpy(&array, array_pointer, sizeof array);
    array = mem_resize(array, count, size);
    if (array == NULL)
        return fail_array(what, count, size);
    memcpy(array_pointer, &array, sizeof array);
    return OK;
}

Status mem_reserve(void *array_pointer, size_t *room, size_t n, size_t more, size_t size,
                   const char *what)
{
    size_t wanted = *room + *room / 2;
    if (more <= *room - n)
        return OK;
    if (more > SIZE_MAX - n)
        return fail_memory(what, SIZE_MAX);
    wanted = wanted < n + more ? n + more : wanted;
    wanted = wanted < LEAST_ROOM ? LEAST_ROOM : wanted;
    TRY(mem_resize_array(array_pointer, wanted, size, what));
    *room = wanted;
    return OK;
}

Status mem_grow(void *array_pointer, size_t *room, size_t n, size_t size, const char *what)
{
    return mem_reserve(array_pointer, room, n, 1, size, what);
}

Status mem_new(void *out_pointer, size_t count, size_t size, const char *what)
{
    void *block = mem_alloc(count, size);
    if (block == NULL)
        return fail_array(what, count, size);
    memcpy(out_pointer, &block, sizeof block);
    return OK;
}

void mem_fail_at(uint64_t k)
{
    atomic_store(&fail_was_reached, false);
    atomic_store(&fail_countdown, (int64_t)k);
}

bool mem_fail_reached(void)
{
    return atomic_load(&fail_was_reached);
}

uint64_t mem_failures(void)
{
    return failures;
}

uint64_t mem_allocations(void)
{
    return atomic_load(&allocations);
}

int64_t mem_live_blocks(void)
{
    return atomic_load(&live_blocks);
}

static void *plain_resize(void *block, size_t bytes)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    if (bytes > SIZE_MAX - sizeof(PlainHeader) || must_fail())
        return no_block();
    PlainHeader *header = block != NULL ? (PlainHeader *)block - 1 : NULL;
    PlainHeader *moved = realloc(header, bytes + sizeof *moved);
    if (moved == NULL)
        return no_block();
    moved->bytes = bytes;
    moved->kind = BLOCK_PLAIN;
    if (block == NULL)
        atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    return moved + 1;
}

static void close_chunk(void)
{
    if (chunk != NULL)
        leave_chunk(chunk, MANY - chunk->cut);
    chunk = NULL;
}

static bool new_chunk(void)
{
    close_chunk();
    chunk = block_new(chunk_bytes, false);
    if (chunk == NULL)
        return false;
    *chunk = (Chunk){.room = chunk_bytes, .used = sizeof *chunk};
    atomic_init(&chunk->live, MANY);
    return true;
}

static void *json_alloc(size_t bytes)
{
    const size_t grain = _Alignof(max_align_t);
    size_t whole = (bytes + grain - 1) / grain * grain + sizeof(PieceHeader);
    if (chunk_bytes == 0 || bytes > chunk_bytes / 4)
        return plain_resize(NULL, bytes);
    if ((chunk == NULL || whole > chunk->room - chunk->used) && !new_chunk())
        return NULL;
    PieceHeader *piece = (void *)((char *)chunk + chunk->used);
    *piece = (PieceHeader){
        .bytes = (uint32_t)bytes, .offset = (uint32_t)chunk->used, .kind = BLOCK_OF_CHUNK};
    chunk->used += whole;
    chunk->cut++;
    return piece + 1;
}

void memory_json_begin(size_t bytes)
{
    assert(chunk == NULL);
    chunk_bytes = bytes < LEAST_CHUNK ? LEAST_CHUNK : bytes > MOST_CHUNK ? MOST_CHUNK : bytes;
}

void memory_json_end(void)
{
    close_chunk();
    chunk_bytes = 0;
}

static void *sqlite_alloc(int bytes)
{
    return plain_resize(NULL, (size_t)bytes);
}

static void *sqlite_resize(void *block, int bytes)
{
    return plain_resize(block, (size_t)bytes);
}

static int sqlite_size(void *block)
{
    return block == NULL ? 0 : (int)((PlainHeader *)block - 1)->bytes;
}

static int sqlite_round_up(int bytes)
{
    return (bytes + 7) & ~7;
}

static int sqlite_start(void *unused)
{
    (void)unused;
    return SQLITE_OK;
}

static void sqlite_stop(void *unused)
{
    (void)unused;
}

void memory_install(void)
{
    static const sqlite3_mem_methods methods = {
        .xMalloc = sqlite_alloc,
        .xFree = mem_free,
        .xRealloc = sqlite_resize,
        .xSize = sqlite_size,
        .xRoundup = sqlite_round_up,
        .xInit = sqlite_start,
        .xShutdown = sqlite_stop,
    };
    cJSON_Hooks hooks = {.malloc_fn = json_alloc, .free_fn = mem_free};
    cJSON_InitHooks(&hooks);
    sqlite3_config(SQLITE_CONFIG_MALLOC, &methods);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

void arena_reserve(Arena *arena, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - ALIGNMENT ||
        __builtin_add_overflow(arena->capacity, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT,
                               &arena->capacity))
        arena->overflow = true;
}

Status arena_commit(Arena *arena, const char *what)
{
    assert(arena->base == NULL);
    if (arena->overflow)
        return fail_memory(what, SIZE_MAX);
    return mem_new(&arena->base, arena->capacity, 1, what);
}

void *arena_take(Arena *arena, size_t count, size_t size)
{
    size_t bytes = (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    assert(bytes <= arena->capacity - arena->used);
    void *piece = arena->base + arena->used;
    arena->used += bytes;
    return piece;
}

void arena_free(Arena *arena)
{
    mem_free(arena->base);
    *arena = (Arena){0};
}
