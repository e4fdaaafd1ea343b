/* The tree of a JSON text: RFC 8259, unique keys but for doubts, and limits of base/json.h. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/json_parts.h"
#include "base/memory.h"

enum { FEW_KEYS = 12 };

typedef struct {
    const char *at;
    const char *end; /* there is a 0 */
    int depth;
    bool doubtful;
    bool matrices;
    JsonNumbers numbers;
} Parser;

size_t json_utf8_length(const unsigned char *text, size_t bytes)
{
    unsigned char lead = text[0];
    if (lead < 0x80)
        return 1;
    size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || length > bytes)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    if ((lead == 0xE0 && text[1] < 0xA0) || (lead == 0xED && text[1] > 0x9F) ||
        (lead == 0xF0 && text[1] < 0x90) || (lead == 0xF4 && text[1] > 0x8F))
        return 0;
    return length;
}

static void skip_space(Parser *parser)
{
    while (*parser->at == ' ' || *parser->at == '\t' || *parser->at == '\n' || *parser->at == '\r')
        parser->at++;
}

/* What is written at DIGITS; -1: no four hexadecimal digits are. */
static int32_t read_hex(const char *digits)
{
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = digits[i];
        int32_t digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* The character of \uXXXX at *AT, which may be two of them, and which is not 0; -1: there is none.
 */
static int32_t read_character(const char **at)
{
    int32_t high = read_hex(*at + 2);
    if (high <= 0 || (high >= 0xDC00 && high <= 0xDFFF))
        return -1;
    *at += 6;
    if (high < 0xD800 || high > 0xDBFF)
        return high;
    int32_t low = (*at)[0] == '\\' && (*at)[1] == 'u' ? read_hex(*at + 2) : -1;
    *at += low < 0 ? 0 : 6;
    return low >= 0xDC00 && low <= 0xDFFF ? 0x10000 + ((high & 0x3FF) << 10 | (low & 0x3FF)) : -1;
}

static size_t put_utf8(int32_t character, char *to)
{
    static const uint8_t LEADS[] = {0, 0, 0xC0, 0xE0, 0xF0};
    size_t length = character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = length; i-- > 1; character >>= 6)
        to[i] = (char)(0x80 | (character & 0x3F));
    to[0] = (char)(LEADS[length] | character);
    return length;
}

/* The escape at *AT, which it moves behind; writes it to TO, and returns how many bytes; 0: it is
 * none. */
static size_t read_escape(const char **at, char *to)
{
    static const char NAMES[] = "\"\\/bfnrt";
    static const char MEANT[] = "\"\\/\b\f\n\r\t";
    char name = (*at)[1];
    if (name == 'u') {
        int32_t character = read_character(at);
        return character > 0 ? put_utf8(character, to) : 0;
    }
    const char *found = strchr(NAMES, name); /* which is not 0: see find_quote() */
    if (found == NULL)
        return 0;
    *at += 2;
    *to = MEANT[found - NAMES];
    return 1;
}

/* The end of the string whose text begins at the parser's place; NULL, where there is none, with
 * the place at what is wrong. */
static const char *find_quote(Parser *parser, bool *escaped)
{
    const char *at = parser->at;
    *escaped = false;
    while (*at != '"') {
        unsigned char c = (unsigned char)*at;
        size_t length = c == '\\'  ? 2 * (at[1] != '\0')
                        : c < 0x80 ? c >= 0x20
                                   : json_utf8_length((const void *)at, (size_t)(parser->end - at));
        *escaped |= c == '\\';
        if (length == 0) {
            parser->at = at;
            return NULL;
        }
        at += length;
    }
    return at;
}

/* Writes what is meant by the parser's place up to END; NULL: there is a wrong escape. */
static char *unescape(Parser *parser, const char *end, char *to)
{
    while (parser->at < end) {
        size_t bytes = 1;
        if (*parser->at == '\\')
            bytes = read_escape(&parser->at, to);
        else
            *to = *parser->at++;
        if (bytes == 0)
            return NULL;
        to += bytes;
    }
    return to;
}

/* The string at the parser's place, where a quote stands. NULL: it is none, or memory ends. */
static char *read_string(Parser *parser)
{
    bool escaped;
    parser->at++;
    const char *end = find_quote(parser, &escaped);
    char *text = end != NULL ? cJSON_malloc((size_t)(end - parser->at) + 1) : NULL;
    if (text == NULL)
        return NULL;
    char *last = text + (end - parser->at);
    if (escaped)
        last = unescape(parser, end, text);
    else
        memcpy(text, parser->at, (size_t)(end - parser->at));
    if (last == NULL) {
        cJSON_free(text);
        return NULL;
    }
    *last = '\0';
    parser->at = end + 1;
    return text;
}

static bool read_number(Parser *parser, cJSON *node)
{
    double number;
    if (!json_number_read(&parser->at, &number) || !isfinite(number))
        return false;
    node->type = cJSON_Number;
    node->valuedouble = number;
    node->valueint = number >= INT_MAX ? INT_MAX : number <= INT_MIN ? INT_MIN : (int)number;
    return true;
}

static bool read_word(Parser *parser, cJSON *node)
{
    static const struct {
        const char *name;
        size_t bytes;
        int type;
    } WORDS[] = {{"true", 4, cJSON_True}, {"false", 5, cJSON_False}, {"null", 4, cJSON_NULL}};
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
        if (strncmp(parser->at, WORDS[i].name, WORDS[i].bytes) != 0)
            continue;
        parser->at += WORDS[i].bytes;
        node->type = WORDS[i].type;
        node->valueint = WORDS[i].type == cJSON_True; /* as cJSON has it */
        return true;
    }
    return false;
}

/* A new node behind LAST, of PARENT's; NULL: memory ends. */
static cJSON *add_child(cJSON *parent, cJSON *last)
{
    cJSON *node = cJSON_malloc(sizeof *node);
    if (node == NULL)
        return NULL;
    memset(node, 0, sizeof *node);
    node->prev = last;
    if (last != NULL)
        last->next = node;
    else
        parent->child = node;
    parent->child->prev = node; /* where cJSON looks for the last */
    return node;
}

static bool read_value(Parser *parser, cJSON *node);

/* A key of an object, where ITEM is none, and the value. */
static bool read_item(Parser *parser, cJSON *item, bool is_object)
{
    if (item == NULL)
        return false;
    if (!is_object)
        return read_value(parser, item);
    skip_space(parser);
    item->string = *parser->at == '"' ? read_string(parser) : NULL;
    if (item->string == NULL)
        return false;
    skip_space(parser);
    if (*parser->at != ':')
        return false;
    parser->at++;
    return read_value(parser, item);
}

/* Goes over a comma or CLOSING; false where there is neither. */
static bool end_item(Parser *parser, char closing, bool *closed)
{
    skip_space(parser);
    *closed = *parser->at == closing;
    if (!*closed && *parser->at != ',')
        return false;
    parser->at++;
    return true;
}

/* Up to the bracket or brace that closes what the parser stands at. */
static bool read_items(Parser *parser, cJSON *parent, char closing, uint32_t *n)
{
    cJSON *last = NULL;
    bool closed = false;
    parser->at++;
    skip_space(parser);
    *n = 0;
    if (*parser->at == closing) {
        parser->at++;
        return true;
    }
    for (; !closed; ++*n) {
        last = add_child(parent, last);
        if (!read_item(parser, last, closing == '}') || !end_item(parser, closing, &closed))
            return false;
    }
    return true;
}

static bool all_differ(const cJSON *object)
{
    for (const cJSON *child = object->child; child != NULL; child = child->next)
        for (const cJSON *other = child->next; other != NULL; other = other->next)
            if (strcmp(child->string, other->string) == 0)
                return false;
    return true;
}

/* Reads the matrix that begins at the parser's place; *READ: there is one. */
static bool read_matrix(Parser *parser, cJSON *node, bool *read)
{
    const char *at = parser->at;
    *read = false;
    if (!parser->matrices || *at != '[' || parser->depth + 2 > JSON_MAX_DEPTH)
        return true;
    if (json_matrix_read(&parser->at, &parser->numbers, node) != OK)
        return false;
    *read = parser->at != at;
    return true;
}

static bool read_container(Parser *parser, cJSON *node)
{
    uint32_t n;
    bool read;
    if (!read_matrix(parser, node, &read) || read)
        return read;
    bool is_object = *parser->at == '{';
    if (parser->depth == JSON_MAX_DEPTH)
        return false;
    parser->depth++;
    node->type = is_object ? cJSON_Object : cJSON_Array;
    if (!read_items(parser, node, is_object ? '}' : ']', &n))
        return false;
    if (is_object && !parser->doubtful)
        parser->doubtful = n > FEW_KEYS || !all_differ(node);
    parser->depth--;
    return true;
}

static bool read_value(Parser *parser, cJSON *node)
{
    skip_space(parser);
    switch (*parser->at) {
    case '{':
    case '[':
        return read_container(parser, node);
    case '"':
        node->type = cJSON_String;
        node->valuestring = read_string(parser);
        return node->valuestring != NULL;
    case 't':
    case 'f':
    case 'n':
        return read_word(parser, node);
    default:
        return read_number(parser, node);
    }
}

cJSON *json_tree(const char *text, size_t bytes, bool matrices, const char **end, bool *doubtful)
{
    Parser parser = {.at = text, .end = text + bytes, .matrices = matrices};
    cJSON *root = cJSON_malloc(sizeof *root);
    if (root == NULL)
        return NULL;
    memset(root, 0, sizeof *root);
    bool is_whole = read_value(&parser, root);
    if (is_whole) {
        skip_space(&parser);
        is_whole = parser.at == parser.end;
    }
    mem_free(parser.numbers.values);
    *end = parser.at;
    *doubtful = parser.doubtful;
    if (is_whole)
        return root;
    cJSON_Delete(root);
    return NULL;
}
