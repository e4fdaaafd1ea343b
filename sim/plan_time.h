/* How long a plan takes on the machine of a hardware profile, and what memory it needs there. */
#ifndef SIM_PLAN_TIME_H
#define SIM_PLAN_TIME_H

#include <stdbool.h>
#include <stdint.h>

enum { GUESSED_TABLES = 16 };

/* Where a profile did not say what was asked of it. */
typedef struct {
    uint32_t ops; /* a bit for each Op that costs were asked of beyond the places measured */
    uint32_t n_missing;
    const char *missing[GUESSED_TABLES]; /* tables that count as nothing: constant texts */
} CostGuesses;

/* Adds MORE to SUM, each table once. */
void cost_guesses_add(CostGuesses *sum, const CostGuesses *more);

typedef struct {
    bool known;               /* false: nothing below is */
    uint64_t total_ns;        /* from the first arrival to the end of the last step */
    double tokens_per_s;      /* that go through the model */
    uint64_t exposed_load_ns; /* that MoE layers waited for misses */
    uint64_t peak_bytes;      /* of device memory, all of it */
    bool served;              /* continuous batching: else the times below are 0 */
    uint64_t ttft_median_ns;  /* to the first token */
    uint64_t ttft_p99_ns;
    uint64_t tbt_median_ns; /* between tokens */
    uint64_t tbt_p99_ns;
    CostGuesses guesses; /* not known of what was read from a study */
} PlanTime;

#endif
