#include "exec/text/component.h"

#include <string.h>

#include "exec/text/utf8.h"

Status component_type(const JsonAt *at, const char *const *names, int *type)
{
    JsonAt value;
    TRY(json_need(at, "type", &value));
    return json_choice(&value, names, type);
}

Status component_flag(const JsonAt *at, const char *key, bool *value)
{
    JsonAt flag;
    return json_find(at, key, &flag) ? json_bool(&flag, value) : OK;
}

Status component_need_flag(const JsonAt *at, const char *key, bool *value)
{
    JsonAt flag;
    TRY(json_need(at, key, &flag));
    return json_bool(&flag, value);
}

Status component_need_text(const JsonAt *at, const char *key, Span *value)
{
    JsonAt text;
    const char *found = NULL;
    TRY(json_need(at, key, &text));
    TRY(json_text(&text, &found));
    *value = span_of(found);
    return OK;
}

static Status read_scheme(const JsonAt *at, MetaspaceOptions *options)
{
    static const char *const SCHEMES[] = {"never", "first", "always", NULL};
    JsonAt value;
    int scheme = PREFIX_ALWAYS;
    bool prefix = true;
    bool given = json_find(at, "prepend_scheme", &value);
    if (given)
        TRY(json_choice(&value, SCHEMES, &scheme));
    TRY(component_flag(at, "add_prefix_space", &prefix));
    if (!prefix && given && scheme != PREFIX_NEVER)
        return json_fail(&value, "\"%s\" contradicts \"add_prefix_space\": false", SCHEMES[scheme]);
    options->scheme = prefix ? (PrefixScheme)scheme : PREFIX_NEVER;
    return OK;
}

Status component_sequence(const JsonAt *at, const char *key, JsonAt *list)
{
    const char *const keys[] = {"type", key, NULL};
    TRY(json_only_keys(at, keys));
    TRY(json_need(at, key, list));
    return cJSON_IsArray(list->node) ? OK : json_fail(list, "must be an array");
}

Status component_metaspace(const JsonAt *at, MetaspaceOptions *options)
{
    static const char *const KEYS[] = {
        "type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep", NULL};
    Span spelled;
    options->split = true;
    TRY(json_only_keys(at, KEYS));
    TRY(component_need_text(at, "replacement", &options->replacement));
    Span mark = options->replacement;
    if (mark.bytes == 0 || utf8_length(mark.data[0]) != mark.bytes)
        return json_fail(at, "the replacement must be one character");
    JsonAt repeat;
    if (json_find(at, "str_rep", &repeat)) {
        TRY(component_need_text(at, "str_rep", &spelled));
        if (spelled.bytes != mark.bytes || memcmp(spelled.data, mark.data, mark.bytes) != 0)
            return json_fail(&repeat, "must be the replacement");
    }
    TRY(component_flag(at, "split", &options->split));
    return read_scheme(at, options);
}
