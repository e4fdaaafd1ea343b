/* A small model that the tests of a file share, and the options of an executor that runs it. */
#ifndef TESTS_SMALL_EXECUTOR_H
#define TESTS_SMALL_EXECUTOR_H

#include "tests/checkpoint_maker.h"

#include "exec/executor.h"

enum { VOCABULARY = 96, EXPERTS = 8, LAYERS = 3, TOP_K = 2 };
enum { MAX_REQUESTS = 4, MAX_LENGTH = 64 };

static Checkpoint *checkpoint;

static int make_model(void **state)
{
    (void)state;
    make_checkpoint(scratch_path("model"),
                    &(CheckpointSpec){.seed = 41, .max_positions = MAX_LENGTH});
    assert_ok(checkpoint_open(scratch_path("model"), &checkpoint));
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    checkpoint_close(checkpoint);
    return 0;
}

static ExecutorOptions small_options(const Plan *plan, const char *device, uint32_t max_tokens)
{
    return (ExecutorOptions){.plan = plan,
                             .device = device,
                             .threads = 2,
                             .max_requests = MAX_REQUESTS,
                             .max_length = MAX_LENGTH,
                             .max_tokens = max_tokens,
                             .logits = LOGITS_LAST};
}

#endif
