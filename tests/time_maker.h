/* A profile of this machine and a trace, as the program makes them. */
#ifndef TESTS_TIME_MAKER_H
#define TESTS_TIME_MAKER_H

#include "tests/cli_run.h"

#include "base/json.h"
#include "policies/hardware.h"

#define MODEL "models/tiny-32x4"
static CliRun run;
static char profile[512];
static char trace[512];

static inline void keep(char path[512], const char *name)
{
    snprintf(path, 512, "%s", scratch_path(name));
}

static inline cJSON *parse_out(void)
{
    cJSON *json;
    if (run.code != 0)
        fail_msg("exit %d: %s", run.code, run.err);
    assert_ok(json_parse(run.out, strlen(run.out), "stdout", &json));
    return json;
}

static inline const cJSON *at(const cJSON *json, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, key);
    if (item == NULL)
        fail_msg("no key %s", key);
    return item;
}

static inline int make_inputs(void **unused)
{
    (void)unused;
    keep(profile, "hardware.json");
    keep(trace, "time.db");
    /* Of the shipped model, which is the default. */
    RUN("calibrate", "--quick", "--threads", "1", "--out", profile);
    assert_int_equal(run.code, 0);
    RUN("record", "--model", MODEL, "--tokens", MODEL "/eval_tokens.safetensors", "--prompt-length",
        "24", "--requests", "1", "--batch", "2", "--generate", "5", "--ignore-eos", "--out", trace);
    assert_int_equal(run.code, 0);
    return 0;
}

/* The profile with costs of attention that are FACTOR times what they were, and MORE. */
static inline void keep_wrong_profile(char path[512], double factor, double more)
{
    Hardware hardware;
    keep(path, "wrong.json");
    assert_ok(hardware_load(profile, &hardware));
    for (uint32_t t = 0; t < hardware.n_tables; t++)
        for (uint32_t i = 0; strcmp(hardware.tables[t].name, "gpu/attention") == 0 &&
                             i < hardware.tables[t].n_points;
             i++)
            hardware.tables[t].value[i] = factor * hardware.tables[t].value[i] + more;
    assert_ok(hardware_save(&hardware, path));
    hardware_free(&hardware);
}

#endif
