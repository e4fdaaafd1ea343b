/* Spans of tokens at random places of a small cache, for the tests of what fills and reads it. */
#ifndef TESTS_GPU_RANDOM_SPANS_H
#define TESTS_GPU_RANDOM_SPANS_H

#include "tests/gpu/gpu_support.h"

enum { SLOTS = 4, POSITIONS = 700, MAX_SPANS = 4 };

/* Of a number, by rounding it to bf16. */
static const float BF16_ROUNDING = 1.0f / 256;

/* Spans of random lengths at random places; a decoder's keys end with its own tokens. */
static Spans random_spans(uint64_t *state, uint32_t n, uint32_t most_tokens, Span *host)
{
    Spans spans = {.host = host, .n = n};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t tokens = 1 + random_below(state, most_tokens);
        uint32_t position = random_below(state, POSITIONS - tokens + 1);
        host[i] = (Span){.kv_slot = SLOTS - 1 - i,
                         .first_token = spans.tokens,
                         .tokens = tokens,
                         .position = position,
                         .keys = position + tokens};
        spans.tokens += tokens;
        spans.most_keys = host[i].keys > spans.most_keys ? host[i].keys : spans.most_keys;
    }
    spans.device = gpu_upload(host, n * sizeof *host);
    return spans;
}

#endif
