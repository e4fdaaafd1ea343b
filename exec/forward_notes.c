/* What a step took, on the device by its stamps and on the host by what it noted. */
#include "exec/forward_parts.h"

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
