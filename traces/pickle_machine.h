/* The inside of a pickle being read, for traces/pickle.c and traces/pickle_tensor.c. */
#ifndef TRACES_PICKLE_MACHINE_H
#define TRACES_PICKLE_MACHINE_H

#include "traces/pickle.h"

enum { PICKLE_BLOCK_VALUES = 1024, PICKLE_MAX_NAME = 128 };

typedef struct PickleBlock PickleBlock;
struct PickleBlock {
    PickleBlock *next;
    PickleValue values[PICKLE_BLOCK_VALUES];
};

/* Pointers that grow: the stack and the memo. */
typedef struct {
    PickleValue **items;
    size_t count;
    size_t room;
} PicklePointers;

struct Pickle {
    const char *file;
    Zip zip;
    const unsigned char *begin;
    const unsigned char *at;
    const unsigned char *end;
    PickleBlock *blocks;
    size_t used; /* values of the first block */
    PicklePointers stack;
    PicklePointers memo;
    PickleValue *root;
};

/* "FILE: pickle: byte N: ..." */
Status pickle_refuse(const Pickle *pickle, Status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A new value on the stack. */
Status pickle_push_new(Pickle *pickle, PickleKind kind, PickleValue **value);
Status pickle_push_integer(Pickle *pickle, PickleKind kind, int64_t number);
/* The topmost value, which must be there and no mark; POPPED takes it off. */
Status pickle_top(Pickle *pickle, bool popped, PickleValue **value);
bool pickle_is_text(const PickleValue *value, const char *text);

/* NAME, "module name", as a callable on the stack; ERR_UNSUPPORTED for others than those known. */
Status pickle_push_callable(Pickle *pickle, const char *name);
/* BINPERSID: ("storage", TYPE, KEY, DEVICE, COUNT) names the entry data/KEY of the archive. */
Status pickle_push_storage(Pickle *pickle);
/* REDUCE: a callable and its arguments. */
Status pickle_reduce(Pickle *pickle);

#endif
