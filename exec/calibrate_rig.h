/* A device with nothing but what is copied to it and what is multiplied beside. Shared by the files
 * that measure copies (exec/calibrate_copies*.c). */
#ifndef EXEC_CALIBRATE_RIG_H
#define EXEC_CALIBRATE_RIG_H

#include "exec/backend.h"
#include "exec/calibrate_parts.h"

typedef struct {
    Calibration *calibration;
    const Backend *backend;
    Device *device;
    size_t weight_bytes; /* of an element */
    uint32_t side;
    size_t most_bytes;   /* of a copy */
    unsigned char *host; /* [2 * most_bytes] */
    unsigned char *at;   /* device [most_bytes] */
    Matrix matrix;       /* [side][side] */
    float *in;           /* [MANY_ROWS][side] */
    float *out;
} Rig;

/* Of an expert that takes BYTES. */
FfnShape rig_shape(const Rig *rig, size_t bytes);
/* Queues TIMES products of ROWS. */
Status rig_multiply(const Rig *rig, uint32_t rows, uint32_t times);

/* Copies ahead. */
Status calibrate_copies_ahead(const Rig *rig);

#endif
