/* What tests/test_set_plan.c pins, on the GPU. */
#define TEST_DEVICE "cuda"
#include "tests/test_set_plan.c"
