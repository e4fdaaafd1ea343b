#include "traces/import.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "traces/import_formats.h"
#include "traces/import_sink.h"
#include "traces/sqlite_path.h"

/* What a format has a use for. */
typedef struct {
    Status (*import)(const ImportOptions *options, ImportReport *report);
    bool sequences;
    bool experts; /* and expert_bytes */
    bool first_layer;
    bool step;
} Format;

static const Format FORMATS[IMPORT_FORMATS] = {
    [IMPORT_NPY] = {.import = import_npy,
                    .sequences = true,
                    .experts = true,
                    .first_layer = true,
                    .step = true},
    [IMPORT_BIGMOE_CSV] = {.import = import_bigmoe_csv},
    [IMPORT_JSONL] = {.import = import_jsonl, .sequences = true, .experts = true, .step = true},
    [IMPORT_SGLANG] = {.import = import_sglang, .experts = true},
    [IMPORT_SGLANG_COUNTS] = {.import = import_sglang_counts, .experts = true},
    [IMPORT_VLLM] = {.import = import_vllm,
                     .sequences = true,
                     .experts = true,
                     .first_layer = true,
                     .step = true},
    [IMPORT_TRTLLM] = {.import = import_trtllm, .experts = true},
    [IMPORT_COUNTS] = {.import = import_counts, .experts = true, .first_layer = true},
};

static Status refuse(const ImportOptions *options, const char *option)
{
    return fail(ERR_USAGE, "--%s has no meaning with --from %s", option,
                IMPORT_FORMAT_NAMES[options->from]);
}

static Status check_options(const ImportOptions *options, const Format *format)
{
    if (options->sequences != NULL && !format->sequences)
        return refuse(options, "sequences");
    if (options->label != NULL && options->sequences == NULL)
        return fail(ERR_USAGE, "--label names columns of the --sequences CSV, which is not given");
    if (options->experts != 0 && !format->experts)
        return refuse(options, "experts");
    if (options->expert_bytes != 0 && !format->experts)
        return refuse(options, "expert-bytes");
    if (options->first_layer != 0 && !format->first_layer)
        return refuse(options, "first-layer");
    if (options->step_given && !format->step)
        return refuse(options, "step");
    return OK;
}

Status trace_import(const ImportOptions *options, ImportReport *report)
{
    const Format *format = &FORMATS[options->from];
    size_t room = strlen(options->out) + sizeof IMPORT_TEMPORARY;
    char *temporary;
    TRY(check_options(options, format));
    TRY(sqlite_path_check(options->out, ERR_OUTPUT));
    TRY(mem_new(&temporary, room, 1, "import"));
    snprintf(temporary, room, "%s" IMPORT_TEMPORARY, options->out);
    Status status = fail_as(format->import(options, report), temporary, options->out);
    mem_free(temporary);
    return status;
}
