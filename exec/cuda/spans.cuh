/* Finding a block's work among the spans of a step, which only the device knows. */
#ifndef EXEC_CUDA_SPANS_CUH
#define EXEC_CUDA_SPANS_CUH

#include "exec/cuda/ops.h"

/* Up to TOKENS consecutive tokens of one span. */
struct SpanTile {
    Span span;
    uint32_t first;  /* token of the span */
    uint32_t tokens; /* 0: there is no such tile */
};

/* Tiles of TOKENS that spans of so many tokens may have at the most. */
static inline uint32_t most_tiles(const Spans *spans, uint32_t tokens)
{
    return spans->n + (spans->tokens - spans->n) / tokens;
}

__device__ inline SpanTile cut_tile(const Span &span, uint32_t first, uint32_t tokens)
{
    return {span, first, min(tokens, span.tokens - first)};
}

/* When decoding, the span at a token's number begins with it, and each before it has one token. */
__device__ inline bool begins(const Span &span, uint32_t token)
{
    return span.first_token == token && span.tokens > 0;
}

/* Tile INDEX when spans are cut into tiles of TOKENS; for a whole warp, each lane gets it. */
__device__ inline SpanTile find_tile(const Span *spans, uint32_t n_spans, uint32_t index,
                                     uint32_t tokens)
{
    uint32_t lane = threadIdx.x % 32;
    uint32_t before = 0;
    if (index < n_spans && begins(spans[index], index))
        return cut_tile(spans[index], 0, tokens);
    for (uint32_t base = 0; base < n_spans; base += 32) {
        uint32_t i = base + lane;
        uint32_t own = i < n_spans ? (spans[i].tokens + tokens - 1) / tokens : 0;
        uint32_t end = own;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            uint32_t left = __shfl_up_sync(0xFFFFFFFF, end, step);
            end += lane >= step ? left : 0;
        }
        end += before;
        uint32_t found = __ballot_sync(0xFFFFFFFF, index < end);
        if (found != 0) {
            uint32_t owner = __ffs(found) - 1;
            uint32_t start = __shfl_sync(0xFFFFFFFF, end - own, owner);
            return cut_tile(spans[base + owner], (index - start) * tokens, tokens);
        }
        before = __shfl_sync(0xFFFFFFFF, end, 31);
    }
    return {};
}

/* The span of TOKEN, by its place among the spans; TOKENS is 0 when it has none. */
__device__ inline SpanTile find_token(const Span *spans, uint32_t n_spans, uint32_t token)
{
    if (token < n_spans && begins(spans[token], token))
        return {spans[token], 0, 1};
    uint32_t low = 0;
    uint32_t high = n_spans;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (spans[middle].first_token <= token)
            low = middle;
        else
            high = middle;
    }
    const Span span = spans[low];
    uint32_t first = token - span.first_token;
    return {span, first, first < span.tokens ? 1u : 0u};
}

#endif
