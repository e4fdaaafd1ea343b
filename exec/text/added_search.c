#include "exec/text/added_tokens.h"
#include "exec/text/unicode.h"
#include "exec/text/utf8.h"

void added_search_start(AddedSearch *search, const AddedTokens *added, const ByteTrie *trie,
                        Span text)
{
    *search = (AddedSearch){.added = added, .trie = trie, .text = text};
}

static bool word_before(Span text, size_t at)
{
    Span before = {.data = text.data, .bytes = at};
    return at > 0 && unicode_is_word(utf8_code_point(text.data + utf8_last_start(before)));
}

static bool word_behind(Span text, size_t at)
{
    return at < text.bytes && unicode_is_word(utf8_code_point(text.data + at));
}

/* The start of the white space that ends at END, not before LEAST. */
static size_t space_start(Span text, size_t end, size_t least)
{
    while (end > least) {
        size_t last = utf8_last_start((Span){.data = text.data, .bytes = end});
        if (!unicode_is_space(utf8_code_point(text.data + last)))
            break;
        end = last;
    }
    return end;
}

static size_t space_end(Span text, size_t start)
{
    while (start < text.bytes && unicode_is_space(utf8_code_point(text.data + start)))
        start += utf8_length(text.data[start]);
    return start;
}

/* Finds the next token from search->from on. A token that is refused for not being a single word
 * still ends the search for others inside it. */
static bool find_token(AddedSearch *search)
{
    Span text = search->text;
    while (search->from < text.bytes) {
        size_t at = search->from;
        Span rest = {.data = text.data + at, .bytes = text.bytes - at};
        uint32_t index = 0;
        if (search->trie->first[rest.data[0]] == TRIE_NONE) {
            search->from++;
            continue;
        }
        size_t length = byte_trie_longest(search->trie, rest, &index);
        search->from += length > 0 ? length : 1;
        if (length == 0)
            continue;
        const AddedToken *token = &search->added->tokens[index];
        size_t end = at + length;
        if (token->single_word && (word_before(text, at) || word_behind(text, end)))
            continue;
        search->token = (AddedSpan){.start = at, .end = end, .token = token};
        if (token->lstrip)
            search->token.start = space_start(text, at, search->taken < at ? search->taken : at);
        if (token->rstrip)
            search->token.end = space_end(text, end);
        return true;
    }
    return false;
}

bool added_search_next(AddedSearch *search, AddedSpan *span)
{
    if (!search->held)
        search->held = find_token(search);
    size_t end = search->held ? search->token.start : search->text.bytes;
    if (search->taken < end) {
        *span = (AddedSpan){.start = search->taken, .end = end};
        search->taken = end;
        return true;
    }
    if (!search->held)
        return false;
    *span = search->token;
    search->taken = search->token.end;
    search->held = false;
    return true;
}
