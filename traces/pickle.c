#include "traces/pickle_machine.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

Status pickle_refuse(const Pickle *pickle, Status status, const char *format, ...)
{
    char why[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    return fail(status, "%s: pickle: byte %td: %s", pickle->file, pickle->at - pickle->begin, why);
}

static Status new_value(Pickle *pickle, PickleKind kind, PickleValue **value)
{
    if (pickle->blocks == NULL || pickle->used == PICKLE_BLOCK_VALUES) {
        PickleBlock *block;
        TRY(mem_new(&block, 1, sizeof *block, "pickle"));
        block->next = pickle->blocks;
        pickle->blocks = block;
        pickle->used = 0;
    }
    *value = &pickle->blocks->values[pickle->used++];
    (*value)->kind = kind;
    return OK;
}

static Status push_pointer(PicklePointers *pointers, PickleValue *value)
{
    TRY(mem_grow(&pointers->items, &pointers->room, pointers->count, sizeof(PickleValue *),
                 "pickle"));
    pointers->items[pointers->count++] = value;
    return OK;
}

Status pickle_push_new(Pickle *pickle, PickleKind kind, PickleValue **value)
{
    TRY(new_value(pickle, kind, value));
    return push_pointer(&pickle->stack, *value);
}

Status pickle_top(Pickle *pickle, bool popped, PickleValue **value)
{
    PicklePointers *stack = &pickle->stack;
    if (stack->count == 0 || stack->items[stack->count - 1]->kind == PICKLE_MARK)
        return pickle_refuse(pickle, ERR_INPUT, "the stack is empty");
    *value = stack->items[stack->count - 1];
    stack->count -= popped;
    return OK;
}

/* Where the values behind the last mark begin. */
static Status find_mark(Pickle *pickle, size_t *first)
{
    size_t at = pickle->stack.count;
    while (at > 0 && pickle->stack.items[at - 1]->kind != PICKLE_MARK)
        at--;
    if (at == 0)
        return pickle_refuse(pickle, ERR_INPUT, "a mark is missing");
    *first = at;
    return OK;
}

/* Appends the COUNT topmost values to the list or dict LIST and takes them off. */
static Status append_top(Pickle *pickle, PickleValue *list, size_t count)
{
    PicklePointers *stack = &pickle->stack;
    TRY(mem_reserve(&list->items, &list->room, list->count, count, sizeof(PickleValue *),
                    "pickle"));
    if (count > 0)
        memcpy(list->items + list->count, stack->items + stack->count - count,
               count * sizeof(PickleValue *));
    list->count += count;
    stack->count -= count;
    return OK;
}

/* What lies behind the last mark into the list or dict below it. */
static Status append_marked(Pickle *pickle, PickleKind kind)
{
    size_t first = 0;
    PickleValue *list = NULL;
    TRY(find_mark(pickle, &first));
    size_t count = pickle->stack.count - first;
    if (first < 2 || pickle->stack.items[first - 2]->kind != kind ||
        (kind == PICKLE_DICT && count % 2 != 0))
        return pickle_refuse(pickle, ERR_INPUT, "no %s to append to",
                             kind == PICKLE_LIST ? "list" : "dict");
    list = pickle->stack.items[first - 2];
    TRY(append_top(pickle, list, count));
    pickle->stack.count--; /* the mark */
    return OK;
}

static Status append_few(Pickle *pickle, PickleKind kind, size_t count)
{
    size_t depth = pickle->stack.count;
    if (depth <= count || pickle->stack.items[depth - count - 1]->kind != kind)
        return pickle_refuse(pickle, ERR_INPUT, "no %s to append to",
                             kind == PICKLE_LIST ? "list" : "dict");
    for (size_t i = 0; i < count; i++)
        if (pickle->stack.items[depth - 1 - i]->kind == PICKLE_MARK)
            return pickle_refuse(pickle, ERR_INPUT, "a mark where a value is wanted");
    return append_top(pickle, pickle->stack.items[depth - count - 1], count);
}

/* A tuple of the COUNT topmost values. */
static Status make_tuple(Pickle *pickle, size_t count)
{
    PickleValue *tuple = NULL;
    if (pickle->stack.count < count)
        return pickle_refuse(pickle, ERR_INPUT, "the stack is empty");
    TRY(new_value(pickle, PICKLE_LIST, &tuple));
    TRY(append_top(pickle, tuple, count));
    return push_pointer(&pickle->stack, tuple);
}

static Status make_marked_tuple(Pickle *pickle)
{
    size_t first = 0;
    PickleValue *tuple = NULL;
    TRY(find_mark(pickle, &first));
    TRY(new_value(pickle, PICKLE_LIST, &tuple));
    TRY(append_top(pickle, tuple, pickle->stack.count - first));
    pickle->stack.items[pickle->stack.count - 1] = tuple; /* in place of the mark */
    return OK;
}

static Status take(Pickle *pickle, size_t bytes, const unsigned char **data)
{
    if ((size_t)(pickle->end - pickle->at) < bytes)
        return pickle_refuse(pickle, ERR_INPUT, "ends in the middle (is it truncated?)");
    *data = pickle->at;
    pickle->at += bytes;
    return OK;
}

static Status take_number(Pickle *pickle, int bytes, uint64_t *value)
{
    const unsigned char *data = NULL;
    TRY(take(pickle, (size_t)bytes, &data));
    *value = 0;
    for (int i = 0; i < bytes; i++)
        *value |= (uint64_t)data[i] << 8 * i;
    return OK;
}

Status pickle_push_integer(Pickle *pickle, PickleKind kind, int64_t number)
{
    PickleValue *value = NULL;
    TRY(pickle_push_new(pickle, kind, &value));
    value->integer = number;
    return OK;
}

static Status push_unsigned(Pickle *pickle, int bytes)
{
    uint64_t number = 0;
    TRY(take_number(pickle, bytes, &number));
    return pickle_push_integer(pickle, PICKLE_INTEGER,
                               bytes == 4 ? (int32_t)number : (int64_t)number);
}

/* LONG1: two's complement of up to 8 bytes. */
static Status push_long(Pickle *pickle)
{
    uint64_t bytes = 0;
    uint64_t number = 0;
    TRY(take_number(pickle, 1, &bytes));
    if (bytes > 8)
        return pickle_refuse(pickle, ERR_UNSUPPORTED, "a number of %" PRIu64 " bytes", bytes);
    TRY(take_number(pickle, (int)bytes, &number));
    if (bytes > 0 && bytes < 8 && (number >> (8 * bytes - 1)) != 0)
        number |= UINT64_MAX << 8 * bytes;
    return pickle_push_integer(pickle, PICKLE_INTEGER, (int64_t)number);
}

static Status push_real(Pickle *pickle)
{
    PickleValue *value = NULL;
    const unsigned char *data = NULL;
    uint64_t bits = 0;
    TRY(take(pickle, 8, &data));
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | data[i];
    TRY(pickle_push_new(pickle, PICKLE_REAL, &value));
    memcpy(&value->real, &bits, sizeof bits);
    return OK;
}

static Status push_text(Pickle *pickle, int length_bytes)
{
    PickleValue *value = NULL;
    uint64_t length = 0;
    const unsigned char *data = NULL;
    TRY(take_number(pickle, length_bytes, &length));
    TRY(take(pickle, length, &data));
    TRY(pickle_push_new(pickle, PICKLE_TEXT, &value));
    value->text = (const char *)data;
    value->length = length;
    return OK;
}

/* GLOBAL: two lines, module and name. */
static Status push_global(Pickle *pickle)
{
    char name[PICKLE_MAX_NAME];
    size_t used = 0;
    for (int lines = 0; lines < 2;) {
        const unsigned char *c = NULL;
        TRY(take(pickle, 1, &c));
        if (used == sizeof name - 1)
            return pickle_refuse(pickle, ERR_UNSUPPORTED, "a name is too long");
        name[used++] = *c == '\n' ? ' ' : (char)*c;
        lines += *c == '\n';
    }
    name[used - 1] = '\0';
    return pickle_push_callable(pickle, name);
}

/* STACK_GLOBAL: the same from two texts on the stack. */
static Status push_stack_global(Pickle *pickle)
{
    PickleValue *name = NULL;
    PickleValue *module = NULL;
    char both[PICKLE_MAX_NAME];
    TRY(pickle_top(pickle, true, &name));
    TRY(pickle_top(pickle, true, &module));
    if (name->kind != PICKLE_TEXT || module->kind != PICKLE_TEXT ||
        name->length + module->length + 2 > sizeof both)
        return pickle_refuse(pickle, ERR_INPUT, "a name is wanted");
    snprintf(both, sizeof both, "%.*s %.*s", (int)module->length, module->text, (int)name->length,
             name->text);
    return pickle_push_callable(pickle, both);
}

static Status put_memo(Pickle *pickle, uint64_t index)
{
    PickleValue *value = NULL;
    TRY(pickle_top(pickle, false, &value));
    if (index > (uint64_t)(pickle->end - pickle->begin))
        return pickle_refuse(pickle, ERR_INPUT, "memo %" PRIu64 " of a shorter pickle", index);
    while (pickle->memo.count <= index)
        TRY(push_pointer(&pickle->memo, NULL));
    pickle->memo.items[index] = value;
    return OK;
}

static Status get_memo(Pickle *pickle, uint64_t index)
{
    if (index >= pickle->memo.count || pickle->memo.items[index] == NULL)
        return pickle_refuse(pickle, ERR_INPUT, "memo %" PRIu64 " was never put", index);
    return push_pointer(&pickle->stack, pickle->memo.items[index]);
}

static Status memo(Pickle *pickle, int bytes, bool put)
{
    uint64_t index = 0;
    TRY(take_number(pickle, bytes, &index));
    return put ? put_memo(pickle, index) : get_memo(pickle, index);
}

static Status finish(Pickle *pickle)
{
    TRY(pickle_top(pickle, true, &pickle->root));
    return pickle->stack.count == 0
               ? STATUS_END
               : pickle_refuse(pickle, ERR_INPUT, "values are left on the stack");
}

static Status skip(Pickle *pickle, size_t bytes)
{
    const unsigned char *unused = NULL;
    return take(pickle, bytes, &unused);
}

static Status execute(Pickle *pickle, unsigned char opcode)
{
    PickleValue *value = NULL;
    switch (opcode) {
    case 0x80: /* PROTO */
        return skip(pickle, 1);
    case 0x95: /* FRAME */
        return skip(pickle, 8);
    case '.':
        return finish(pickle);
    case '(':
        return pickle_push_new(pickle, PICKLE_MARK, &value);
    case '}':
        return pickle_push_new(pickle, PICKLE_DICT, &value);
    case ']':
        return pickle_push_new(pickle, PICKLE_LIST, &value);
    case ')':
        return make_tuple(pickle, 0);
    case 0x85:
    case 0x86:
    case 0x87: /* TUPLE1 to TUPLE3 */
        return make_tuple(pickle, (size_t)opcode - 0x84);
    case 't':
        return make_marked_tuple(pickle);
    case 'a':
        return append_few(pickle, PICKLE_LIST, 1);
    case 'e':
        return append_marked(pickle, PICKLE_LIST);
    case 's':
        return append_few(pickle, PICKLE_DICT, 2);
    case 'u':
        return append_marked(pickle, PICKLE_DICT);
    case 'q':
        return memo(pickle, 1, true);
    case 'r':
        return memo(pickle, 4, true);
    case 0x94: /* MEMOIZE */
        return put_memo(pickle, pickle->memo.count);
    case 'h':
        return memo(pickle, 1, false);
    case 'j':
        return memo(pickle, 4, false);
    case 'X':
        return push_text(pickle, 4);
    case 0x8C: /* SHORT_BINUNICODE */
        return push_text(pickle, 1);
    case 'J':
        return push_unsigned(pickle, 4);
    case 'K':
        return push_unsigned(pickle, 1);
    case 'M':
        return push_unsigned(pickle, 2);
    case 0x8A: /* LONG1 */
        return push_long(pickle);
    case 'G':
        return push_real(pickle);
    case 'N':
        return pickle_push_new(pickle, PICKLE_NONE, &value);
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return pickle_push_integer(pickle, PICKLE_BOOL, opcode == 0x88);
    case 'c':
        return push_global(pickle);
    case 0x93: /* STACK_GLOBAL */
        return push_stack_global(pickle);
    case 'Q':
        return pickle_push_storage(pickle);
    case 'R':
        return pickle_reduce(pickle);
    default:
        return pickle_refuse(
            pickle, ERR_UNSUPPORTED,
            "opcode 0x%02X; only tensors, dicts, lists, numbers and texts are read", opcode);
    }
}

static Status run(Pickle *pickle)
{
    for (;;) {
        const unsigned char *opcode = NULL;
        TRY(take(pickle, 1, &opcode));
        Status status = execute(pickle, *opcode);
        if (status != OK)
            return status == STATUS_END ? OK : status;
    }
}

static Status check_byte_order(const Pickle *pickle)
{
    const ZipEntry *order = zip_find_below(&pickle->zip, "byteorder", 9);
    if (order != NULL && (order->bytes != 6 || memcmp(order->data, "little", 6) != 0))
        return fail(ERR_UNSUPPORTED, "%s: byteorder: only little-endian files are read",
                    pickle->file);
    return OK;
}

static Status open_archive(Pickle *pickle, const unsigned char *data, size_t bytes)
{
    if (bytes < 4 || memcmp(data, "PK\x03\x04", 4) != 0)
        return fail(ERR_INPUT, "%s: not a file of torch.save() (torch 1.6 or newer)", pickle->file);
    TRY(zip_view(pickle->file, data, bytes, &pickle->zip));
    TRY(check_byte_order(pickle));
    const ZipEntry *program = zip_find_below(&pickle->zip, "data.pkl", 8);
    if (program == NULL)
        return fail(ERR_INPUT, "%s: data.pkl is not in the archive", pickle->file);
    pickle->begin = program->data;
    pickle->at = program->data;
    pickle->end = program->data + program->bytes;
    return run(pickle);
}

Status pickle_view(const char *file, const unsigned char *data, size_t bytes, Pickle **out)
{
    Pickle *pickle;
    TRY(mem_new(&pickle, 1, sizeof *pickle, "pickle"));
    pickle->file = file;
    Status status = open_archive(pickle, data, bytes);
    if (status != OK) {
        pickle_free(pickle);
        return status;
    }
    *out = pickle;
    return OK;
}

static void free_values(const PickleBlock *block, size_t used)
{
    for (size_t i = 0; i < used; i++) {
        const PickleValue *value = &block->values[i];
        if (value->kind == PICKLE_LIST || value->kind == PICKLE_DICT)
            mem_free(value->items);
        if (value->kind == PICKLE_TENSOR || value->kind == PICKLE_STORAGE)
            mem_free(value->tensor);
    }
}

void pickle_free(Pickle *pickle)
{
    if (pickle == NULL)
        return;
    size_t used = pickle->used;
    for (PickleBlock *block = pickle->blocks; block != NULL; used = PICKLE_BLOCK_VALUES) {
        PickleBlock *next = block->next;
        free_values(block, used);
        mem_free(block);
        block = next;
    }
    mem_free(pickle->stack.items);
    mem_free(pickle->memo.items);
    zip_free(&pickle->zip);
    mem_free(pickle);
}

const PickleValue *pickle_root(const Pickle *pickle)
{
    return pickle->root;
}

bool pickle_is_text(const PickleValue *value, const char *text)
{
    return value->kind == PICKLE_TEXT && value->length == strlen(text) &&
           memcmp(value->text, text, value->length) == 0;
}

const PickleValue *pickle_get(const PickleValue *value, const char *key)
{
    if (value == NULL || value->kind != PICKLE_DICT)
        return NULL;
    for (size_t i = 0; i + 1 < value->count; i += 2)
        if (pickle_is_text(value->items[i], key))
            return value->items[i + 1];
    return NULL;
}
