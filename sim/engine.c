#include "sim/engine.h"

#include <assert.h>

#include "base/memory.h"

#define NONE UINT32_MAX

enum { PRIORITY_SHIFT = 48, FIRST_ROOM = 64 };

typedef enum { FREE, WAITING, QUEUED, RUNNING } TaskState;

typedef struct {
    uint64_t tag;
    uint64_t duration_ns;
    uint64_t ready_ns;
    uint64_t start_ns;
    uint64_t order;      /* priority, then sequence */
    uint32_t resource;   /* or ENGINE_NO_RESOURCE */
    uint32_t generation; /* of those that had this place, from 1 */
    uint32_t n_waits;    /* tasks that have not ended; 0: ready */
    uint32_t edges;      /* those that wait for it, in the order of engine_add() */
    uint32_t last_edge;
    uint32_t next; /* of a stream's queue, or of the free places */
    uint32_t previous;
    TaskState state;
} Task;

/* WAITER waits for the task whose list this is in. */
typedef struct {
    uint32_t waiter;
    uint32_t generation; /* of the waiter; another one: it was cancelled */
    uint32_t next;
} Edge;

typedef struct {
    uint64_t first;
    uint64_t second;
    uint32_t task;
} Entry;

/* A heap of four children a node, smallest (first, second) on top. */
typedef struct {
    Entry *entries;
    uint32_t size;
    uint32_t room;
} Entries;

typedef struct {
    EngineQueue queue;
    uint32_t free_servers;
    uint32_t head; /* stream: the tasks that have not begun, in order */
    uint32_t tail;
    Entries ready; /* priority: the ready ones */
} Resource;

struct Engine {
    uint64_t now_ns;
    uint64_t sequence; /* of the next task */
    uint64_t readied;  /* tasks that became ready so far */
    uint32_t pending;
    uint32_t n_resources;
    Resource *resources;
    Task *tasks; /* [room] */
    uint32_t room;
    uint32_t free_task;
    Edge *edges; /* [edge_room] */
    uint32_t edge_room;
    uint32_t free_edge;
    uint32_t free_edges; /* how many */
    Entries running;     /* (end, order) */
};

static bool is_before(const Entry *a, const Entry *b)
{
    return a->first != b->first ? a->first < b->first : a->second < b->second;
}

static Status entries_grow(Entries *heap, uint32_t size)
{
    if (size <= heap->room)
        return OK;
    uint32_t room = heap->room > 0 ? 2 * heap->room : FIRST_ROOM;
    room = room < size ? size : room;
    Entry *entries = mem_resize(heap->entries, room, sizeof *entries);
    if (entries == NULL)
        return fail_memory("simulated events", room * sizeof *entries);
    heap->entries = entries;
    heap->room = room;
    return OK;
}

/* Moves ENTRY, which belongs at AT or nearer to the top, to its place. */
static void entries_rise(Entries *heap, uint32_t at, Entry entry)
{
    while (at > 0 && is_before(&entry, &heap->entries[(at - 1) / 4])) {
        heap->entries[at] = heap->entries[(at - 1) / 4];
        at = (at - 1) / 4;
    }
    heap->entries[at] = entry;
}

static void entries_push(Entries *heap, Entry entry)
{
    assert(heap->size < heap->room);
    entries_rise(heap, heap->size++, entry);
}

static uint32_t least_child(const Entries *heap, uint32_t first)
{
    uint32_t end = first + 4 < heap->size ? first + 4 : heap->size;
    uint32_t least = first;
    for (uint32_t i = first + 1; i < end; i++)
        least = is_before(&heap->entries[i], &heap->entries[least]) ? i : least;
    return least;
}

static Entry entries_pop(Entries *heap)
{
    Entry top = heap->entries[0];
    Entry last = heap->entries[--heap->size];
    uint32_t at = 0;
    while (4 * at + 1 < heap->size) {
        uint32_t child = least_child(heap, 4 * at + 1);
        if (!is_before(&heap->entries[child], &last))
            break;
        heap->entries[at] = heap->entries[child];
        at = child;
    }
    heap->entries[at] = last;
    return top;
}

/* Takes the entry of TASK out, wherever it is. */
static void entries_remove(Entries *heap, uint32_t task)
{
    uint32_t at = 0;
    while (heap->entries[at].task != task)
        at++;
    entries_rise(heap, at, (Entry){.task = task});
    entries_pop(heap);
}

static void start_empty(Engine *engine, const EngineResource *resources)
{
    engine->free_task = NONE;
    engine->free_edge = NONE;
    engine->readied = 1; /* entries_remove() lifts above all others */
    for (uint32_t i = 0; i < engine->n_resources; i++) {
        assert(resources[i].servers > 0);
        assert(resources[i].queue != ENGINE_STREAM || resources[i].servers == 1);
        engine->resources[i] = (Resource){.queue = resources[i].queue,
                                          .free_servers = resources[i].servers,
                                          .head = NONE,
                                          .tail = NONE};
    }
}

Status engine_new(const EngineResource *resources, uint32_t n_resources, Engine **out)
{
    Engine *engine;
    TRY(mem_new(&engine, 1, sizeof *engine, "simulated events"));
    engine->n_resources = n_resources;
    Status status =
        mem_new(&engine->resources, n_resources, sizeof *engine->resources, "simulated resources");
    if (status != OK) {
        engine_free(engine);
        return status;
    }
    start_empty(engine, resources);
    *out = engine;
    return OK;
}

void engine_free(Engine *engine)
{
    if (engine == NULL)
        return;
    for (uint32_t i = 0; engine->resources != NULL && i < engine->n_resources; i++)
        mem_free(engine->resources[i].ready.entries);
    mem_free(engine->resources);
    mem_free(engine->running.entries);
    mem_free(engine->edges);
    mem_free(engine->tasks);
    mem_free(engine);
}

/* More places for tasks, and heaps that hold all of them. */
static Status grow_tasks(Engine *engine)
{
    uint32_t room = engine->room > 0 ? 2 * engine->room : FIRST_ROOM;
    if (room > UINT32_MAX / 4)
        return fail_memory("simulated tasks", room * sizeof *engine->tasks);
    TRY(entries_grow(&engine->running, room));
    Task *tasks = mem_resize(engine->tasks, room, sizeof *tasks);
    if (tasks == NULL)
        return fail_memory("simulated tasks", room * sizeof *tasks);
    engine->tasks = tasks;
    for (uint32_t i = room; i-- > engine->room;) {
        tasks[i] = (Task){.generation = 1, .next = engine->free_task};
        engine->free_task = i;
    }
    engine->room = room;
    return OK;
}

static Status grow_edges(Engine *engine, size_t wanted)
{
    while (engine->free_edges < wanted) {
        uint32_t room = engine->edge_room > 0 ? 2 * engine->edge_room : FIRST_ROOM;
        Edge *edges =
            room <= UINT32_MAX / 4 ? mem_resize(engine->edges, room, sizeof *edges) : NULL;
        if (edges == NULL)
            return fail_memory("simulated tasks", room * sizeof *edges);
        engine->edges = edges;
        for (uint32_t i = room; i-- > engine->edge_room;) {
            edges[i].next = engine->free_edge;
            engine->free_edge = i;
        }
        engine->free_edges += room - engine->edge_room;
        engine->edge_room = room;
    }
    return OK;
}

/* All that one more task may need, so that nothing fails once it is there. */
static Status make_room(Engine *engine, const EngineSpec *spec, size_t n_after)
{
    if (engine->free_task == NONE)
        TRY(grow_tasks(engine));
    TRY(grow_edges(engine, n_after));
    if (spec->resource == ENGINE_NO_RESOURCE)
        return OK;
    Resource *resource = &engine->resources[spec->resource];
    if (resource->queue == ENGINE_PRIORITY && resource->ready.room < engine->room)
        return entries_grow(&resource->ready, engine->room);
    return OK;
}

static EngineTask name_of(const Engine *engine, uint32_t index)
{
    return (uint64_t)engine->tasks[index].generation << 32 | index;
}

static bool find(const Engine *engine, EngineTask task, uint32_t *index)
{
    *index = (uint32_t)task;
    return task != 0 && *index < engine->room &&
           engine->tasks[*index].generation == (uint32_t)(task >> 32) &&
           engine->tasks[*index].state != FREE;
}

static void start(Engine *engine, uint32_t index)
{
    Task *task = &engine->tasks[index];
    task->state = RUNNING;
    task->start_ns = engine->now_ns;
    entries_push(
        &engine->running,
        (Entry){.first = engine->now_ns + task->duration_ns, .second = task->order, .task = index});
}

static void unlink_task(Engine *engine, Resource *resource, uint32_t index)
{
    const Task *task = &engine->tasks[index];
    if (task->previous != NONE)
        engine->tasks[task->previous].next = task->next;
    else
        resource->head = task->next;
    if (task->next != NONE)
        engine->tasks[task->next].previous = task->previous;
    else
        resource->tail = task->previous;
}

static void append_task(Engine *engine, Resource *resource, uint32_t index)
{
    Task *task = &engine->tasks[index];
    task->next = NONE;
    task->previous = resource->tail;
    if (resource->tail != NONE)
        engine->tasks[resource->tail].next = index;
    else
        resource->head = index;
    resource->tail = index;
}

/* Begins what the resource is free for. */
static void serve(Engine *engine, Resource *resource)
{
    if (resource->queue == ENGINE_STREAM) {
        uint32_t head = resource->head;
        if (resource->free_servers == 0 || head == NONE || engine->tasks[head].n_waits > 0)
            return;
        resource->free_servers--;
        unlink_task(engine, resource, head);
        start(engine, head);
        return;
    }
    while (resource->free_servers > 0 && resource->ready.size > 0) {
        resource->free_servers--;
        start(engine, entries_pop(&resource->ready).task);
    }
}

static void become_ready(Engine *engine, uint32_t index)
{
    Task *task = &engine->tasks[index];
    task->ready_ns = engine->now_ns;
    task->state = QUEUED;
    if (task->resource == ENGINE_NO_RESOURCE) {
        start(engine, index);
        return;
    }
    Resource *resource = &engine->resources[task->resource];
    if (resource->queue == ENGINE_PRIORITY) {
        uint64_t priority = task->order >> PRIORITY_SHIFT << PRIORITY_SHIFT;
        entries_push(&resource->ready,
                     (Entry){.first = priority | engine->readied++, .task = index});
    }
}

static void add_edge(Engine *engine, uint32_t from, uint32_t waiter)
{
    uint32_t at = engine->free_edge;
    Task *task = &engine->tasks[from];
    engine->free_edge = engine->edges[at].next;
    engine->free_edges--;
    engine->edges[at] =
        (Edge){.waiter = waiter, .generation = engine->tasks[waiter].generation, .next = NONE};
    if (task->edges == NONE)
        task->edges = at;
    else
        engine->edges[task->last_edge].next = at;
    task->last_edge = at;
    engine->tasks[waiter].n_waits++;
}

static uint32_t take_task(Engine *engine, const EngineSpec *spec)
{
    uint32_t index = engine->free_task;
    Task *task = &engine->tasks[index];
    engine->free_task = task->next;
    *task = (Task){.tag = spec->tag,
                   .duration_ns = spec->duration_ns,
                   .order = (uint64_t)spec->priority << PRIORITY_SHIFT | engine->sequence++,
                   .resource = spec->resource,
                   .generation = task->generation,
                   .edges = NONE,
                   .state = WAITING};
    engine->pending++;
    return index;
}

Status engine_add(Engine *engine, const EngineSpec *spec, const EngineTask *after, size_t n_after,
                  EngineTask *task)
{
    assert(spec->priority < ENGINE_PRIORITIES);
    assert(spec->resource == ENGINE_NO_RESOURCE || spec->resource < engine->n_resources);
    TRY(make_room(engine, spec, n_after));
    uint32_t index = take_task(engine, spec);
    for (size_t i = 0; i < n_after; i++) {
        uint32_t from;
        if (find(engine, after[i], &from))
            add_edge(engine, from, index);
    }
    Resource *resource =
        spec->resource != ENGINE_NO_RESOURCE ? &engine->resources[spec->resource] : NULL;
    if (resource != NULL && resource->queue == ENGINE_STREAM)
        append_task(engine, resource, index);
    if (engine->tasks[index].n_waits == 0)
        become_ready(engine, index);
    if (resource != NULL)
        serve(engine, resource);
    *task = name_of(engine, index);
    return OK;
}

/* The waiter of EDGE, unless it was cancelled. */
static Task *waiter_of(const Engine *engine, const Edge *edge)
{
    Task *waiter = &engine->tasks[edge->waiter];
    return waiter->generation == edge->generation ? waiter : NULL;
}

/* Those that waited have one wait less; all that are ready now compete for their resources. */
static void tell_waiters(Engine *engine, uint32_t first)
{
    for (uint32_t at = first; at != NONE; at = engine->edges[at].next) {
        Task *waiter = waiter_of(engine, &engine->edges[at]);
        if (waiter != NULL && --waiter->n_waits == 0)
            become_ready(engine, engine->edges[at].waiter);
    }
    for (uint32_t at = first; at != NONE; at = engine->edges[at].next) {
        const Task *waiter = waiter_of(engine, &engine->edges[at]);
        if (waiter != NULL && waiter->n_waits == 0 && waiter->resource != ENGINE_NO_RESOURCE)
            serve(engine, &engine->resources[waiter->resource]);
    }
}

static void free_edges(Engine *engine, uint32_t first, uint32_t last)
{
    for (uint32_t at = first; at != NONE; at = engine->edges[at].next)
        engine->free_edges++;
    if (first != NONE) {
        engine->edges[last].next = engine->free_edge;
        engine->free_edge = first;
    }
}

/* Frees the place of a task that is over, and tells those that waited for it. */
static void let_go(Engine *engine, uint32_t index)
{
    Task *task = &engine->tasks[index];
    task->state = FREE;
    task->generation += task->generation == UINT32_MAX ? 2 : 1;
    task->next = engine->free_task;
    engine->free_task = index;
    engine->pending--;
    tell_waiters(engine, task->edges);
    free_edges(engine, task->edges, task->last_edge);
}

bool engine_cancel(Engine *engine, EngineTask name)
{
    uint32_t index;
    if (!find(engine, name, &index) || engine->tasks[index].state == RUNNING)
        return false;
    uint32_t number = engine->tasks[index].resource;
    Resource *resource = number != ENGINE_NO_RESOURCE ? &engine->resources[number] : NULL;
    bool stream = resource != NULL && resource->queue == ENGINE_STREAM;
    if (stream)
        unlink_task(engine, resource, index);
    else if (engine->tasks[index].state == QUEUED)
        entries_remove(&resource->ready, index);
    let_go(engine, index);
    if (stream)
        serve(engine, resource);
    return true;
}

bool engine_begun(const Engine *engine, EngineTask name, uint64_t *end_ns)
{
    uint32_t index;
    if (!find(engine, name, &index) || engine->tasks[index].state != RUNNING)
        return false;
    *end_ns = engine->tasks[index].start_ns + engine->tasks[index].duration_ns;
    return true;
}

bool engine_next(Engine *engine, EngineEvent *event)
{
    if (engine->running.size == 0)
        return false;
    Entry entry = entries_pop(&engine->running);
    const Task *task = &engine->tasks[entry.task];
    Resource *resource =
        task->resource != ENGINE_NO_RESOURCE ? &engine->resources[task->resource] : NULL;
    engine->now_ns = entry.first;
    *event = (EngineEvent){.task = name_of(engine, entry.task),
                           .tag = task->tag,
                           .resource = task->resource,
                           .ready_ns = task->ready_ns,
                           .start_ns = task->start_ns,
                           .end_ns = entry.first};
    if (resource != NULL)
        resource->free_servers++;
    let_go(engine, entry.task);
    if (resource != NULL)
        serve(engine, resource);
    return true;
}

uint64_t engine_now(const Engine *engine)
{
    return engine->now_ns;
}

uint32_t engine_pending(const Engine *engine)
{
    return engine->pending;
}
