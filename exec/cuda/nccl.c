#include "exec/cuda/nccl.h"

#include <dlfcn.h>
#include <stdio.h>

static const char *const LIBRARIES[] = {"libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2",
                                        "/usr/local/cuda/lib/libnccl.so.2"};

Status nccl_failed(const Nccl *nccl, ncclResult_t error, const char *call)
{
    const char *more = nccl->last_error(NULL);
    return fail(ERR_IO, "nccl: %s: %s%s%s", call, nccl->error_text(error),
                more != NULL && more[0] != '\0' ? ": " : "", more != NULL ? more : "");
}

static Status find_function(void *library, const char *name, void *out_function)
{
    void *function = dlsym(library, name);
    if (function == NULL)
        return fail(ERR_UNSUPPORTED, "ranks: this machine's NCCL has no %s", name);
    *(void **)out_function = function;
    return OK;
}

static Status find_functions(Nccl *nccl)
{
    const struct {
        const char *name;
        void *function;
    } functions[] = {{"ncclGetVersion", &nccl->get_version},
                     {"ncclGetUniqueId", &nccl->get_unique_id},
                     {"ncclCommInitRank", &nccl->init_rank},
                     {"ncclCommDestroy", &nccl->destroy},
                     {"ncclCommAbort", &nccl->abort},
                     {"ncclCommGetAsyncError", &nccl->async_error},
                     {"ncclGroupStart", &nccl->group_start},
                     {"ncclGroupEnd", &nccl->group_end},
                     {"ncclSend", &nccl->send},
                     {"ncclRecv", &nccl->receive},
                     {"ncclGetErrorString", &nccl->error_text},
                     {"ncclGetLastError", &nccl->last_error}};
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        TRY(find_function(nccl->library, functions[i].name, functions[i].function));
    return OK;
}

Status nccl_load(Nccl *nccl)
{
    int version;
    *nccl = (Nccl){.library = NULL};
    for (size_t i = 0; nccl->library == NULL && i < sizeof LIBRARIES / sizeof *LIBRARIES; i++)
        nccl->library = dlopen(LIBRARIES[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (nccl->library == NULL)
        return fail(ERR_UNSUPPORTED, "ranks: NCCL (libnccl.so.2) is not installed");
    TRY(find_functions(nccl));
    NCCL_TRY(nccl, nccl->get_version(&version));
    snprintf(nccl->version, sizeof nccl->version, "%d.%d.%d", version / 10000,
             version % 10000 / 100, version % 100);
    return OK;
}
