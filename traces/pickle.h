/* The data in a file of torch.save(), without running anything in it.
 *
 * A pickle is a program that may call any function of Python. This reader knows the opcodes that
 * build None, booleans, numbers, texts, lists, tuples and dicts, and three calls: the rebuilding of
 * a tensor, the naming of a storage, and an empty OrderedDict. Anything else is refused by name.
 * Formats: pickletools.py of CPython, protocols 2 to 5; torch/serialization.py, the zip form. */
#ifndef TRACES_PICKLE_H
#define TRACES_PICKLE_H

#include "traces/safetensors.h"
#include "traces/zip.h"

#include <stdbool.h>

typedef enum {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INTEGER,
    PICKLE_REAL,
    PICKLE_TEXT,
    PICKLE_LIST, /* or tuple */
    PICKLE_DICT,
    PICKLE_TENSOR,
    PICKLE_CALLABLE, /* inside only: a name that may be called */
    PICKLE_STORAGE,  /* inside only: the data of tensors */
    PICKLE_MARK      /* inside only */
} PickleKind;

typedef struct PickleValue PickleValue;
struct PickleValue {
    PickleKind kind;
    union {
        int64_t integer; /* and booleans; which callable */
        double real;
        struct {
            const char *text; /* UTF-8, not zero-terminated */
            size_t length;
        };
        struct {
            PickleValue **items; /* [count]; of a dict: key, value, key, value ... */
            size_t count;
            size_t room;
        };
        Tensor *tensor; /* row-major; points into the file; of a storage: one dimension */
    };
};

typedef struct Pickle Pickle;

/* Reads DATA[BYTES], which must outlive *PICKLE. FILE stands for it in errors. Fails with ERR_INPUT
 * ("FILE: pickle: byte 17: ..."), ERR_UNSUPPORTED for other objects, ERR_MEMORY. */
Status pickle_view(const char *file, const unsigned char *data, size_t bytes, Pickle **pickle);
void pickle_free(Pickle *pickle);
const PickleValue *pickle_root(const Pickle *pickle);
/* What the dict has under KEY, or NULL; also NULL when VALUE is no dict. */
const PickleValue *pickle_get(const PickleValue *value, const char *key);

#endif
