/* Executors of a small model and their steps. */
#ifndef TESTS_EXECUTOR_MAKER_H
#define TESTS_EXECUTOR_MAKER_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include "tests/small_executor.h"

enum { MAX_TOKENS = 32 };

static inline ExecutorOptions usual_options(const Plan *plan)
{
    return small_options(plan, "cpu", MAX_TOKENS);
}

static inline Executor *open_executor(const Plan *plan)
{
    Executor *executor;
    const ExecutorOptions options = usual_options(plan);
    assert_ok(executor_open(checkpoint, &options, &executor));
    return executor;
}

/* Up to four tokens written out. */
typedef struct {
    uint32_t tokens;
    uint32_t token[4];
    uint32_t kv_slot[4];
    uint32_t position[4];
} Small;

static inline StepInput small_input(const Small *small)
{
    return (StepInput){.tokens = small->tokens,
                       .token = small->token,
                       .kv_slot = small->kv_slot,
                       .position = small->position,
                       .logits = LOGITS_LAST};
}

#endif
