/* Reading and writing safetensors files (8-byte little-endian header size, JSON header, data).
 *
 * The file is memory-mapped; tensors point into the map. Everything the header claims is checked
 * before use: its size, names, dtypes, shapes (with checked multiplication), and that the data
 * offsets cover the data exactly, without overlap or hole. Look-up is by binary search over sorted
 * names. */
#ifndef TRACES_SAFETENSORS_H
#define TRACES_SAFETENSORS_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef enum {
    DTYPE_BOOL,
    DTYPE_U8,
    DTYPE_I8,
    DTYPE_F8_E4M3,
    DTYPE_F8_E5M2,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_F32,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_F64,
    DTYPE_COUNT
} Dtype;

const char *dtype_name(Dtype dtype); /* as in the file: "BF16" */
size_t dtype_bytes(Dtype dtype);

enum { TENSOR_MAX_RANK = 8, SAFETENSORS_MAX_HEADER = 100 << 20 };

typedef struct {
    const char *name;
    Dtype dtype;
    uint32_t rank;
    uint64_t shape[TENSOR_MAX_RANK];
    const void *data; /* row-major, little-endian; not necessarily aligned to the element */
    size_t bytes;
    /* No file's: values that are computed (exec/synthetic.h), and DATA is NULL. */
    const struct Synthetic *synthetic;
} Tensor;

typedef struct SafeTensors SafeTensors;

/* Opens PATH. Fails with ERR_INPUT naming the file, the tensor and the reason. */
Status safetensors_open(const char *path, SafeTensors **file);
/* The same for a file that lies in memory, which must outlive *FILE. NAME stands for it in errors.
 */
Status safetensors_view(const char *name, const void *data, size_t bytes, SafeTensors **file);
void safetensors_close(SafeTensors *file);
size_t safetensors_count(const SafeTensors *file);
/* The I-th tensor in name order. */
const Tensor *safetensors_at(const SafeTensors *file, size_t i);
/* NULL when there is none of that name. */
const Tensor *safetensors_find(const SafeTensors *file, const char *name);

/* Converts COUNT elements from element FIRST on of an F32, F16 or BF16 tensor to float. */
void tensor_to_f32(const Tensor *tensor, size_t first, size_t count, float *out);
/* ERR_INPUT ("FILE: tensor NAME: ...") when an F32, F16 or BF16 tensor holds NaN or infinity. */
Status tensor_check_finite(const Tensor *tensor, const char *file);

/* Writes a file whose tensors' names, dtypes and shapes are known, the data in pieces in any order
 * of tensors. */
typedef struct SafeTensorsWriter SafeTensorsWriter;

/* SPECS[n]: data and bytes are ignored. The file appears under PATH only at writer_commit. */
Status safetensors_writer_open(const char *path, const Tensor *specs, size_t n,
                               SafeTensorsWriter **writer);
/* Appends BYTES to the data of tensor I of SPECS. */
Status safetensors_writer_append(SafeTensorsWriter *writer, size_t i, const void *data,
                                 size_t bytes);
/* Fails unless every tensor got all its bytes. Frees WRITER in any case. */
Status safetensors_writer_commit(SafeTensorsWriter *writer);
void safetensors_writer_discard(SafeTensorsWriter *writer);

#endif
