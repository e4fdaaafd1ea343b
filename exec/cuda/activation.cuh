/* The activations of exec/model.h in f32. */
#ifndef EXEC_CUDA_ACTIVATION_CUH
#define EXEC_CUDA_ACTIVATION_CUH

#include <stdint.h>

extern "C" {
#include "exec/model.h"
}

__device__ inline float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

/* What SHAPE's second matrix gets; UP is 1 where there is no gate. */
__device__ inline float activated(const FfnShape &shape, float gate, float up)
{
    float g;
    switch (shape.activation) {
    case ACTIVATION_CLAMPED_SWIGLU:
        g = gate > shape.limit ? shape.limit : gate;
        up = up > shape.limit ? shape.limit : up < -shape.limit ? -shape.limit : up;
        return g * sigmoid(shape.alpha * g) * (up + 1);
    case ACTIVATION_GELU:
        return 0.5f * gate * (1 + erff(gate * 0.70710678118654752f)) * up;
    case ACTIVATION_GELU_TANH:
        g = 0.79788456080286536f * (gate + 0.044715f * gate * gate * gate);
        return 0.5f * gate * (1 + tanhf(g)) * up;
    case ACTIVATION_RELU:
        return (gate < 0 ? 0 : gate) * up;
    default:
        return gate * sigmoid(gate) * up;
    }
}

#endif
