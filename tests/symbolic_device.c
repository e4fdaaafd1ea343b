#include "tests/symbolic_device.h"

static SymbolicSlot *slot_at(Device *device, const void *address)
{
    for (uint32_t i = 0; i < device->n_slots; i++)
        if (device->slots[i].address == address)
            return &device->slots[i];
    assert_true(device->n_slots < SYMBOLIC_SLOTS);
    device->slots[device->n_slots] = (SymbolicSlot){.address = address};
    return &device->slots[device->n_slots++];
}

const void *symbolic_content(const Device *device, const void *address)
{
    for (uint32_t i = 0; i < device->n_slots; i++)
        if (device->slots[i].address == address)
            return device->slots[i].whole ? device->slots[i].expert : NULL;
    return NULL;
}

static bool is_last_part(const Load *load)
{
    return load->parts == 0 || load->end_part == load->parts;
}

/* The link begins the next copy, or ends it. False: it cannot. */
static bool move_link(Device *device)
{
    if (device->copies_done == device->n_copies)
        return false;
    const SymbolicCopy *copy = &device->copies[device->copies_done];
    SymbolicSlot *slot = slot_at(device, copy->load.slot);
    if (device->copying) {
        slot->whole = is_last_part(&copy->load);
        device->copying = false;
        device->copies_done++;
        return true;
    }
    if (copy->after > device->runs_done)
        return false;
    if (copy->load.first_part > 0 && (slot->expert != copy->load.kept || slot->whole))
        fail_msg("a part of an expert goes into a slot that holds another");
    slot->expert = copy->load.kept;
    slot->whole = false;
    device->copying = true;
    return true;
}

static bool move_queue(Device *device)
{
    if (device->runs_done == device->n_runs)
        return false;
    const SymbolicRun *run = &device->runs[device->runs_done];
    if (run->n_jobs == 0 && device->copies_done < run->copies)
        return false;
    for (uint32_t i = 0; i < run->n_jobs; i++)
        if (symbolic_content(device, run->address[i]) != run->expert[i])
            fail_msg("an expert is computed from a slot that does not hold it");
    device->runs_done++;
    return true;
}

/* One step of either; only where none can move, both are at their ends. */
static bool move_on(Device *device)
{
    bool link_first = random_below(&device->random, 8) < device->copy_speed;
    if (link_first)
        return move_link(device) || move_queue(device);
    return move_queue(device) || move_link(device);
}

static void move_by_chance(Device *device)
{
    for (uint32_t n = random_below(&device->random, 4); n > 0; n--)
        if (random_below(&device->random, 8) < device->copy_speed)
            move_link(device);
        else
            move_queue(device);
}

void symbolic_finish(Device *device)
{
    while (move_on(device))
        ;
    assert_true(device->runs_done == device->n_runs && device->copies_done == device->n_copies);
}

void symbolic_begin_step(Device *device)
{
    symbolic_finish(device);
    device->n_runs = device->runs_done = 0;
    device->n_copies = device->copies_done = 0;
}

static Status keep_expert(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                          const void **kept)
{
    (void)device;
    (void)shape;
    *kept = tensors;
    return OK;
}

static Status store_expert(Device *device, const FfnShape *shape, const FfnTensors *tensors,
                           void *to)
{
    (void)shape;
    SymbolicSlot *slot = slot_at(device, to);
    slot->expert = tensors;
    slot->whole = true;
    return OK;
}

static Status load(Device *device, const Load *loads, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_true(device->n_copies < SYMBOLIC_QUEUE && loads[i].ticket < SYMBOLIC_QUEUE);
        assert_true(loads[i].parts == 0 || loads[i].first_part < loads[i].end_part);
        device->copies[device->n_copies++] =
            (SymbolicCopy){.load = loads[i], .after = loads[i].after_queue ? device->n_runs : 0};
        device->last_copy_of[loads[i].ticket] = device->n_copies;
        device->gated += loads[i].after_queue && device->runs_done < device->n_runs;
        device->split += loads[i].parts > 1;
    }
    move_by_chance(device);
    return OK;
}

static Status await_loads(Device *device, const uint32_t *tickets, uint32_t n)
{
    uint64_t copies = 0;
    for (uint32_t i = 0; i < n; i++)
        if (device->last_copy_of[tickets[i]] > copies)
            copies = device->last_copy_of[tickets[i]];
    assert_true(device->n_runs < SYMBOLIC_QUEUE);
    device->runs[device->n_runs++] = (SymbolicRun){.copies = copies};
    return OK;
}

static Status run_experts(Device *device, const ExpertBatch *batch, const ExpertJob *jobs,
                          uint32_t n_jobs, const float *in, void *out)
{
    const SymbolicBatch *of = (const SymbolicBatch *)(const void *)batch;
    (void)in;
    (void)out;
    assert_true(device->n_runs < SYMBOLIC_QUEUE && n_jobs <= SYMBOLIC_JOBS && n_jobs > 0);
    SymbolicRun *run = &device->runs[device->n_runs++];
    *run = (SymbolicRun){.n_jobs = n_jobs};
    for (uint32_t i = 0; i < n_jobs; i++) {
        run->address[i] = batch->slots + jobs[i].slot * batch->slot_stride;
        run->expert[i] = &of->experts[jobs[i].expert];
    }
    move_by_chance(device);
    return OK;
}

static Status link_idle(Device *device, bool *idle)
{
    move_by_chance(device);
    *idle = device->copies_done == device->n_copies;
    return OK;
}

static Status poll_queue(Device *device, bool *done)
{
    move_on(device);
    move_by_chance(device);
    *done = device->runs_done == device->n_runs;
    return OK;
}

/* For the queue; the link goes on as it likes. */
static Status wait_for_queue(Device *device)
{
    while (device->runs_done < device->n_runs)
        assert_true(move_on(device));
    return OK;
}

static Status load_time(Device *device, uint32_t ticket, uint64_t *start_ns, uint64_t *duration_ns)
{
    while (device->copies_done < device->last_copy_of[ticket])
        assert_true(move_on(device));
    *start_ns = 1000 * (uint64_t)ticket;
    *duration_ns = ticket + 1;
    return OK;
}

static Status upload(Device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    (void)to;
    (void)from;
    (void)bytes;
    return OK;
}

const Backend SYMBOLIC = {.name = "symbolic",
                          .keep_expert = keep_expert,
                          .store_expert = store_expert,
                          .load = load,
                          .await_loads = await_loads,
                          .run_experts = run_experts,
                          .link_idle = link_idle,
                          .poll = poll_queue,
                          .wait = wait_for_queue,
                          .load_time = load_time,
                          .upload = upload};
