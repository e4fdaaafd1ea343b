/* Regular expressions of a tokenizer.json, through PCRE2 with its JIT.
 *
 * The files are written for Oniguruma's Ruby syntax, whose meaning is kept: \s, \d, \w, \h and \b
 * are Oniguruma's Unicode classes and not PCRE2's, ^ and $ match at every line. What the two
 * understand differently beyond that (class intersections and nested classes, possessive intervals,
 * POSIX classes, (?m)) is refused. General categories are those of the Unicode version of PCRE2. */
#ifndef EXEC_TEXT_PATTERN_H
#define EXEC_TEXT_PATTERN_H

#include <stdbool.h>

#include "base/json.h"
#include "exec/text/buffers.h"

typedef struct Pattern Pattern;

/* AT is the place for messages. Fails with ERR_INPUT. */
Status pattern_new(const JsonAt *at, const char *regex, Pattern **pattern);
void pattern_free(Pattern *pattern);
/* True when it can match no text at all. */
bool pattern_matches_nothing(const Pattern *pattern);
/* Finds the first match at or after FROM in TEXT (valid UTF-8): *START, *END, or *FOUND false.
 * Fails with ERR_INPUT when the match exceeds PCRE2's limits. Not thread-safe. */
Status pattern_find(Pattern *pattern, Span text, size_t from, bool *found, size_t *start,
                    size_t *end);

/* Appends to OUT the pattern that means to PCRE2 what REGEX means to Oniguruma. */
Status pattern_translate(const JsonAt *at, const char *regex, ByteBuffer *out);

#endif
