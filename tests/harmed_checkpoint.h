/* Checkpoints, and what opening them fails with. */
#ifndef TESTS_HARMED_CHECKPOINT_H
#define TESTS_HARMED_CHECKPOINT_H

#include "base/status.h"

#include "tests/checkpoint_maker.h"

/* A fresh folder for each checkpoint. */
static inline const char *make(const CheckpointSpec *spec)
{
    static int next;
    char name[32];
    snprintf(name, sizeof name, "model%d", next++);
    const char *directory = scratch_path(name);
    make_checkpoint(directory, spec);
    return directory;
}

static inline void assert_open_fails(const char *directory, Status wanted, const char *why)
{
    Checkpoint *checkpoint = NULL;
    int64_t before = mem_live_blocks();
    error_clear();
    Status status = checkpoint_open(directory, &checkpoint);
    if (status == OK)
        fail_msg("accepted, though %s", why);
    if (strstr(error_message(), why) == NULL || strstr(error_message(), directory) == NULL)
        fail_msg("\"%s\" does not say \"%s\" and the directory", error_message(), why);
    assert_int_equal(status, wanted);
    assert_int_equal(mem_live_blocks(), before);
}

/* An edit that harms one tensor. */
typedef struct {
    const char *name;
    enum { LEAVE_OUT, OTHER_ROWS, OTHER_RANK, OTHER_DTYPE, ADD_NAN, ADD_INFINITY } harm;
    bool done;
} Harm;

static inline bool harm_tensor(void *argument, Tensor *tensor, float *values, size_t count)
{
    Harm *harm = argument;
    if (strcmp(tensor->name, harm->name) != 0)
        return true;
    harm->done = true;
    if (values != NULL) {
        if (harm->harm == ADD_NAN || harm->harm == ADD_INFINITY)
            values[count - 1] = harm->harm == ADD_NAN ? NAN : -INFINITY;
        return true;
    }
    if (harm->harm == OTHER_ROWS)
        tensor->shape[0] *= 2;
    if (harm->harm == OTHER_RANK)
        tensor->rank = 3 - tensor->rank;
    if (harm->harm == OTHER_RANK && tensor->rank == 2)
        tensor->shape[1] = 1;
    if (harm->harm == OTHER_DTYPE)
        tensor->dtype = DTYPE_I32;
    return harm->harm != LEAVE_OUT;
}

#endif
