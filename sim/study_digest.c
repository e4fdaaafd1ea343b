#include "sim/study_digest.h"

#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"

static uint32_t crc_u64(uint32_t crc, uint64_t value)
{
    return crc32c(crc, &value, sizeof value);
}

static uint32_t crc_of_routing(const PackedTrace *trace)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        const TraceLayer *layer = &trace->layers[i];
        crc = crc_u64(crc, layer->layer);
        crc = crc_u64(crc, layer->experts);
        crc = crc_u64(crc, layer->expert_bytes);
    }
    crc = crc32c(crc, trace->step_id, trace->n_steps * sizeof *trace->step_id);
    crc = crc32c(crc, trace->step_events, trace->n_steps * sizeof *trace->step_events);
    crc = crc32c(crc, trace->step_first_layer, trace->n_steps * sizeof *trace->step_first_layer);
    crc = crc32c(crc, trace->n_active, trace->n_events * sizeof *trace->n_active);
    crc = crc32c(crc, trace->experts, trace->n_lookups * sizeof *trace->experts);
    crc = crc32c(crc, trace->counts, trace->counts_bytes);
    crc = crc32c(crc, trace->touches, trace->touches_bytes);
    return crc32c(crc, trace->step_phase, trace->n_steps * sizeof *trace->step_phase);
}

TraceDigest study_trace_digest(const PackedTrace *trace, const TraceSignals *signals)
{
    TraceDigest digest;
    int used = snprintf(digest.text, sizeof digest.text, "steps=%llu lookups=%llu crc32c=%08x",
                        (unsigned long long)trace->n_steps, (unsigned long long)trace->n_lookups,
                        crc_of_routing(trace));
    for (size_t i = 0; signals != NULL; i++) {
        char word[64];
        uint32_t crc;
        if (!trace_signals_digest(signals, i, word, sizeof word, &crc))
            break;
        size_t room = sizeof digest.text - (size_t)used;
        if (strlen(word) + 11 < room)
            used += snprintf(digest.text + used, room, " %s=%08x", word, crc);
    }
    return digest;
}

uint32_t study_signals_crc(const TraceSignals *signals)
{
    char word[64];
    uint32_t crc = 0;
    uint32_t of_kind;
    for (size_t i = 0; signals != NULL; i++) {
        if (!trace_signals_digest(signals, i, word, sizeof word, &of_kind))
            break;
        crc = crc_u64(crc32c(crc, word, strlen(word)), of_kind);
    }
    return crc;
}

/* The value of KEY[length] in TEXT, up to the next space; NULL when it has none. */
static const char *value_of(const char *text, const char *key, size_t length, size_t *bytes)
{
    for (; *text != '\0'; text += strcspn(text, " ")) {
        text += strspn(text, " ");
        if (strncmp(text, key, length) == 0 && text[length] == '=') {
            *bytes = strcspn(text + length + 1, " ");
            return text + length + 1;
        }
    }
    return NULL;
}

bool study_digests_agree(const char *left, const char *right)
{
    static const char *const NEEDED[] = {"steps", "lookups", "crc32c"};
    size_t a = 0;
    size_t b = 0;
    for (size_t i = 0; i < sizeof NEEDED / sizeof NEEDED[0]; i++)
        if (value_of(left, NEEDED[i], strlen(NEEDED[i]), &a) == NULL ||
            value_of(right, NEEDED[i], strlen(NEEDED[i]), &b) == NULL)
            return false;
    for (const char *word = left; *word != '\0'; word += strcspn(word, " ")) {
        word += strspn(word, " ");
        size_t length = strcspn(word, "= ");
        const char *own = value_of(left, word, length, &a);
        const char *other = value_of(right, word, length, &b);
        if (own != NULL && other != NULL && (a != b || memcmp(own, other, a) != 0))
            return false;
    }
    return true;
}
