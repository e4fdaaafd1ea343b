#include "exec/cuda/nccl.h"

#include <stdio.h>

#include "base/library.h"

static const char *const LIBRARIES[] = {"libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2",
                                        "/usr/local/cuda/lib/libnccl.so.2"};
static const Library NCCL = {
    .name = "ranks: NCCL", .paths = LIBRARIES, .n_paths = sizeof LIBRARIES / sizeof *LIBRARIES};

Status nccl_failed(const Nccl *nccl, ncclResult_t error, const char *call)
{
    const char *more = nccl->last_error(NULL);
    return fail(ERR_IO, "nccl: %s: %s%s%s", call, nccl->error_text(error),
                more != NULL && more[0] != '\0' ? ": " : "", more != NULL ? more : "");
}

static Status find_functions(Nccl *nccl)
{
    const LibraryFunction functions[] = {{"ncclGetVersion", &nccl->get_version},
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
    return library_find(&NCCL, nccl->library, functions, sizeof functions / sizeof *functions);
}

Status nccl_load(Nccl *nccl)
{
    int version;
    *nccl = (Nccl){.library = NULL};
    TRY(library_load(&NCCL, &nccl->library));
    TRY(find_functions(nccl));
    NCCL_TRY(nccl, nccl->get_version(&version));
    snprintf(nccl->version, sizeof nccl->version, "%d.%d.%d", version / 10000,
             version % 10000 / 100, version % 100);
    return OK;
}
