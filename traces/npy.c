#include "traces/npy.h"

#include <stdbool.h>
#include <string.h>

/* The header is a Python dict: {'descr': '<i4', 'fortran_order': False, 'shape': (3, 4), } */
typedef struct {
    const char *file;
    const char *at;
    const char *end;
    bool has_descr, has_order, has_shape;
    char descr[16];
    bool fortran_order;
} Header;

static Status bad_header(const Header *header, const char *why)
{
    return fail(ERR_INPUT, "%s: header: %s", header->file, why);
}

static void skip_blanks(Header *header)
{
    while (header->at < header->end && (*header->at == ' ' || *header->at == '\n'))
        header->at++;
}

/* Skips blanks, then takes C if it is next. */
static bool take(Header *header, char c)
{
    skip_blanks(header);
    if (header->at == header->end || *header->at != c)
        return false;
    header->at++;
    return true;
}

static bool take_word(Header *header, const char *word)
{
    size_t length = strlen(word);
    skip_blanks(header);
    if ((size_t)(header->end - header->at) < length || memcmp(header->at, word, length) != 0)
        return false;
    header->at += length;
    return true;
}

/* A quoted string without escapes into TEXT [ROOM]. */
static Status take_string(Header *header, char *text, size_t room)
{
    skip_blanks(header);
    char quote = header->at < header->end ? *header->at : '\0';
    if (quote != '\'' && quote != '"')
        return bad_header(header, "a string is wanted");
    const char *from = header->at + 1;
    const char *to = memchr(from, quote, (size_t)(header->end - from));
    if (to == NULL || (size_t)(to - from) >= room)
        return bad_header(header, "a string does not end, or is too long");
    memcpy(text, from, (size_t)(to - from));
    text[to - from] = '\0';
    header->at = to + 1;
    return OK;
}

static Status take_number(Header *header, uint64_t *value)
{
    skip_blanks(header);
    const char *from = header->at;
    *value = 0;
    while (header->at < header->end && *header->at >= '0' && *header->at <= '9') {
        uint64_t digit = (uint64_t)(*header->at++ - '0');
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, digit, value))
            return bad_header(header, "shape: a dimension is too large");
    }
    return header->at > from ? OK : bad_header(header, "shape: a dimension is wanted");
}

/* "()", "(3,)", "(3, 4)" */
static Status take_shape(Header *header, Tensor *tensor)
{
    if (!take(header, '('))
        return bad_header(header, "shape: a tuple is wanted");
    while (!take(header, ')')) {
        if (tensor->rank == TENSOR_MAX_RANK)
            return bad_header(header, "shape: too many dimensions");
        TRY(take_number(header, &tensor->shape[tensor->rank++]));
        if (!take(header, ',') && (header->at == header->end || *header->at != ')'))
            return bad_header(header, "shape: ',' or ')' is wanted");
    }
    return OK;
}

static Status take_pair(Header *header, Tensor *tensor)
{
    char key[32];
    bool *seen = NULL;
    TRY(take_string(header, key, sizeof key));
    if (!take(header, ':'))
        return bad_header(header, "':' is wanted");
    if (strcmp(key, "descr") == 0) {
        seen = &header->has_descr;
        TRY(take_string(header, header->descr, sizeof header->descr));
    } else if (strcmp(key, "shape") == 0) {
        seen = &header->has_shape;
        TRY(take_shape(header, tensor));
    } else if (strcmp(key, "fortran_order") == 0) {
        seen = &header->has_order;
        header->fortran_order = take_word(header, "True");
        if (!header->fortran_order && !take_word(header, "False"))
            return bad_header(header, "fortran_order: True or False is wanted");
    } else {
        return fail(ERR_INPUT, "%s: header: unknown key '%s'", header->file, key);
    }
    if (*seen)
        return fail(ERR_INPUT, "%s: header: the key '%s' stands twice", header->file, key);
    *seen = true;
    return OK;
}

static Status take_dict(Header *header, Tensor *tensor)
{
    if (!take(header, '{'))
        return bad_header(header, "'{' is wanted");
    while (!take(header, '}')) {
        TRY(take_pair(header, tensor));
        if (!take(header, ',') && (header->at == header->end || *header->at != '}'))
            return bad_header(header, "',' or '}' is wanted");
    }
    skip_blanks(header);
    if (header->at != header->end)
        return bad_header(header, "text after the '}'");
    if (!header->has_descr || !header->has_order || !header->has_shape)
        return bad_header(header, "descr, fortran_order and shape are wanted");
    return OK;
}

static Status dtype_from_descr(const Header *header, Dtype *dtype)
{
    static const struct {
        const char *code;
        Dtype dtype;
    } CODES[] = {
        {"b1", DTYPE_BOOL}, {"u1", DTYPE_U8},  {"i1", DTYPE_I8},  {"u2", DTYPE_U16},
        {"i2", DTYPE_I16},  {"u4", DTYPE_U32}, {"i4", DTYPE_I32}, {"u8", DTYPE_U64},
        {"i8", DTYPE_I64},  {"f2", DTYPE_F16}, {"f4", DTYPE_F32}, {"f8", DTYPE_F64},
    };
    char order = header->descr[0];
    for (size_t i = 0; i < sizeof CODES / sizeof *CODES && order != '\0'; i++) {
        bool one_byte = CODES[i].code[1] == '1';
        if (strcmp(header->descr + 1, CODES[i].code) == 0 &&
            (order == '<' || (order == '|' && one_byte))) {
            *dtype = CODES[i].dtype;
            return OK;
        }
    }
    return fail(ERR_UNSUPPORTED,
                "%s: header: descr '%s' is not supported, only little-endian "
                "numbers are",
                header->file, header->descr);
}

static Status check_data(const char *file, const Tensor *tensor, size_t bytes)
{
    size_t wanted = dtype_bytes(tensor->dtype);
    bool overflow = false;
    for (uint32_t i = 0; i < tensor->rank; i++)
        overflow |= __builtin_mul_overflow(wanted, tensor->shape[i], &wanted);
    if (overflow)
        return fail(ERR_INPUT, "%s: header: the shape is too large", file);
    if (wanted != bytes)
        return fail(ERR_INPUT, "%s: %zu data bytes, but descr and shape make %zu%s", file, bytes,
                    wanted, bytes < wanted ? " (is it truncated?)" : "");
    return OK;
}

/* Finds the header's text and what comes before it. */
static Status split_file(const char *file, const unsigned char *data, size_t bytes, Header *header)
{
    static const unsigned char MAGIC[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    if (bytes < 10 || memcmp(data, MAGIC, sizeof MAGIC) != 0)
        return fail(ERR_INPUT, "%s: not a .npy file", file);
    unsigned major = data[6];
    if (major < 1 || major > 3 || data[7] != 0)
        return fail(ERR_UNSUPPORTED, "%s: format %u.%u is not supported, 1.0, 2.0 and 3.0 are",
                    file, major, data[7]);
    size_t start = major == 1 ? 10 : 12;
    if (bytes < start)
        return fail(ERR_INPUT, "%s: %zu bytes are too short for a .npy file", file, bytes);
    size_t length = 0;
    for (size_t i = 8; i < start; i++)
        length |= (size_t)data[i] << 8 * (i - 8);
    if (length > bytes - start)
        return fail(ERR_INPUT, "%s: the header claims %zu bytes, the file has %zu after its size",
                    file, length, bytes - start);
    const char *text = (const char *)data + start;
    *header = (Header){.file = file, .at = text, .end = text + length};
    return OK;
}

Status npy_view(const char *file, const void *data, size_t bytes, Tensor *tensor)
{
    Header header;
    TRY(split_file(file, data, bytes, &header));
    Tensor found = {.name = "", .data = header.end};
    found.bytes = bytes - (size_t)((const unsigned char *)found.data - (const unsigned char *)data);
    TRY(take_dict(&header, &found));
    TRY(dtype_from_descr(&header, &found.dtype));
    TRY(check_data(file, &found, found.bytes));
    if (header.fortran_order && found.rank > 1)
        return fail(ERR_UNSUPPORTED, "%s: header: Fortran order is not supported", file);
    *tensor = found;
    return OK;
}
