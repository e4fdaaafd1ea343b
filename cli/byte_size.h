/* Sizes in bytes as people give them. */
#ifndef CLI_BYTE_SIZE_H
#define CLI_BYTE_SIZE_H

#include "cli/options.h"

/* Reads "123456", "80GiB", "1.5MiB" or "500MB": above 0, at most 2^53. Fails with ERR_USAGE naming
 * OPTION of TABLE. */
Status byte_size(const OptionTable *table, const char *option, const char *text, double *bytes);

#endif
