#include "traces/safetensors.h"

#include <assert.h>
#include <string.h>

#include "traces/f16.h"

static const struct {
    const char *name;
    size_t bytes;
} DTYPES[DTYPE_COUNT] = {
    [DTYPE_BOOL] = {"BOOL", 1},       [DTYPE_U8] = {"U8", 1},           [DTYPE_I8] = {"I8", 1},
    [DTYPE_F8_E4M3] = {"F8_E4M3", 1}, [DTYPE_F8_E5M2] = {"F8_E5M2", 1}, [DTYPE_I16] = {"I16", 2},
    [DTYPE_U16] = {"U16", 2},         [DTYPE_F16] = {"F16", 2},         [DTYPE_BF16] = {"BF16", 2},
    [DTYPE_I32] = {"I32", 4},         [DTYPE_U32] = {"U32", 4},         [DTYPE_F32] = {"F32", 4},
    [DTYPE_I64] = {"I64", 8},         [DTYPE_U64] = {"U64", 8},         [DTYPE_F64] = {"F64", 8},
};

const char *dtype_name(Dtype dtype)
{
    assert(dtype >= 0 && dtype < DTYPE_COUNT);
    return DTYPES[dtype].name;
}

size_t dtype_bytes(Dtype dtype)
{
    assert(dtype >= 0 && dtype < DTYPE_COUNT);
    return DTYPES[dtype].bytes;
}

static void f32_from_bf16(const unsigned char *restrict source, size_t count, float *restrict out)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, source + 2 * i, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

void tensor_to_f32(const Tensor *tensor, size_t first, size_t count, float *out)
{
    size_t size = dtype_bytes(tensor->dtype);
    assert(first <= tensor->bytes / size && count <= tensor->bytes / size - first);
    if (count == 0)
        return;
    const unsigned char *source = (const unsigned char *)tensor->data + first * size;
    if (tensor->dtype == DTYPE_F32) {
        memcpy(out, source, count * sizeof *out);
    } else if (tensor->dtype == DTYPE_F16) {
        f16_decode(source, count, out);
    } else {
        assert(tensor->dtype == DTYPE_BF16);
        f32_from_bf16(source, count, out);
    }
}

enum { FINITE_BLOCK = 4096 };

/* Nonzero when one of COUNT 16-bit floats has the exponent bits of MASK all set. */
static uint16_t any_special_16(const unsigned char *source, size_t count, uint16_t mask)
{
    uint16_t special = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, source + 2 * i, sizeof bits);
        special |= (uint16_t)((bits & mask) == mask);
    }
    return special;
}

static uint32_t any_special_32(const unsigned char *source, size_t count)
{
    const uint32_t mask = 0x7F800000u;
    uint32_t special = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, source + 4 * i, sizeof bits);
        special |= (uint32_t)((bits & mask) == mask);
    }
    return special;
}

static int any_special(Dtype dtype, const unsigned char *source, size_t count)
{
    if (dtype == DTYPE_F32)
        return any_special_32(source, count) != 0;
    assert(dtype == DTYPE_F16 || dtype == DTYPE_BF16);
    return any_special_16(source, count, dtype == DTYPE_F16 ? 0x7C00 : 0x7F80) != 0;
}

Status tensor_check_finite(const Tensor *tensor, const char *file)
{
    const unsigned char *source = tensor->data;
    size_t size = dtype_bytes(tensor->dtype);
    size_t count = tensor->bytes / size;
    for (size_t block = 0; block < count; block += FINITE_BLOCK) {
        size_t length = count - block < FINITE_BLOCK ? count - block : FINITE_BLOCK;
        if (!any_special(tensor->dtype, source + block * size, length))
            continue;
        size_t i = block;
        while (!any_special(tensor->dtype, source + i * size, 1))
            i++;
        float value;
        tensor_to_f32(tensor, i, 1, &value);
        return fail(ERR_INPUT, "%s: tensor %s: element %zu is %s", file, tensor->name, i,
                    value != value ? "NaN" : "infinite");
    }
    return OK;
}
