#include "policies/eviction.h"

#include <string.h>

#define POINTER(symbol, name) &EVICT_##symbol,
#define NAME(symbol, name) name,

static const EvictionPolicy *const POLICIES[] = {EVICTION_TABLE(POINTER)};
static const char *const NAMES[] = {EVICTION_TABLE(NAME) NULL};

const EvictionPolicy *eviction_find(const char *name)
{
    for (size_t i = 0; NAMES[i] != NULL; i++)
        if (strcmp(NAMES[i], name) == 0)
            return POLICIES[i];
    return NULL;
}

const char *const *eviction_names(void)
{
    return NAMES;
}

bool eviction_needs_future(const char *name)
{
    const EvictionPolicy *policy = eviction_find(name);
    return policy != NULL && policy->needs_future;
}

bool eviction_needs_hot(const char *name)
{
    const EvictionPolicy *policy = eviction_find(name);
    return policy != NULL && policy->needs_hot;
}

bool eviction_needs_scores(const char *name)
{
    const EvictionPolicy *policy = eviction_find(name);
    return policy != NULL && policy->needs_scores;
}
