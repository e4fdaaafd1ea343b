/* The queue policies of the literature over plain arrays, for tests/reference_buffer.h: item 0 of a
 * queue is its newest. Written from the papers, not from policies/. */
#ifndef TESTS_REFERENCE_QUEUES_H
#define TESTS_REFERENCE_QUEUES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { REF_ITEMS = 64, REF_NOBODY = -1 };

typedef struct {
    int items[REF_ITEMS];
    int n;
} RefQueue;

/* Of one scope. Clock and SIEVE use main; S3-FIFO small, main, ghost; ARC small (T1), main (T2),
 * ghost (B1), ghost2 (B2). */
typedef struct {
    RefQueue small;
    RefQueue main;
    RefQueue ghost;
    RefQueue ghost2;
    int bits[REF_ITEMS]; /* visited, or lookups */
    int hand;            /* SIEVE: an item, or REF_NOBODY */
    double p;
    bool evicted_once;
    int missing; /* ARC: the item that is being admitted ... */
    int origin;  /* ... and where it was remembered: 0, 1 or 2 */
} RefQueues;

/* Whether an item may not go now. */
typedef bool (*RefIsKept)(const void *context, int item);

static inline int ref_find(const RefQueue *queue, int item)
{
    for (int i = 0; i < queue->n; i++)
        if (queue->items[i] == item)
            return i;
    return -1;
}

static inline void ref_push(RefQueue *queue, int item)
{
    memmove(queue->items + 1, queue->items, (size_t)queue->n * sizeof queue->items[0]);
    queue->items[0] = item;
    queue->n++;
}

static inline bool ref_remove(RefQueue *queue, int item)
{
    int at = ref_find(queue, item);
    if (at < 0)
        return false;
    memmove(queue->items + at, queue->items + at + 1,
            (size_t)(queue->n - at - 1) * sizeof queue->items[0]);
    queue->n--;
    return true;
}

static inline int ref_pop(RefQueue *queue)
{
    return queue->items[--queue->n];
}

static inline int ref_clock_take(RefQueues *q, RefIsKept is_kept, const void *context)
{
    for (;;) {
        int item = ref_pop(&q->main);
        bool kept = is_kept(context, item);
        if (!kept && q->bits[item] == 0)
            return item;
        if (!kept)
            q->bits[item] = 0;
        ref_push(&q->main, item);
    }
}

static inline int ref_sieve_take(RefQueues *q, RefIsKept is_kept, const void *context)
{
    int at = q->hand == REF_NOBODY ? q->main.n - 1 : ref_find(&q->main, q->hand);
    for (;; at = at == 0 ? q->main.n - 1 : at - 1) {
        int item = q->main.items[at];
        if (is_kept(context, item))
            continue;
        if (q->bits[item] == 0)
            break;
        q->bits[item] = 0;
    }
    int item = q->main.items[at];
    q->hand = at == 0 ? REF_NOBODY : q->main.items[at - 1];
    ref_remove(&q->main, item);
    return item;
}

static inline int ref_s3_small_size(int capacity)
{
    return capacity / 10 > 1 ? capacity / 10 : 1;
}

static inline int ref_s3_take_small(RefQueues *q, int capacity, RefIsKept is_kept,
                                    const void *context)
{
    int ghosts = capacity * 9 / 10;
    for (int left = q->small.n; left > 0; left--) {
        int item = ref_pop(&q->small);
        if (is_kept(context, item)) {
            ref_push(&q->small, item);
            continue;
        }
        if (q->bits[item] > 1) {
            q->bits[item] = 0;
            ref_push(&q->main, item);
            continue;
        }
        if (ghosts > 0)
            ref_push(&q->ghost, item);
        while (q->ghost.n > ghosts)
            ref_pop(&q->ghost);
        return item;
    }
    return REF_NOBODY;
}

static inline int ref_s3_take_main(RefQueues *q, RefIsKept is_kept, const void *context)
{
    bool any = false;
    for (int i = 0; i < q->main.n; i++)
        any = any || !is_kept(context, q->main.items[i]);
    while (any) {
        int item = ref_pop(&q->main);
        bool kept = is_kept(context, item);
        if (!kept && q->bits[item] == 0)
            return item;
        if (!kept)
            q->bits[item]--;
        ref_push(&q->main, item);
    }
    /* A whole round over members of A leaves the queue as it was. */
    return REF_NOBODY;
}

static inline int ref_s3_take(RefQueues *q, int capacity, RefIsKept is_kept, const void *context)
{
    int main = capacity - ref_s3_small_size(capacity);
    q->evicted_once = true;
    if (q->main.n > main || q->small.n == 0) {
        int item = ref_s3_take_main(q, is_kept, context);
        if (item != REF_NOBODY)
            return item;
    }
    int item = ref_s3_take_small(q, capacity, is_kept, context);
    return item != REF_NOBODY ? item : ref_s3_take_main(q, is_kept, context);
}

/* The least recent of QUEUE that may go. */
static inline int ref_arc_oldest(const RefQueue *queue, RefIsKept is_kept, const void *context)
{
    for (int i = queue->n - 1; i >= 0; i--)
        if (!is_kept(context, queue->items[i]))
            return queue->items[i];
    return REF_NOBODY;
}

static inline int ref_arc_replace(RefQueues *q, RefIsKept is_kept, const void *context)
{
    int t1 = ref_arc_oldest(&q->small, is_kept, context);
    int t2 = ref_arc_oldest(&q->main, is_kept, context);
    bool first = q->small.n >= 1 && (q->small.n > q->p || (q->origin == 2 && q->small.n == q->p));
    if ((first || t2 == REF_NOBODY) && t1 != REF_NOBODY) {
        ref_remove(&q->small, t1);
        ref_push(&q->ghost, t1);
        return t1;
    }
    ref_remove(&q->main, t2);
    ref_push(&q->ghost2, t2);
    return t2;
}

static inline int ref_arc_take(RefQueues *q, int capacity, RefIsKept is_kept, const void *context)
{
    int l1 = q->small.n + q->ghost.n;
    int t1 = ref_arc_oldest(&q->small, is_kept, context);
    if (q->origin != 0)
        return ref_arc_replace(q, is_kept, context);
    if (l1 >= capacity && q->ghost.n == 0 && t1 != REF_NOBODY) {
        ref_remove(&q->small, t1);
        return t1;
    }
    if (l1 >= capacity && q->ghost.n > 0)
        ref_pop(&q->ghost);
    else if (l1 < capacity && l1 + q->main.n + q->ghost2.n >= 2 * capacity && q->ghost2.n > 0)
        ref_pop(&q->ghost2);
    return ref_arc_replace(q, is_kept, context);
}

static inline void ref_arc_miss(RefQueues *q, int capacity, int item)
{
    double b1 = q->ghost.n;
    double b2 = q->ghost2.n;
    q->origin = ref_remove(&q->ghost, item) ? 1 : ref_remove(&q->ghost2, item) ? 2 : 0;
    if (q->origin == 1)
        q->p += b2 > b1 ? b2 / b1 : 1;
    if (q->origin == 2)
        q->p -= b1 > b2 ? b1 / b2 : 1;
    q->p = q->p > capacity ? capacity : q->p < 0 ? 0 : q->p;
}

static inline bool ref_is_queue_policy(const char *name)
{
    return strcmp(name, "clock") == 0 || strcmp(name, "sieve") == 0 ||
           strcmp(name, "s3-fifo") == 0 || strcmp(name, "arc") == 0;
}

static inline void ref_queues_hit(RefQueues *q, const char *name, int item)
{
    if (strcmp(name, "arc") == 0) {
        if (!ref_remove(&q->small, item))
            ref_remove(&q->main, item);
        ref_push(&q->main, item);
    } else if (strcmp(name, "s3-fifo") == 0) {
        q->bits[item] = q->bits[item] < 3 ? q->bits[item] + 1 : 3;
    } else {
        q->bits[item] = 1;
    }
}

static inline void ref_queues_miss(RefQueues *q, const char *name, int capacity, int item)
{
    if (strcmp(name, "arc") == 0)
        ref_arc_miss(q, capacity, item);
    if (strcmp(name, "s3-fifo") == 0)
        q->origin = ref_remove(&q->ghost, item) ? 1 : 0;
}

static inline void ref_queues_admit(RefQueues *q, const char *name, int capacity, int item)
{
    bool to_main = true;
    if (!ref_is_queue_policy(name))
        return;
    if (strcmp(name, "arc") == 0)
        to_main = q->origin != 0;
    if (strcmp(name, "s3-fifo") == 0)
        to_main = q->origin != 0 || (!q->evicted_once && q->small.n >= ref_s3_small_size(capacity));
    q->bits[item] = 0;
    ref_push(to_main ? &q->main : &q->small, item);
}

static inline int ref_queues_take(RefQueues *q, const char *name, int capacity, RefIsKept is_kept,
                                  const void *context)
{
    if (strcmp(name, "clock") == 0)
        return ref_clock_take(q, is_kept, context);
    if (strcmp(name, "sieve") == 0)
        return ref_sieve_take(q, is_kept, context);
    if (strcmp(name, "s3-fifo") == 0)
        return ref_s3_take(q, capacity, is_kept, context);
    return ref_arc_take(q, capacity, is_kept, context);
}

#endif
