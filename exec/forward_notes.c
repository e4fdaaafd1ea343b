/* What a step took, on the device by its stamps and on the host by what it noted. */
#include "base/clock.h"
#include "exec/forward_parts.h"

/* ---- while it is queued ---- */

HostSpan forward_span(uint64_t start_ns)
{
    return (HostSpan){start_ns, clock_ns() - start_ns};
}

static Status stamp(const Step *step)
{
    Forward *f = step->forward;
    if (!step->input->timing)
        return OK;
    TRY(f->backend->stamp(f->device, step->ops->n_stamps++));
    f->notes.stamp_ns = clock_ns();
    return OK;
}

Status forward_stamp(const Step *step, uint32_t layer, Op op)
{
    Forward *f = step->forward;
    HostNotes *notes = &f->notes;
    TRY(expert_slots_hand_over(&f->slots));
    if (!step->input->timing && !step->waits)
        return OK;
    uint64_t now_ns = clock_ns();
    notes->ops[step->ops->n] = (HostSpan){notes->stamp_ns, now_ns - notes->stamp_ns};
    notes->stamp_ns = now_ns;
    step->ops->layer[step->ops->n] = layer;
    step->ops->end[step->ops->n] = step->ops->n_stamps;
    step->ops->op[step->ops->n++] = op;
    return stamp(step);
}

static bool is_held(const Step *step)
{
    return step->input->timing && step->input->held && step->waits;
}

Status forward_hold(const Step *step)
{
    const Forward *f = step->forward;
    if (!is_held(step))
        return OK;
    TRY(f->backend->hold(f->device));
    return stamp(step);
}

Status forward_begin_notes(const Step *step)
{
    step->ops->n = step->ops->n_stamps = 0;
    step->forward->notes.stamp_ns = clock_ns();
    return is_held(step) ? forward_hold(step) : stamp(step);
}

void forward_release(const Step *step)
{
    if (is_held(step))
        step->forward->backend->release(step->forward->device);
}

/* ---- when it is over ---- */

Status forward_read_stamps(const Step *step, uint64_t wall_offset_ns, StepOutput *output)
{
    const Forward *f = step->forward;
    const Stamps *stamps = &f->stamps;
    const OpList *ops = step->ops;
    TRY(f->backend->stamp_times(f->device, ops->n_stamps, stamps->ns));
    for (uint32_t i = 0; i < ops->n; i++) {
        const uint64_t *end_ns = &stamps->ns[ops->end[i]];
        stamps->records[i] = (TimingRecord){.layer = ops->layer[i],
                                            .op = ops->op[i],
                                            .start_ns = end_ns[-1] + wall_offset_ns,
                                            .duration_ns = end_ns[0] - end_ns[-1]};
    }
    output->timing = stamps->records;
    output->n_timing = ops->n;
    return OK;
}

/* SPANS of clock_ns() become those of clock_wall_ns(). */
static void move_spans(HostSpan *spans, size_t n, uint64_t wall_offset_ns)
{
    for (size_t i = 0; i < n; i++)
        spans[i].start_ns += wall_offset_ns;
}

void forward_read_notes(const Step *step, uint64_t wall_offset_ns, StepOutput *output)
{
    Forward *f = step->forward;
    HostNotes *notes = &f->notes;
    bool noted = !step->repeated && (step->input->timing || step->waits);
    uint32_t n_ops = noted ? step->ops->n : 0;
    move_spans(notes->ops, n_ops, wall_offset_ns);
    move_spans(f->slots.load_calls, f->slots.n_loads, wall_offset_ns);
    move_spans(&notes->queue, 1, wall_offset_ns);
    move_spans(&notes->wait, 1, wall_offset_ns);
    for (uint32_t i = 0; i < notes->n_events; i++) {
        move_spans(&notes->events[i].wait, 1, wall_offset_ns);
        move_spans(&notes->events[i].decide, 1, wall_offset_ns);
    }
    output->host = (HostTimes){.ops = noted ? notes->ops : NULL,
                               .n_ops = n_ops,
                               .events = notes->events,
                               .n_events = notes->n_events,
                               .loads = f->slots.load_calls,
                               .n_loads = f->slots.n_loads,
                               .queue = notes->queue,
                               .wait = notes->wait};
}
