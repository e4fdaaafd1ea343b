#include "exec/architecture.h"

#include <stdio.h>
#include <string.h>

static const Architecture *const ARCHITECTURES[] = {
    &ARCH_MIXTRAL,     &ARCH_OLMOE,   &ARCH_QWEN2_MOE, &ARCH_QWEN3_MOE, &ARCH_DEEPSEEK_V2,
    &ARCH_DEEPSEEK_V3, &ARCH_GPT_OSS, &ARCH_PHIMOE,    &ARCH_NLLB_MOE,  &ARCH_SWITCH_TRANSFORMERS,
    &ARCH_FAIRSEQ_MOE,
};

enum { N_ARCHITECTURES = sizeof ARCHITECTURES / sizeof *ARCHITECTURES };

Status architecture_find(const JsonAt *at, const Architecture **architecture)
{
    const char *model_type = NULL;
    char known[256] = "";
    size_t used = 0;
    TRY(json_text(at, &model_type));
    for (size_t i = 0; i < N_ARCHITECTURES; i++) {
        const char *name = ARCHITECTURES[i]->model_type;
        if (strcmp(name, model_type) == 0) {
            *architecture = ARCHITECTURES[i];
            return OK;
        }
        if (used < sizeof known)
            used +=
                (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", name);
    }
    return fail(ERR_UNSUPPORTED, "%s: %s: \"%.64s\" is not supported, supported are %s", at->file,
                at->path, model_type, known);
}
