/* What the components of a tokenizer.json share in being read. */
#ifndef EXEC_TEXT_COMPONENT_H
#define EXEC_TEXT_COMPONENT_H

#include "base/json.h"
#include "exec/text/pretokenizer_stage.h"

/* The object's "type", one of NAMES (NULL-terminated). */
Status component_type(const JsonAt *at, const char *const *names, int *type);
/* A flag that may be absent: *VALUE then stays. */
Status component_flag(const JsonAt *at, const char *key, bool *value);
Status component_need_flag(const JsonAt *at, const char *key, bool *value);
Status component_need_text(const JsonAt *at, const char *key, Span *value);

/* The array KEY of a "Sequence", which has nothing else beside its type. */
Status component_sequence(const JsonAt *at, const char *key, JsonAt *list);

/* Pre-tokenizer and decoder "Metaspace" take the same options. */
typedef struct {
    Span replacement; /* one character; points into the JSON tree */
    PrefixScheme scheme;
    bool split;
} MetaspaceOptions;

/* Reads "add_prefix_space" of older files as well: false means the scheme never. */
Status component_metaspace(const JsonAt *at, MetaspaceOptions *options);

#endif
