/* What tests/test_overlap.c pins, on the GPU. */
#define TEST_DEVICE "cuda"
#include "tests/test_overlap.c"
