#include "traces/shards.h"

#include <string.h>

#include "base/memory.h"
#include "traces/import_counts.h"
#include "traces/step_buffer.h"

#define NO_NUMBER UINT32_MAX

/* A request of the shard that is being read. */
typedef struct {
    uint32_t request; /* as in the shard */
    bool used;
    uint32_t number; /* as given out, or NO_NUMBER */
    uint32_t prompt_tokens;
    uint64_t arrival_ns;
} Entry;

/* What a shard says of a request. */
typedef struct {
    uint64_t arrival_ns;
    uint32_t prompt_tokens;
} Told;

struct TraceShards {
    const char *const *paths;
    size_t count;
    size_t next; /* shard to open next */
    TraceReader *reader;
    TraceLayer *layers;
    uint32_t n_layers;
    const char *fixed; /* the first shard whose tokens cannot be regrouped */
    const char *why;
    uint32_t steps;
    Entry *entries; /* [room], a power of two; open addressing */
    size_t room;
    size_t n_entries;
    Told *told; /* [told_room] by number */
    size_t told_room;
    uint32_t n_requests;
    void *numbers; /* uint32_t [tokens] of the step */
    size_t numbers_bytes;
};

static size_t find_place(const Entry *entries, size_t room, uint32_t request)
{
    size_t at = (request * 2654435761u) & (room - 1);
    while (entries[at].used && entries[at].request != request)
        at = (at + 1) & (room - 1);
    return at;
}

static Status grow_entries(TraceShards *shards)
{
    size_t room = shards->room > 0 ? 2 * shards->room : 256;
    Entry *entries;
    TRY(mem_new(&entries, room, sizeof *entries, "requests"));
    for (size_t i = 0; i < shards->room; i++)
        if (shards->entries[i].used)
            entries[find_place(entries, room, shards->entries[i].request)] = shards->entries[i];
    mem_free(shards->entries);
    shards->entries = entries;
    shards->room = room;
    return OK;
}

/* The entry of REQUEST, made when there is none. */
static Status take_entry(TraceShards *shards, uint32_t request, Entry **entry)
{
    if (2 * (shards->n_entries + 1) > shards->room)
        TRY(grow_entries(shards));
    Entry *found = &shards->entries[find_place(shards->entries, shards->room, request)];
    if (!found->used) {
        *found = (Entry){.request = request, .used = true, .number = NO_NUMBER};
        shards->n_entries++;
    }
    *entry = found;
    return OK;
}

static Status give_number(TraceShards *shards, Entry *entry)
{
    if (shards->n_requests == NO_NUMBER)
        return fail(ERR_INPUT, "%s: too many requests", shards->paths[shards->next - 1]);
    TRY(mem_grow(&shards->told, &shards->told_room, shards->n_requests, sizeof *shards->told,
                 "requests"));
    shards->told[shards->n_requests] = (Told){entry->arrival_ns, entry->prompt_tokens};
    entry->number = shards->n_requests++;
    return OK;
}

static Status check_layer(const char *path, const TraceLayer *layer, const TraceLayer *first)
{
    if (layer->layer != first->layer || layer->stack != first->stack)
        return fail(ERR_INPUT,
                    "%s: layer %u of the %s stands where the first trace has %u of the %s", path,
                    layer->layer, stack_name(layer->stack), first->layer, stack_name(first->stack));
    if (layer->experts != first->experts || layer->top_k != first->top_k)
        return fail(ERR_INPUT, "%s: layer %u: %u experts, top-%u; the first trace has %u, top-%u",
                    path, layer->layer, layer->experts, layer->top_k, first->experts, first->top_k);
    if (layer->expert_bytes != first->expert_bytes)
        return fail(ERR_INPUT, "%s: layer %u: %llu bytes an expert, the first trace has %llu", path,
                    layer->layer, (unsigned long long)layer->expert_bytes,
                    (unsigned long long)first->expert_bytes);
    return OK;
}

/* Keeps the layers of the first shard, and holds those of the others against them. */
static Status take_layers(TraceShards *shards, const char *path, const TraceReader *reader)
{
    uint32_t count;
    const TraceLayer *layers = trace_reader_layers(reader, &count);
    if (shards->layers == NULL) {
        TRY(mem_new(&shards->layers, count, sizeof *layers, "layers"));
        memcpy(shards->layers, layers, count * sizeof *layers);
        shards->n_layers = count;
    }
    if (count != shards->n_layers)
        return fail(ERR_INPUT, "%s: %u MoE layers, the first trace has %u", path, count,
                    shards->n_layers);
    for (uint32_t i = 0; i < count; i++)
        TRY(check_layer(path, &layers[i], &shards->layers[i]));
    return OK;
}

static Status look_at(TraceShards *shards, const char *path)
{
    TraceReader *reader;
    TRY(trace_reader_open(path, &reader));
    Status status = take_layers(shards, path, reader);
    const char *why = trace_cannot_regroup(trace_reader_run(reader));
    if (why != NULL && shards->fixed == NULL) {
        shards->fixed = path;
        shards->why = why;
    }
    trace_reader_close(reader);
    return status;
}

Status trace_shards_open(const char *const *paths, size_t count, TraceShards **out)
{
    TraceShards *shards;
    if (count == 0)
        return fail(ERR_INPUT, "no trace is given");
    TRY(mem_new(&shards, 1, sizeof *shards, "traces"));
    shards->paths = paths;
    shards->count = count;
    Status status = OK;
    for (size_t i = 0; i < count && status == OK; i++)
        status = look_at(shards, paths[i]);
    if (status != OK) {
        trace_shards_close(shards);
        return status;
    }
    *out = shards;
    return OK;
}

void trace_shards_close(TraceShards *shards)
{
    if (shards == NULL)
        return;
    trace_reader_close(shards->reader);
    mem_free(shards->layers);
    mem_free(shards->entries);
    mem_free(shards->told);
    mem_free(shards->numbers);
    mem_free(shards);
}

const TraceLayer *trace_shards_layers(const TraceShards *shards, uint32_t *count)
{
    *count = shards->n_layers;
    return shards->layers;
}

Status trace_shards_check_regroup(const TraceShards *shards)
{
    if (shards->fixed == NULL)
        return OK;
    return fail(ERR_INPUT, "%s: %s, so its tokens cannot be regrouped", shards->fixed, shards->why);
}

uint32_t trace_shards_requests(const TraceShards *shards)
{
    return shards->n_requests;
}

uint32_t trace_shards_prompt_tokens(const TraceShards *shards, uint32_t request)
{
    return shards->told[request].prompt_tokens;
}

uint64_t trace_shards_arrival_ns(const TraceShards *shards, uint32_t request)
{
    return shards->told[request].arrival_ns;
}

/* Opens the next shard and reads what it says of its requests. STATUS_END after the last. */
static Status next_shard(TraceShards *shards)
{
    trace_reader_close(shards->reader);
    shards->reader = NULL;
    if (shards->next == shards->count)
        return STATUS_END;
    if (shards->room > 0)
        memset(shards->entries, 0, shards->room * sizeof *shards->entries);
    shards->n_entries = 0;
    TRY(trace_reader_open(shards->paths[shards->next++], &shards->reader));
    for (;;) {
        TraceRequest request;
        Entry *entry;
        Status status = trace_reader_next_request(shards->reader, &request);
        if (status == STATUS_END)
            return OK;
        TRY(status);
        TRY(take_entry(shards, request.request, &entry));
        entry->prompt_tokens = request.prompt_tokens;
        entry->arrival_ns = request.arrival_ns;
    }
}

static Status renumber(TraceShards *shards, TraceStep *step)
{
    TRY(block_fit(&shards->numbers, &shards->numbers_bytes, step->tokens * sizeof(uint32_t),
                  "requests"));
    uint32_t *numbers = shards->numbers;
    for (uint32_t i = 0; i < step->tokens; i++) {
        Entry *entry;
        TRY(take_entry(shards, step->request[i], &entry));
        if (entry->number == NO_NUMBER)
            TRY(give_number(shards, entry));
        numbers[i] = entry->number;
    }
    step->request = numbers;
    if (shards->steps == UINT32_MAX)
        return fail(ERR_INPUT, "%s: too many steps", shards->paths[shards->next - 1]);
    step->step = shards->steps++;
    return OK;
}

Status trace_shards_next_step(TraceShards *shards, TraceStep *step)
{
    for (;;) {
        if (shards->reader == NULL)
            TRY(next_shard(shards));
        Status status = trace_reader_next_step(shards->reader, step);
        if (status == OK)
            return renumber(shards, step);
        if (status != STATUS_END)
            return status;
        TRY(next_shard(shards));
    }
}

const char *trace_shards_path(const TraceShards *shards)
{
    return shards->paths[shards->next - 1];
}

const TraceRun *trace_shards_run(const TraceShards *shards)
{
    return trace_reader_run(shards->reader);
}

Status trace_shards_prediction(TraceShards *shards, uint32_t distance, const uint16_t **experts,
                               const uint16_t **scores)
{
    return trace_reader_prediction(shards->reader, distance, experts, scores);
}
