/* Reading .npy arrays (NumPy format 1.0, 2.0 and 3.0: magic, version, header length, a Python dict,
 * data). */
#ifndef TRACES_NPY_H
#define TRACES_NPY_H

#include "traces/safetensors.h"

/* Describes the array in DATA [BYTES] as TENSOR, whose name is "" and whose data points into DATA.
 * Little-endian booleans, integers and floats in C order, at most TENSOR_MAX_RANK dimensions. FILE
 * stands for it in errors. Fails with ERR_INPUT for what is no .npy array, is truncated or has
 * bytes after its data; with ERR_UNSUPPORTED for another dtype, byte order or Fortran order. */
Status npy_view(const char *file, const void *data, size_t bytes, Tensor *tensor);

#endif
