/* What the tests of `moebius validate` begin with: a small checkpoint, and a trace of it. */
#ifndef TESTS_VALIDATE_MAKER_H
#define TESTS_VALIDATE_MAKER_H

#include "base/json.h"
#include "tests/checkpoint_maker.h"
#include "tests/cli_run.h"
#include "tests/json_at.h"

static char model[256];
static char trace[256];
static char forced[300]; /* "trace:FILE" of the trace */
static CliRun run;

/* Records REQUESTS requests of 1 to LONGEST tokens, with GENERATE more for each. */
static void make_files_of(uint32_t requests, uint32_t longest, const char *generate)
{
    const CheckpointSpec spec = {.seed = 21, .max_positions = 64};
    char tokens[256];
    snprintf(model, sizeof model, "%s", scratch_path("model"));
    snprintf(trace, sizeof trace, "%s", scratch_path("trace.db"));
    snprintf(tokens, sizeof tokens, "%s", scratch_path("tokens.jsonl"));
    snprintf(forced, sizeof forced, "trace:%s", trace);
    make_checkpoint(model, &spec);
    FILE *file = fopen(tokens, "w");
    assert_non_null(file);
    uint64_t random = 4;
    for (uint32_t r = 0; r < requests; r++) {
        fprintf(file, "{\"tokens\": [%u", random_below(&random, 96));
        for (uint32_t i = random_below(&random, longest); i > 0; i--)
            fprintf(file, ", %u", random_below(&random, 96));
        fprintf(file, "]}\n");
    }
    assert_int_equal(fclose(file), 0);
    RUN("record", "--model", model, "--tokens", tokens, "--out", trace, "--batch", "3",
        "--generate", generate, "--ignore-eos", "--predictions", "2", "--scores", "all", "--set",
        "batching.max_tokens=16");
    assert_run_done(&run);
}

#endif
