#include "traces/recorder_check.h"

#include <inttypes.h>
#include <string.h>

#include "traces/layers.h"

Status recorder_check_options(const char *path, const RecorderOptions *options)
{
    if (options->ring_slots > 1u << 20)
        return fail(ERR_INPUT, "%s: ring_slots: %" PRIu32 ", allowed is 0 to %u", path,
                    options->ring_slots, 1u << 20);
    if (options->transaction_ns > (uint64_t)INT64_MAX / 2)
        return fail(ERR_INPUT, "%s: transaction_ns: %" PRIu64 " is too long", path,
                    options->transaction_ns);
    return OK;
}

Status recorder_check_head(const char *path, const TraceLayer *layers, uint32_t n_layers)
{
    TRY(layers_check(path, layers, n_layers, ERR_INPUT));
    for (uint32_t i = 0; i < n_layers; i++) {
        const TraceLayer *layer = &layers[i];
        if (memchr(layer->name, '\0', sizeof layer->name) == NULL ||
            memchr(layer->gate, '\0', sizeof layer->gate) == NULL)
            return fail(ERR_INPUT, "%s: layer %u: a text has no end", path, layer->layer);
        if (layer->expert_bytes > INT64_MAX)
            return fail(ERR_INPUT, "%s: layer %u: expert_bytes: %" PRIu64 " is too large", path,
                        layer->layer, layer->expert_bytes);
    }
    return OK;
}
