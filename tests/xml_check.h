/* Whether a text is well-formed, as far as pages of analysis/html.h go: every tag closed in order,
 * no bare '&' or '<', every byte UTF-8. */
#ifndef TESTS_XML_CHECK_H
#define TESTS_XML_CHECK_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "exec/text/utf8.h"
#include "tests/support.h"

enum { XML_DEPTH = 32, XML_NAME = 24 };

typedef struct {
    char open[XML_DEPTH][XML_NAME];
    int depth;
} XmlStack;

static inline size_t xml_name(const char *at, char name[XML_NAME])
{
    size_t n = 0;
    while (isalnum((unsigned char)at[n]) && n < XML_NAME - 1) {
        name[n] = at[n];
        n++;
    }
    name[n] = '\0';
    return n;
}

/* The '>' of the tag at AT; NULL when a quoted value does not end or holds a '<'. */
static inline const char *xml_tag_end(const char *at)
{
    bool quoted = false;
    for (at++; *at != '\0' && (quoted || *at != '>'); at++) {
        if (*at == '<')
            return NULL;
        if (*at == '"')
            quoted = !quoted;
    }
    return *at == '>' ? at : NULL;
}

static inline bool xml_tag(XmlStack *stack, const char *at, const char *end)
{
    char name[XML_NAME];
    if (at[1] == '!')
        return true;
    if (at[1] == '/')
        return xml_name(at + 2, name) > 0 && stack->depth > 0 &&
               strcmp(stack->open[--stack->depth], name) == 0;
    if (xml_name(at + 1, name) == 0)
        return false;
    if (end[-1] == '/')
        return true;
    if (stack->depth == XML_DEPTH)
        return false;
    memcpy(stack->open[stack->depth++], name, XML_NAME);
    return true;
}

static inline bool xml_is_well_formed(const char *text)
{
    XmlStack stack = {.depth = 0};
    if (utf8_valid_prefix(span_of(text)) != strlen(text))
        return false;
    for (const char *at = text; *at != '\0'; at++) {
        if (((unsigned char)*at < 0x20 && *at != '\n' && *at != '\t') || *at == 0x7F)
            return false;
        if (*at == '&' && (strcspn(at, ";") > 5 || at[strcspn(at, ";")] == '\0'))
            return false;
        if (*at != '<')
            continue;
        const char *end = xml_tag_end(at);
        if (end == NULL || !xml_tag(&stack, at, end))
            return false;
        at = end;
    }
    return stack.depth == 0;
}

#endif
