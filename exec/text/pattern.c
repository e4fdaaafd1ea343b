#define PCRE2_CODE_UNIT_WIDTH 8
#include "exec/text/pattern.h"

#include <pcre2.h>

#include "base/memory.h"

struct Pattern {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack; /* NULL: no JIT on this machine */
    pcre2_general_context *memory;
};

static void *allocate(size_t bytes, void *unused)
{
    (void)unused;
    return mem_alloc(bytes, 1);
}

static void release(void *block, void *unused)
{
    (void)unused;
    mem_free(block);
}

void pattern_free(Pattern *pattern)
{
    if (pattern == NULL)
        return;
    pcre2_jit_stack_free(pattern->stack);
    pcre2_match_context_free(pattern->context);
    pcre2_match_data_free(pattern->match);
    pcre2_code_free(pattern->code);
    pcre2_general_context_free(pattern->memory);
    mem_free(pattern);
}

static Status compile(const JsonAt *at, Span regex, Pattern *pattern)
{
    int problem = 0;
    PCRE2_SIZE place = 0;
    pcre2_compile_context *context = pcre2_compile_context_create(pattern->memory);
    if (context == NULL)
        return fail_memory(at->file, 0);
    pattern->code = pcre2_compile(regex.data, regex.bytes, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                                  &problem, &place, context);
    pcre2_compile_context_free(context);
    if (pattern->code != NULL)
        return OK;
    if (problem == PCRE2_ERROR_HEAP_FAILED)
        return fail_memory(at->file, 0);
    PCRE2_UCHAR why[128] = "";
    pcre2_get_error_message(problem, why, sizeof why);
    return json_fail(at, "not a pattern: %s", (const char *)why);
}

/* The JIT is taken where there is one: without it the same matches come slower. */
static Status prepare(Pattern *pattern)
{
    enum { STACK_FROM = 32 << 10, STACK_TO = 4 << 20 };
    pattern->match = pcre2_match_data_create(1, pattern->memory);
    pattern->context = pcre2_match_context_create(pattern->memory);
    if (pattern->match == NULL || pattern->context == NULL)
        return fail_memory("pattern", 0);
    int problem = pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    if (problem == PCRE2_ERROR_NOMEMORY)
        return fail_memory("pattern", 0);
    if (problem != 0)
        return OK;
    pattern->stack = pcre2_jit_stack_create(STACK_FROM, STACK_TO, pattern->memory);
    if (pattern->stack == NULL)
        return fail_memory("pattern", STACK_TO);
    pcre2_jit_stack_assign(pattern->context, NULL, pattern->stack);
    return OK;
}

static Status build(const JsonAt *at, const char *text, Pattern *pattern)
{
    ByteBuffer regex = {0};
    pattern->memory = pcre2_general_context_create(allocate, release, NULL);
    if (pattern->memory == NULL)
        return fail_memory("pattern", 0);
    Status status = pattern_translate(at, text, &regex);
    if (status == OK)
        status = bytes_reserve(&regex, 1);
    if (status == OK)
        status = compile(at, bytes_span(&regex, 0), pattern);
    bytes_free(&regex);
    return status == OK ? prepare(pattern) : status;
}

Status pattern_new(const JsonAt *at, const char *regex, Pattern **pattern)
{
    Pattern *made;
    *pattern = NULL;
    TRY(mem_new(&made, 1, sizeof *made, "pattern"));
    Status status = build(at, regex, made);
    if (status == OK)
        *pattern = made;
    else
        pattern_free(made);
    return status;
}

bool pattern_matches_nothing(const Pattern *pattern)
{
    uint32_t nothing = 0;
    pcre2_pattern_info(pattern->code, PCRE2_INFO_MATCHEMPTY, &nothing);
    return nothing != 0;
}

Status pattern_find(Pattern *pattern, Span text, size_t from, bool *found, size_t *start,
                    size_t *end)
{
    int count = pattern->stack != NULL
                    ? pcre2_jit_match(pattern->code, text.data, text.bytes, from, 0, pattern->match,
                                      pattern->context)
                    : pcre2_match(pattern->code, text.data, text.bytes, from, PCRE2_NO_UTF_CHECK,
                                  pattern->match, pattern->context);
    *found = count >= 0;
    if (count == PCRE2_ERROR_NOMATCH)
        return OK;
    if (count < 0) {
        PCRE2_UCHAR why[128] = "";
        pcre2_get_error_message(count, why, sizeof why);
        return fail(ERR_INPUT, "text: a pattern cannot be matched: %s", (const char *)why);
    }
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(pattern->match);
    *start = ends[0];
    *end = ends[1];
    return OK;
}
