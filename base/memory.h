/* Heap allocation that counts, and that tests can make fail; arenas over it.
 *
 * Everything in the program allocates here; memory_install() routes SQLite and cJSON through it as
 * well, so that a test can fail the k-th allocation of a whole command. Blocks are zeroed.
 * Thread-safe. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Zeroed blocks, aligned to 64 bytes; NULL when out of memory or when count * size overflows. */
void *mem_alloc(size_t count, size_t size);
/* Resizes BLOCK (or allocates when NULL) to COUNT * SIZE bytes; new bytes are not zeroed. On NULL
 * BLOCK is untouched. */
void *mem_resize(void *block, size_t count, size_t size);
void mem_free(void *block);

/* Like mem_alloc, but writes the error record: WHAT names the object. */
Status mem_new(void *out_pointer, size_t count, size_t size, const char *what);

/* Resizes the array that ARRAY_POINTER points to (NULL: allocates it) to COUNT items of SIZE bytes,
 * as mem_resize() does. On ERR_MEMORY, whose record has WHAT, it is as it was. */
Status mem_resize_array(void *array_pointer, size_t count, size_t size, const char *what);
/* Room for MORE items than the N of SIZE bytes in the array that ARRAY_POINTER points to, which has
 * room for *ROOM; where that is too little it grows by half of it at least. On ERR_MEMORY, whose
 * record has WHAT, both are as they were. */
Status mem_reserve(void *array_pointer, size_t *room, size_t n, size_t more, size_t size,
                   const char *what);
/* The same for one item more. */
Status mem_grow(void *array_pointer, size_t *room, size_t n, size_t size, const char *what);

/* Makes the K-th allocation from now on (1 = the next) return NULL, once; 0 switches this off. */
void mem_fail_at(uint64_t k);
/* True when the allocation armed by mem_fail_at has been reached. */
bool mem_fail_reached(void);
/* Allocations of this thread that returned NULL: tells a library's "out of memory" from its other
 * failures. */
uint64_t mem_failures(void);
/* Allocations asked for so far, by everyone: the K-th from now on is number mem_allocations() + K.
 */
uint64_t mem_allocations(void);
/* Blocks allocated and not yet freed, by everyone who allocates here. */
int64_t mem_live_blocks(void);

/* Routes cJSON and SQLite through this allocator. Call once, before either is used. */
void memory_install(void);

/* Until memory_json_end() this thread's blocks of cJSON are cut from chunks of about BYTES, each of
 * which is one allocation and is freed with the last of its blocks, by whichever thread: for a tree
 * of many small nodes that is freed as a whole. */
void memory_json_begin(size_t bytes);
void memory_json_end(void);

/* One block cut into aligned pieces, freed at once. Sizes are summed first with arena_reserve(),
 * then taken. */
typedef struct {
    unsigned char *base;
    size_t capacity;
    size_t used;
    bool overflow; /* a reserved size did not fit size_t */
} Arena;

/* Adds COUNT * SIZE bytes (rounded up to 64) to the capacity that arena_commit() will allocate. */
void arena_reserve(Arena *arena, size_t count, size_t size);
Status arena_commit(Arena *arena, const char *what);
/* Takes a zeroed piece; the reservation must have covered it. */
void *arena_take(Arena *arena, size_t count, size_t size);
void arena_free(Arena *arena);

#endif
