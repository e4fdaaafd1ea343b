/* A study: the plans that a sweep replays.
 *
 *     { "moebius_study": 1,
 *       "name": "sizes and policies",
 *       "base": { "batching": { "max_tokens": 256 } },
 *       "grid": { "buffer.evict": ["lru", "fifo"], "buffer.slots": [2, 4, 8] },
 *       "plans": [ { "name": "mine", "buffer": { "slots": 3, "evict": "mru" } } ] }
 *
 * GRID maps paths of a plan to lists of values: their cartesian product, in the order of the keys,
 * the last key fastest, each put over BASE. PLANS stand by themselves. Either may be left out. For
 * every buffer size, scope and order of the study that no plan with eviction "belady" covers, the
 * offline optimum is added as a bound. */
#ifndef SIM_STUDY_H
#define SIM_STUDY_H

#include "policies/plan.h"

enum { STUDY_MAX_PLANS = 1000000, STUDY_MAX_BYTES = 64 << 20 };

typedef struct {
    char name[128];
    char *text;      /* the study file as one line of JSON */
    Plan *plans;     /* [n_plans]: those of the file, in order, then the added bounds; each named */
    size_t n_plans;  /* duplicates are kept: they have equal plan_to_text() */
    size_t n_bounds; /* added at the end */
} Study;

/* Loads PATH and checks every plan. EVERY_SIZE: study_every_size() will be called, so that plans
 * need neither slots nor bytes. Fails with ERR_INPUT naming the key, or the combination and the key
 * in it. On failure nothing is held. */
Status study_load(const char *path, bool every_size, Study *study);
/* FILE names the origin in errors. */
Status study_from_json(const cJSON *json, const char *file, bool every_size, Study *study);
void study_free(Study *study);

/* Puts every size in the place of the sizes that STUDY gives: each of its plans, taken without its
 * budget and once where they are then the same, with 1 slot, 2 and so on up to the experts of the
 * largest scope over LAYERS, from as many on as its own lists of experts (buffer.hot,
 * buffer.initial) need; plans without a buffer stay as they are. Fails with ERR_INPUT above
 * STUDY_MAX_PLANS; STUDY is then unchanged. */
Status study_every_size(Study *study, const TraceLayer *layers, uint32_t n_layers);

/* Appends to STUDY, whose plans have room for as many again, the bound of every budget without one.
 */
Status study_add_bounds(Study *study);

/* "lru 8/layer batch": how a plan is called when nobody named it. */
void study_plan_name(const Plan *plan, char *name, size_t bytes);

#endif
