/* The config.json of Qwen3-MoE models. */
#ifndef EXEC_QWEN3_MOE_H
#define EXEC_QWEN3_MOE_H

#include "base/json.h"
#include "exec/checkpoint.h"

/* Fills CONFIG from ROOT as Architecture.read_config wants it. Keys that change nothing in a
 * forward pass are not looked at. Fails with ERR_INPUT, or with ERR_UNSUPPORTED for a feature that
 * the executor does not have. */
Status qwen3_moe_read_config(const JsonAt *root, ModelConfig *config);

#endif
