/* Which steps run directly, which become a graph, and which launch or repeat one
 * (exec/cuda/backend_graphs.c).
 */
#include <string.h>

#include "base/memory.h"
#include "sim/timing_parts.h"

/* As many keys at a time count as one shape. */
enum { KEYS_AT_ONCE = 256 };

static uint32_t round_keys(uint32_t keys)
{
    return (keys + KEYS_AT_ONCE - 1) / KEYS_AT_ONCE;
}

static Status grow(Timing *timing)
{
    uint32_t room = timing->shape_room > 0 ? 2 * timing->shape_room : 64;
    if (timing->n_shapes < timing->shape_room)
        return OK;
    TRY(mem_resize_array(&timing->shapes, room, sizeof *timing->shapes,
                         "simulated shapes of steps"));
    TRY(mem_resize_array(&timing->next_mode, room, sizeof *timing->next_mode,
                         "simulated shapes of steps"));
    timing->shape_room = room;
    return OK;
}

Status timing_step_mode(Timing *timing, const StepFeatures *step, StepMode *mode)
{
    const SeenShape shape = {.stack = step->stack,
                             .tokens = step->tokens,
                             .requests = step->requests,
                             .keys = round_keys(step->most_keys),
                             .source_keys = round_keys(step->most_source)};
    *mode = STEP_REPEATED;
    if (timing->one_thread || timing->options.warm)
        return OK;
    for (uint32_t i = timing->n_shapes; i-- > 0;) {
        if (memcmp(&timing->shapes[i], &shape, sizeof shape) != 0)
            continue;
        if (timing->next_mode[i] < STEP_REPEATED)
            *mode = timing->next_mode[i]++;
        return OK;
    }
    TRY(grow(timing));
    timing->shapes[timing->n_shapes] = shape;
    timing->next_mode[timing->n_shapes++] = STEP_CAPTURED;
    *mode = STEP_FIRST;
    return OK;
}
