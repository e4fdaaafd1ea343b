/* Rewrites text before it is cut into words, as "normalizer" of a tokenizer.json says.
 *
 * Not thread-safe: what it returns stands in its own buffers until the next call. */
#ifndef EXEC_TEXT_NORMALIZER_H
#define EXEC_TEXT_NORMALIZER_H

#include <stdbool.h>

#include "base/json.h"
#include "exec/text/buffers.h"

typedef struct Normalizer Normalizer;

/* AT may be null: then text stays as it is. Fails with ERR_INPUT for what is not supported. */
Status normalizer_load(const JsonAt *at, Normalizer **normalizer);
void normalizer_free(Normalizer *normalizer);
/* *OUT is TEXT (valid UTF-8) itself or points into the normalizer. *AT_START is cleared when the
 * first character was taken away, so that what is left no longer begins where TEXT did. */
Status normalizer_run(Normalizer *normalizer, Span text, Span *out, bool *at_start);

#endif
