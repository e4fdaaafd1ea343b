#include "policies/plan_keys.h"

#include "policies/buffer.h"
#include "policies/placement.h"

static const char *const GATING_MODES[] = {"dynamic", "static", NULL};
static const char *const DISPATCHES[] = {"padded", "mask", NULL};
static const char *const SCOPES[] = {"layer", "device", NULL};
static const char *const ORDERS[] = {"serial", "batch", "staged", NULL};
static const char *const BUDGET_CHOICES[] = {"uniform", "skew", "optimal", NULL};
static const char *const TABLE_CHOICES[] = {"trained", NULL};
static const char *const HOT_CHOICES[] = {"hottest", NULL};
static const char *const COMPUTE_MODES[] = {"gpu", "host", "split", NULL};
static const char *const COSTS_CHOICES[] = {"measured", NULL};
static const char *const BATCHING_MODES[] = {"as-recorded", "apart", "mixed", "continuous", NULL};
static const char *const ARRIVALS[] = {"at-once", "trace", "fixed", "poisson", NULL};

#define AT(field) .offset = offsetof(Plan, field), .room = sizeof(((Plan *)NULL)->field)
#define FIXED .offset = PLAN_NO_FIELD
#define U53_MAX 9007199254740991 /* whole numbers above it are not exact in JSON */

static const PlanKey ROOT_KEYS[] = {
    {.name = "moebius_plan", .kind = KEY_U32, FIXED, .least = 1, .most = 1},
    {.name = "name", .kind = KEY_TEXT, AT(name)},
    {.name = "seed", .kind = KEY_U64, AT(seed), .most = U53_MAX},
};

static const PlanKey GATING_KEYS[] = {
    {.name = "mode", .kind = KEY_CHOICE, AT(gating.mode), .names = GATING_MODES},
    {.name = "capacity_factor",
     .kind = KEY_F64,
     AT(gating.capacity_factor),
     .low = 1e-6,
     .high = 1000,
     .is_static = true},
    {.name = "dispatch",
     .kind = KEY_CHOICE,
     AT(gating.dispatch),
     .names = DISPATCHES,
     .is_static = true},
};

static const PlanKey BUFFER_KEYS[] = {
    {.name = "scope", .kind = KEY_CHOICE, AT(buffer.scope), .names = SCOPES},
    {.name = "slots",
     .kind = KEY_U32,
     AT(buffer.slots),
     .least = 1,
     .most = UINT32_MAX,
     .nullable = true},
    {.name = "bytes",
     .kind = KEY_U64,
     AT(buffer.bytes),
     .least = 1,
     .most = U53_MAX,
     .nullable = true},
    {.name = "budget",
     .kind = KEY_LEARNED,
     AT(buffer.budget),
     .names = BUDGET_CHOICES,
     .shape = TABLE_NUMBERS,
     .most = TRACE_MAX_EXPERTS},
    {.name = "order", .kind = KEY_CHOICE, AT(buffer.order), .names = ORDERS},
    {.name = "evict", .kind = KEY_NAME, AT(buffer.evict), .list = eviction_names},
    {.name = "hot",
     .kind = KEY_LEARNED,
     AT(buffer.hot),
     .names = HOT_CHOICES,
     .shape = TABLE_LISTS,
     .most = TRACE_MAX_EXPERTS - 1,
     .nullable = true},
    {.name = "initial",
     .kind = KEY_LEARNED,
     AT(buffer.initial),
     .names = HOT_CHOICES,
     .shape = TABLE_LISTS,
     .most = TRACE_MAX_EXPERTS - 1,
     .nullable = true},
    {.name = "params", .kind = KEY_PARAMS, AT(buffer.alpha), .low = 1.0 / 65536, .high = 1},
};

static const PlanKey PREFETCH_KEYS[] = {
    {.name = "predictor", .kind = KEY_TEXT, AT(prefetch.predictor)},
    {.name = "distance",
     .kind = KEY_U32,
     AT(prefetch.distance),
     .least = 1,
     .most = TRACE_MAX_LAYERS - 1},
    {.name = "max_inflight",
     .kind = KEY_U32,
     AT(prefetch.max_inflight),
     .least = 1,
     .most = TRACE_MAX_EXPERTS},
    {.name = "table",
     .kind = KEY_LEARNED,
     AT(prefetch.table),
     .names = TABLE_CHOICES,
     .shape = TABLE_ROWS,
     .most = UINT32_MAX,
     .nullable = true},
    {.name = "successors",
     .kind = KEY_U32,
     AT(prefetch.successors),
     .least = 1,
     .most = TRACE_MAX_EXPERTS,
     .nullable = true},
    {.name = "experts",
     .kind = KEY_U32,
     AT(prefetch.experts),
     .least = 1,
     .most = TRACE_MAX_EXPERTS,
     .nullable = true},
};

static const PlanKey COMPUTE_KEYS[] = {
    {.name = "mode", .kind = KEY_CHOICE, AT(compute.mode), .names = COMPUTE_MODES},
    {.name = "host_ns",
     .kind = KEY_LEARNED,
     AT(compute.host_ns),
     .names = COSTS_CHOICES,
     .shape = TABLE_ROWS,
     .least = 1,
     .most = UINT32_MAX,
     .nullable = true},
    {.name = "load_ns",
     .kind = KEY_LEARNED,
     AT(compute.load_ns),
     .names = COSTS_CHOICES,
     .shape = TABLE_NUMBERS,
     .least = 1,
     .most = UINT32_MAX,
     .nullable = true},
    {.name = "event_ns",
     .kind = KEY_LEARNED,
     AT(compute.event_ns),
     .names = COSTS_CHOICES,
     .shape = TABLE_LISTS,
     .most = UINT32_MAX,
     .nullable = true},
};

static const PlanKey PLACEMENT_KEYS[] = {
    {.name = "ranks",
     .kind = KEY_U32,
     AT(placement.ranks),
     .least = 1,
     .most = PLACEMENT_MAX_RANKS},
    {.name = "method", .kind = KEY_CHOICE, AT(placement.method), .names = PLACEMENT_METHOD_NAMES},
    {.name = "map",
     .kind = KEY_LEARNED,
     AT(placement.map),
     .names = TABLE_CHOICES,
     .shape = TABLE_ROWS,
     .most = PLACEMENT_MAX_RANKS - 1,
     .nullable = true},
    {.name = "replicas",
     .kind = KEY_U32,
     AT(placement.replicas),
     .least = 1,
     .most = PLACEMENT_MAX_REPLICAS,
     .nullable = true},
};

static const PlanKey BATCHING_KEYS[] = {
    {.name = "max_tokens",
     .kind = KEY_U32,
     AT(batching.max_tokens),
     .least = 1,
     .most = TRACE_MAX_TOKENS},
    {.name = "mode", .kind = KEY_CHOICE, AT(batching.mode), .names = BATCHING_MODES},
    {.name = "sequences",
     .kind = KEY_U32,
     AT(batching.sequences),
     .least = 1,
     .most = TRACE_MAX_TOKENS,
     .nullable = true},
    {.name = "arrivals", .kind = KEY_CHOICE, AT(batching.arrivals), .names = ARRIVALS},
    {.name = "requests_per_s",
     .kind = KEY_F64,
     AT(batching.requests_per_s),
     .low = 1e-6,
     .high = 1e9,
     .nullable = true},
};

static const PlanKey LINK_KEYS[] = {
    {.name = "h2d_gb_per_s",
     .kind = KEY_F64,
     AT(link.h2d_gb_per_s),
     .low = 1e-3,
     .high = 1e6,
     .nullable = true},
};

#define SECTION(name, keys)                                                                        \
    {                                                                                              \
        name, keys, sizeof(keys) / sizeof((keys)[0]), false                                        \
    }

const PlanSection PLAN_TABLE[PLAN_SECTIONS] = {
    SECTION("", ROOT_KEYS),
    SECTION("gating", GATING_KEYS),
    {"buffer", BUFFER_KEYS, sizeof BUFFER_KEYS / sizeof BUFFER_KEYS[0], true},
    SECTION("prefetch", PREFETCH_KEYS),
    SECTION("compute", COMPUTE_KEYS),
    SECTION("placement", PLACEMENT_KEYS),
    SECTION("batching", BATCHING_KEYS),
    SECTION("link", LINK_KEYS),
};

const char *const *plan_key_names(const PlanKey *key)
{
    return key->list != NULL ? key->list() : key->names;
}

const char *plan_scope_name(BufferScopeKind scope)
{
    return SCOPES[scope];
}

const char *plan_order_name(ReplayOrder order)
{
    return ORDERS[order];
}

const char *plan_compute_name(ComputeMode mode)
{
    return COMPUTE_MODES[mode];
}

const char *plan_batching_name(BatchingMode mode)
{
    return BATCHING_MODES[mode];
}
