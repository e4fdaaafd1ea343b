#include "exec/best_token.h"

enum { LANES = 16, BLOCK = 1024 };

/* Lanes do not wait for one another, so that a compiler turns them into vectors. */
static float largest_of(const float *logits, uint32_t n)
{
    float lanes[LANES];
    uint32_t whole = n - n % LANES;
    float largest = logits[0];
    for (uint32_t lane = 0; lane < LANES; lane++)
        lanes[lane] = logits[0];
    for (uint32_t i = 0; i < whole; i += LANES)
        for (uint32_t lane = 0; lane < LANES; lane++)
            lanes[lane] = lanes[lane] > logits[i + lane] ? lanes[lane] : logits[i + lane];
    for (uint32_t i = whole; i < n; i++)
        largest = largest > logits[i] ? largest : logits[i];
    for (uint32_t lane = 0; lane < LANES; lane++)
        largest = largest > lanes[lane] ? largest : lanes[lane];
    return largest;
}

uint32_t best_token(const float *logits, uint32_t n)
{
    uint32_t block = 0;
    float largest = logits[0];
    for (uint32_t first = 0; first < n; first += BLOCK) {
        float of_block = largest_of(logits + first, n - first < BLOCK ? n - first : BLOCK);
        if (of_block > largest) {
            largest = of_block;
            block = first;
        }
    }
    while (logits[block] != largest)
        block++;
    return block;
}
