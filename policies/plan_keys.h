/* The keys of a plan as one table: what the parser accepts, the writer writes and plan.schema.json
 * says. Inside policies/ and its tests only. */
#ifndef POLICIES_PLAN_KEYS_H
#define POLICIES_PLAN_KEYS_H

#include "policies/plan.h"

typedef enum {
    KEY_TEXT,   /* char[room] */
    KEY_CHOICE, /* an enum: the index into names */
    KEY_NAME,   /* char[room]: one of names */
    KEY_U32,
    KEY_U64,
    KEY_F64,
    KEY_PARAMS, /* a policy's own: {} or {"alpha": number} */
    KEY_LEARNED /* PlanLearned: one of names, by its choice, or a table */
} PlanKeyKind;

/* Where a key has one allowed value only, it needs no room in Plan. */
#define PLAN_NO_FIELD SIZE_MAX

typedef struct {
    const char *name;
    PlanKeyKind kind;
    size_t offset;                    /* in Plan, or PLAN_NO_FIELD */
    size_t room;                      /* KEY_TEXT, KEY_NAME */
    const char *const *names;         /* KEY_CHOICE, KEY_NAME: NULL-terminated; KEY_LEARNED: from
                                         choice 1 on where nullable, else from 0 on */
    PlanTableShape shape;             /* KEY_LEARNED */
    const char *const *(*list)(void); /* KEY_NAME: gives names where they are not constant */
    uint64_t least;                   /* KEY_U32, KEY_U64, KEY_LEARNED: of a value */
    uint64_t most;
    double low; /* KEY_F64 */
    double high;
    bool nullable;  /* null, or left out, stands for 0: none */
    bool is_static; /* of gating: belongs to mode static alone */
} PlanKey;

/* One object of the plan; the root's own keys stand in the section "". */
typedef struct {
    const char *name;
    const PlanKey *keys;
    size_t n_keys;
    bool nullable; /* null stands for the section switched off */
} PlanSection;

enum { PLAN_SECTIONS = 8, PLAN_MAX_KEYS = 16 };
extern const PlanSection PLAN_TABLE[PLAN_SECTIONS];

/* What the keys of section "compute", at AT, must have to do with each other and with the rest of
 * PLAN; what is left out there is to be measured. */
Status plan_check_compute(const JsonAt *at, Plan *plan);
/* The names that KEY allows, NULL-terminated. */
const char *const *plan_key_names(const PlanKey *key);

#endif
