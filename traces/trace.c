#include "traces/trace.h"

static const char *const STACK_NAMES[] = {"decoder", "encoder"};
static const char *const PHASE_NAMES[] = {"prefill", "decode", "encode", "mixed"};
static const char *const RESIDENCY_NAMES[RESIDENCY_KINDS] = {"hit",   "load",   "prefetch",
                                                             "evict", "bypass", "host"};

const char *stack_name(Stack stack)
{
    return STACK_NAMES[stack];
}

const char *phase_name(Phase phase)
{
    return PHASE_NAMES[phase];
}

const char *residency_kind_name(ResidencyKind kind)
{
    return RESIDENCY_NAMES[kind];
}
