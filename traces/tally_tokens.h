/* What the counts of an event come to, token by token: a token that asks different experts is a set
 * of them, a bit each, and sets are added up bit by bit of the counts of all experts at once
 * (carry-save adders; Harley and Seal, in Warren, Hacker's Delight, section 5-1). Only for
 * traces/tally.c. */
#ifndef TRACES_TALLY_TOKENS_H
#define TRACES_TALLY_TOKENS_H

#include "traces/tally.h"

/* The sums of N events, TALLY_EVENTS at the most, of IDS[n][tokens][top_k]; the assignments of one
 * are fewer than its ids where a token asks an expert twice, or one was dropped: it is then wrong.
 * False, and nothing is done, where the processor cannot, or there are too many experts or tokens.
 */
bool tally_by_tokens(const uint8_t *ids, size_t tokens, uint32_t top_k, uint32_t experts,
                     uint32_t n, TallySum *sums);

#endif
