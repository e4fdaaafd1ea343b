
#include "base/memory.h"
#include "exec/text/component.h"
#include "exec/text/pretokenizer_stage.h"
#include "exec/text/unicode.h"
#include "exec/text/utf8.h"

/* Radford et al. 2019 (GPT-2), encoder.py */
static const char GPT2_PATTERN[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
    "|\\s+(?!\\S)|\\s+";

/* Words and runs of other signs, in the sense of unicode_is_word(). */
#define RUST_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}"
static const char WHITESPACE_PATTERN[] = "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+";

static const char *const BEHAVIORS[] = {"Removed",        "Isolated",   "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous", NULL};

typedef Status (*LoadStage)(const JsonAt *at, PreTokenizer *pretokenizer, Stage *stage);

static Status load_behavior(const JsonAt *at, const char *key, bool required, Stage *stage)
{
    JsonAt behavior;
    int index = stage->behavior;
    if (!json_find(at, key, &behavior) && !required)
        return OK;
    TRY(json_need(at, key, &behavior));
    TRY(json_choice(&behavior, BEHAVIORS, &index));
    stage->behavior = (SplitBehavior)index;
    return OK;
}

static Status load_byte_level(const JsonAt *at, PreTokenizer *pretokenizer, Stage *stage)
{
    static const char *const KEYS[] = {"type", "add_prefix_space", "trim_offsets", "use_regex",
                                       NULL};
    bool prefix = false;
    bool trim = false;
    stage->splits = true;
    TRY(json_only_keys(at, KEYS));
    TRY(component_need_flag(at, "add_prefix_space", &prefix));
    TRY(component_flag(at, "trim_offsets", &trim)); /* offsets are not made here */
    TRY(component_flag(at, "use_regex", &stage->splits));
    pretokenizer->byte_level = true;
    stage->behavior = SPLIT_ISOLATED;
    if (prefix) {
        stage->scheme = PREFIX_ALWAYS;
        TRY(bytes_append(&stage->prefix, " ", 1));
    }
    return stage->splits ? pattern_new(at, GPT2_PATTERN, &stage->finder.pattern) : OK;
}

static Status load_split(const JsonAt *at, PreTokenizer *pretokenizer, Stage *stage)
{
    static const char *const KEYS[] = {"type", "pattern", "behavior", "invert", NULL};
    JsonAt pattern;
    (void)pretokenizer;
    stage->splits = true;
    TRY(json_only_keys(at, KEYS));
    TRY(json_need(at, "pattern", &pattern));
    TRY(finder_load(&pattern, &stage->finder));
    TRY(load_behavior(at, "behavior", true, stage));
    return component_need_flag(at, "invert", &stage->invert);
}

static Status load_digits(const JsonAt *at, PreTokenizer *pretokenizer, Stage *stage)
{
    static const char *const KEYS[] = {"type", "individual_digits", NULL};
    bool individual = false;
    (void)pretokenizer;
    TRY(json_only_keys(at, KEYS));
    TRY(component_need_flag(at, "individual_digits", &individual));
    stage->splits = true;
    stage->behavior = individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    stage->finder.is_member = unicode_is_numeric;
    return OK;
}

static Status load_punctuation(const JsonAt *at, PreTokenizer *pretokenizer, Stage *stage)
{
    static const char *const KEYS[] = {"type", "behavior", NULL};
    (void)pretokenizer;
    TRY(json_only_keys(at, KEYS));
    stage->splits = true;
    stage->behavior = SPLIT_ISOLATED;
    stage->finder.is_member = unicode_is_punctuation;
    return load_behavior(at, "behavior", false, stage);
}

static Status load_whitespace(const JsonAt *at, PreTokenizer *pretokenizer, Stage *stage)
{
    static const char *const KEYS[] = {"type", NULL};
    (void)pretokenizer;
    TRY(json_only_keys(at, KEYS));
    stage->splits = true;
    stage->invert = true;
    stage->behavior = SPLIT_REMOVED;
    return pattern_new(at, WHITESPACE_PATTERN, &stage->finder.pattern);
}

static Status load_whitespace_split(const JsonAt *at, PreTokenizer *pretokenizer, Stage *stage)
{
    static const char *const KEYS[] = {"type", NULL};
    (void)pretokenizer;
    TRY(json_only_keys(at, KEYS));
    stage->splits = true;
    stage->behavior = SPLIT_REMOVED;
    stage->finder.is_member = unicode_is_space;
    return OK;
}

static Status load_metaspace(const JsonAt *at, PreTokenizer *pretokenizer, Stage *stage)
{
    (void)pretokenizer;
    MetaspaceOptions options;
    TRY(component_metaspace(at, &options));
    stage->scheme = options.scheme;
    stage->splits = options.split;
    stage->behavior = SPLIT_MERGED_WITH_NEXT;
    Span mark = options.replacement;
    TRY(bytes_append(&stage->replacement, mark.data, mark.bytes));
    TRY(bytes_append(&stage->prefix, mark.data, mark.bytes));
    return bytes_append(&stage->finder.literal, mark.data, mark.bytes);
}

static Status load_into(const JsonAt *at, PreTokenizer *pretokenizer);

static Status load_sequence(const JsonAt *at, PreTokenizer *pretokenizer)
{
    JsonAt list;
    size_t index = 0;
    TRY(component_sequence(at, "pretokenizers", &list));
    for (const cJSON *node = list.node->child; node != NULL; node = node->next) {
        JsonAt item = json_item(&list, node, index++);
        TRY(load_into(&item, pretokenizer));
    }
    return OK;
}

/* Adds the stages of AT to PRETOKENIZER. */
static Status load_into(const JsonAt *at, PreTokenizer *pretokenizer)
{
    static const char *const TYPES[] = {"ByteLevel",   "Split",      "Digits",
                                        "Punctuation", "Whitespace", "WhitespaceSplit",
                                        "Metaspace",   "Sequence",   NULL};
    static const LoadStage LOADERS[] = {load_byte_level,  load_split,      load_digits,
                                        load_punctuation, load_whitespace, load_whitespace_split,
                                        load_metaspace};
    enum { SEQUENCE = sizeof LOADERS / sizeof LOADERS[0] };
    int type = 0;
    TRY(component_type(at, TYPES, &type));
    if (type == SEQUENCE)
        return load_sequence(at, pretokenizer);
    if (pretokenizer->byte_level)
        return json_fail(at, "must not follow ByteLevel, which makes characters of bytes");
    if (pretokenizer->n_stages == STAGES_MAX)
        return json_fail(at, "more than %d steps are not supported", STAGES_MAX);
    return LOADERS[type](at, pretokenizer, &pretokenizer->stages[pretokenizer->n_stages++]);
}

Status pretokenizer_load(const JsonAt *at, PreTokenizer **pretokenizer)
{
    PreTokenizer *made;
    *pretokenizer = NULL;
    TRY(mem_new(&made, 1, sizeof *made, "pre-tokenizer"));
    Status status = json_is_null(at) ? OK : load_into(at, made);
    if (status == OK)
        *pretokenizer = made;
    else
        pretokenizer_free(made);
    return status;
}
