#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "traces/pickle_machine.h"

/* What may be called or named. Storages stand for their dtype. */
typedef enum { CALL_REBUILD_TENSOR, CALL_ORDERED_DICT, CALL_STORAGE } Call;

static const struct {
    const char *name;
    Call call;
    Dtype dtype;
} CALLABLES[] = {
    {"torch._utils _rebuild_tensor_v2", CALL_REBUILD_TENSOR, DTYPE_COUNT},
    {"collections OrderedDict", CALL_ORDERED_DICT, DTYPE_COUNT},
    {"torch BoolStorage", CALL_STORAGE, DTYPE_BOOL},
    {"torch ByteStorage", CALL_STORAGE, DTYPE_U8},
    {"torch CharStorage", CALL_STORAGE, DTYPE_I8},
    {"torch ShortStorage", CALL_STORAGE, DTYPE_I16},
    {"torch IntStorage", CALL_STORAGE, DTYPE_I32},
    {"torch LongStorage", CALL_STORAGE, DTYPE_I64},
    {"torch HalfStorage", CALL_STORAGE, DTYPE_F16},
    {"torch BFloat16Storage", CALL_STORAGE, DTYPE_BF16},
    {"torch FloatStorage", CALL_STORAGE, DTYPE_F32},
    {"torch DoubleStorage", CALL_STORAGE, DTYPE_F64},
};

Status pickle_push_callable(Pickle *pickle, const char *name)
{
    for (size_t i = 0; i < sizeof CALLABLES / sizeof *CALLABLES; i++)
        if (strcmp(CALLABLES[i].name, name) == 0)
            return pickle_push_integer(pickle, PICKLE_CALLABLE, (int64_t)i);
    return pickle_refuse(pickle, ERR_UNSUPPORTED,
                         "asks for \"%s\"; only tensors, dicts, lists, numbers and texts are read",
                         name);
}

Status pickle_push_storage(Pickle *pickle)
{
    PickleValue *id = NULL;
    PickleValue *value = NULL;
    char name[PICKLE_MAX_NAME];
    TRY(pickle_top(pickle, true, &id));
    bool whole = id->kind == PICKLE_LIST && id->count == 5 &&
                 pickle_is_text(id->items[0], "storage") && id->items[1]->kind == PICKLE_CALLABLE &&
                 CALLABLES[id->items[1]->integer].call == CALL_STORAGE &&
                 id->items[2]->kind == PICKLE_TEXT && id->items[2]->length < 32;
    if (!whole)
        return pickle_refuse(pickle, ERR_UNSUPPORTED, "a storage of another kind");
    snprintf(name, sizeof name, "data/%.*s", (int)id->items[2]->length, id->items[2]->text);
    const ZipEntry *entry = zip_find_below(&pickle->zip, name, strlen(name));
    if (entry == NULL)
        return pickle_refuse(pickle, ERR_INPUT, "%s is not in the archive", name);
    TRY(pickle_push_new(pickle, PICKLE_STORAGE, &value));
    TRY(mem_new(&value->tensor, 1, sizeof *value->tensor, "pickle"));
    *value->tensor = (Tensor){.name = "",
                              .dtype = CALLABLES[id->items[1]->integer].dtype,
                              .data = entry->data,
                              .bytes = entry->bytes};
    return OK;
}

static bool take_dimension(const PickleValue *value, uint64_t *dimension)
{
    if (value->kind != PICKLE_INTEGER || value->integer < 0)
        return false;
    *dimension = (uint64_t)value->integer;
    return true;
}

/* _rebuild_tensor_v2(storage, offset, shape, strides, ...), row-major ones only. */
static Status rebuild_tensor(Pickle *pickle, const PickleValue *arguments)
{
    PickleValue *value = NULL;
    uint64_t offset = 0;
    bool whole = arguments->count >= 4 && arguments->items[0]->kind == PICKLE_STORAGE &&
                 take_dimension(arguments->items[1], &offset) &&
                 arguments->items[2]->kind == PICKLE_LIST &&
                 arguments->items[3]->kind == PICKLE_LIST &&
                 arguments->items[2]->count == arguments->items[3]->count &&
                 arguments->items[2]->count <= TENSOR_MAX_RANK;
    if (!whole)
        return pickle_refuse(pickle, ERR_INPUT, "a tensor that cannot be rebuilt");
    Tensor tensor = *arguments->items[0]->tensor;
    size_t width = dtype_bytes(tensor.dtype);
    uint64_t elements = 1;
    bool plain = true;
    tensor.rank = (uint32_t)arguments->items[2]->count;
    for (uint32_t i = tensor.rank; i-- > 0;) {
        uint64_t stride;
        if (!take_dimension(arguments->items[2]->items[i], &tensor.shape[i]) ||
            !take_dimension(arguments->items[3]->items[i], &stride))
            return pickle_refuse(pickle, ERR_INPUT, "a tensor's shape is not of whole numbers");
        plain = plain && (stride == elements || tensor.shape[i] <= 1);
        if (__builtin_mul_overflow(elements, tensor.shape[i], &elements))
            return pickle_refuse(pickle, ERR_INPUT, "a tensor's shape is too large");
    }
    if (!plain && elements > 0)
        return pickle_refuse(pickle, ERR_UNSUPPORTED, "a tensor that is not contiguous");
    if (offset > tensor.bytes / width || elements > tensor.bytes / width - offset)
        return pickle_refuse(pickle, ERR_INPUT, "a tensor is larger than its storage");
    tensor.data = (const unsigned char *)tensor.data + offset * width;
    tensor.bytes = elements * width;
    TRY(pickle_push_new(pickle, PICKLE_TENSOR, &value));
    TRY(mem_new(&value->tensor, 1, sizeof tensor, "pickle"));
    *value->tensor = tensor;
    return OK;
}

Status pickle_reduce(Pickle *pickle)
{
    PickleValue *arguments = NULL;
    PickleValue *callable = NULL;
    PickleValue *value = NULL;
    TRY(pickle_top(pickle, true, &arguments));
    TRY(pickle_top(pickle, true, &callable));
    if (callable->kind != PICKLE_CALLABLE || arguments->kind != PICKLE_LIST)
        return pickle_refuse(pickle, ERR_INPUT, "a call of what is no function");
    switch (CALLABLES[callable->integer].call) {
    case CALL_REBUILD_TENSOR:
        return rebuild_tensor(pickle, arguments);
    case CALL_ORDERED_DICT:
        if (arguments->count == 0)
            return pickle_push_new(pickle, PICKLE_DICT, &value);
        break;
    case CALL_STORAGE:
        break;
    }
    return pickle_refuse(pickle, ERR_UNSUPPORTED, "a call of \"%s\" with arguments",
                         CALLABLES[callable->integer].name);
}
