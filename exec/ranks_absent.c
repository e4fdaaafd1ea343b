/* In place of exec/cuda/ranks.c, where the build found no NCCL. */
#include "exec/ranks.h"

static Status absent(void)
{
    return fail(ERR_UNSUPPORTED, "ranks: this build has no NCCL (nccl.h was not found)");
}

Status ranks_open(Processes *processes, const RanksOptions *options, Ranks **ranks)
{
    (void)processes;
    (void)options;
    *ranks = NULL;
    return absent();
}

void ranks_close(Ranks *ranks)
{
    (void)ranks;
}

void *ranks_memory(const Ranks *ranks)
{
    (void)ranks;
    return NULL;
}

const char *ranks_version(const Ranks *ranks)
{
    (void)ranks;
    return "";
}

Status ranks_describe(const char *compute, char *text, size_t bytes)
{
    (void)compute;
    (void)text;
    (void)bytes;
    return absent();
}

Status ranks_upload(Ranks *ranks, void *to, const void *from, size_t bytes)
{
    (void)ranks;
    (void)to;
    (void)from;
    (void)bytes;
    return absent();
}

Status ranks_download(Ranks *ranks, void *to, const void *from, size_t bytes)
{
    return ranks_upload(ranks, to, from, bytes);
}

Status ranks_all_to_all(Ranks *ranks, const AllToAll *all)
{
    (void)ranks;
    (void)all;
    return absent();
}

Status ranks_copy(Ranks *ranks, void *to, const void *from, size_t bytes)
{
    return ranks_upload(ranks, to, from, bytes);
}

Status ranks_multiply(Ranks *ranks, uint32_t rows, uint32_t times)
{
    (void)ranks;
    (void)rows;
    (void)times;
    return absent();
}

Status ranks_order(Ranks *ranks)
{
    return ranks_multiply(ranks, 0, 0);
}

Status ranks_mark(Ranks *ranks, RanksQueue queue, uint32_t mark)
{
    (void)queue;
    (void)mark;
    return ranks_order(ranks);
}

Status ranks_passed(Ranks *ranks, RanksQueue queue, uint32_t mark, bool *passed)
{
    (void)passed;
    return ranks_mark(ranks, queue, mark);
}

Status ranks_wait(Ranks *ranks)
{
    return ranks_order(ranks);
}

Status ranks_elapsed(Ranks *ranks, RanksQueue queue, double *ns)
{
    (void)ns;
    return ranks_mark(ranks, queue, 0);
}
