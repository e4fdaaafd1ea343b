#include <inttypes.h>
#include <string.h>

#include "traces/import_tokens.h"

/* The largest id + 1 and whether an id is below -1, in one branch-free pass. -1 becomes 0 by the
 * addition. */
#define SCAN(NAME, TYPE, WIDE)                                                                     \
    static WIDE NAME(const unsigned char *data, size_t count, bool *negative)                      \
    {                                                                                              \
        WIDE most = 0;                                                                             \
        WIDE least = 0;                                                                            \
        for (size_t i = 0; i < count; i++) {                                                       \
            TYPE id;                                                                               \
            memcpy(&id, data + i * sizeof id, sizeof id);                                          \
            WIDE next = (WIDE)((WIDE)id + 1);                                                      \
            most = next > most ? next : most;                                                      \
            least = next < least ? next : least;                                                   \
        }                                                                                          \
        *negative = least < 0;                                                                     \
        return most;                                                                               \
    }

SCAN(scan_u8, uint8_t, int16_t)
SCAN(scan_i8, int8_t, int16_t)
SCAN(scan_u16, uint16_t, int32_t)
SCAN(scan_i16, int16_t, int32_t)
SCAN(scan_u32, uint32_t, int64_t)
SCAN(scan_i32, int32_t, int64_t)

/* Of 64-bit ids: what does not fit 32 bits counts as too large or negative. */
static int64_t scan_64(const unsigned char *data, size_t count, bool *negative)
{
    int64_t most = 0;
    *negative = false;
    for (size_t i = 0; i < count; i++) {
        int64_t id;
        memcpy(&id, data + i * sizeof id, sizeof id);
        int64_t next = id < INT64_MAX ? id + 1 : id;
        most = next > most ? next : most;
        *negative |= id < -1;
    }
    return most;
}

static int64_t scan(const Tensor *ids, size_t count, bool *negative)
{
    switch (ids->dtype) {
    case DTYPE_U8:
        return scan_u8(ids->data, count, negative);
    case DTYPE_I8:
        return scan_i8(ids->data, count, negative);
    case DTYPE_U16:
        return scan_u16(ids->data, count, negative);
    case DTYPE_I16:
        return scan_i16(ids->data, count, negative);
    case DTYPE_U32:
        return scan_u32(ids->data, count, negative);
    case DTYPE_I32:
        return scan_i32(ids->data, count, negative);
    default:
        return scan_64(ids->data, count, negative);
    }
}

static bool is_integer(Dtype dtype)
{
    return dtype == DTYPE_U8 || dtype == DTYPE_I8 || dtype == DTYPE_U16 || dtype == DTYPE_I16 ||
           dtype == DTYPE_U32 || dtype == DTYPE_I32 || dtype == DTYPE_U64 || dtype == DTYPE_I64;
}

bool import_integer_at(const Tensor *array, size_t i, int64_t *value)
{
    size_t width = dtype_bytes(array->dtype);
    uint64_t raw = 0;
    if (!is_integer(array->dtype))
        return false;
    memcpy(&raw, (const unsigned char *)array->data + i * width, width);
    switch (array->dtype) {
    case DTYPE_I8:
        *value = (int8_t)raw;
        break;
    case DTYPE_I16:
        *value = (int16_t)raw;
        break;
    case DTYPE_I32:
        *value = (int32_t)raw;
        break;
    default: /* a u64 above 2^63 shows as negative, and is refused all the same */
        *value = (int64_t)raw;
    }
    return true;
}

/* Names the first id that is below -1 or not below EXPERTS. */
static Status name_bad_id(const char *file, const Tensor *ids, uint32_t experts, size_t count)
{
    size_t top_k = (size_t)ids->shape[2];
    size_t per_token = (size_t)ids->shape[1] * top_k;
    for (size_t i = 0; i < count; i++) {
        int64_t id = 0;
        import_integer_at(ids, i, &id);
        if (id >= -1 && id < (int64_t)experts)
            continue;
        return fail(ERR_INPUT,
                    "%s: token %zu: layer %zu: slot %zu: expert %" PRId64 ", allowed is 0 to %u",
                    file, i / per_token, i % per_token / top_k, i % top_k, id, experts - 1);
    }
    return OK;
}

static Status check_shape(const char *file, const Tensor *ids)
{
    static const uint64_t MOST[3] = {UINT32_MAX, TRACE_MAX_LAYERS, TRACE_MAX_TOP_K};
    static const char *const NAMES[3] = {"tokens", "layers", "top_k"};
    if (!is_integer(ids->dtype))
        return fail(ERR_INPUT, "%s: dtype: %s, expert ids are integers", file,
                    dtype_name(ids->dtype));
    if (ids->rank != 3)
        return fail(ERR_INPUT, "%s: shape: %u dimensions, wanted are 3: [token, layer, k]", file,
                    ids->rank);
    for (int i = 0; i < 3; i++)
        if (ids->shape[i] < 1 || ids->shape[i] > MOST[i])
            return fail(ERR_INPUT,
                        "%s: shape: %" PRIu64 " %s, allowed is 1 to %" PRIu64
                        "; the order is [token, layer, k]",
                        file, ids->shape[i], NAMES[i], MOST[i]);
    return OK;
}

Status import_ids_check(const char *file, const Tensor *ids, uint32_t experts, uint32_t *largest)
{
    TRY(check_shape(file, ids));
    size_t count = ids->bytes / dtype_bytes(ids->dtype);
    uint32_t limit = experts > 0 ? experts : TRACE_MAX_EXPERTS;
    bool negative;
    int64_t next = scan(ids, count, &negative);
    if (negative || next > (int64_t)limit)
        return name_bad_id(file, ids, limit, count);
    *largest = next > (int64_t)ids->shape[2] ? (uint32_t)next : (uint32_t)ids->shape[2];
    return OK;
}

#define WIDEN(TYPE)                                                                                \
    for (size_t i = 0; i < count; i++) {                                                           \
        TYPE id;                                                                                   \
        memcpy(&id, from + i * sizeof id, sizeof id);                                              \
        experts[i] = (uint16_t)id;                                                                 \
    }

/* -1 becomes 0xFFFF, which is EXPERT_DROPPED, by cutting it. */
void import_ids_read(const Tensor *ids, size_t first, size_t count, uint16_t *experts)
{
    const unsigned char *from = (const unsigned char *)ids->data + first * dtype_bytes(ids->dtype);
    switch (ids->dtype) {
    case DTYPE_U8:
        WIDEN(uint8_t)
        break;
    case DTYPE_I8:
        WIDEN(int8_t)
        break;
    case DTYPE_U16:
    case DTYPE_I16:
        memcpy(experts, from, 2 * count);
        break;
    case DTYPE_U32:
    case DTYPE_I32:
        WIDEN(uint32_t)
        break;
    default:
        WIDEN(uint64_t)
    }
}
