#include "cli/options.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/memory.h"

/* Of help: its lines, and where those go on that are too long. */
enum { LINE_WIDTH = 100, USAGE_INDENT = 6, HELP_INDENT = 29 };

typedef struct {
    const OptionTable *table;
    int argc;
    char **argv;
    int at;        /* of the argument being read */
    uint64_t seen; /* bit per option of the table */
} Parse;

void option_list_free(OptionList *list)
{
    mem_free(list->items);
    *list = (OptionList){0};
}

Status options_fail(const OptionTable *table, const char *format, ...)
{
    char why[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    return fail(ERR_USAGE, "%s (see 'moebius %s --help')", why, table->command);
}

static bool is_positional(const Option *option)
{
    return option->kind == OPTION_POSITIONAL || option->kind == OPTION_POSITIONALS;
}

/* Prints TEXT, BYTES that stay together, behind what stands in the line up to *COLUMN: on a line of
 * its own from INDENT on where it does not fit. */
static void print_word(const char *text, size_t bytes, size_t indent, size_t *column)
{
    if (*column > indent && *column + 1 + bytes > LINE_WIDTH) {
        printf("\n%*s", (int)indent, "");
        *column = indent;
    } else if (*column > indent) {
        putchar(' ');
        ++*column;
    }
    printf("%.*s", (int)bytes, text);
    *column += bytes;
}

/* The words of TEXT up to the end of its line, where it returns. */
static const char *print_words(const char *text, size_t indent, size_t *column)
{
    while (*text != '\0' && *text != '\n') {
        size_t bytes = strcspn(text, " \n");
        print_word(text, bytes, indent, column);
        text += bytes;
        text += strspn(text, " ");
    }
    return text;
}

/* Lines that begin with a space are printed as they are. */
static void print_summary(const char *text)
{
    while (*text != '\0') {
        size_t column = 0;
        size_t bytes = *text == ' ' ? strcspn(text, "\n") : 0;
        printf("%.*s", (int)bytes, text);
        text = print_words(text + bytes, 0, &column);
        putchar('\n');
        text += *text == '\n';
    }
}

static void print_usage_item(const Option *option, size_t *column)
{
    char text[128];
    const char *open = option->required ? "" : "[";
    const char *close = option->required ? "" : "]";
    bool repeats = option->kind == OPTION_LIST || option->kind == OPTION_POSITIONALS;
    const char *more = repeats ? "..." : "";
    if (is_positional(option))
        snprintf(text, sizeof text, "%s%s%s%s", open, option->name, close, more);
    else if (option->kind == OPTION_FLAG)
        snprintf(text, sizeof text, "%s--%s%s", open, option->name, close);
    else
        snprintf(text, sizeof text, "%s--%s %s%s%s", open, option->name, option->argument, close,
                 more);
    print_word(text, strlen(text), USAGE_INDENT, column);
}

static void print_help_line(const char *left, const char *help)
{
    size_t column = (size_t)printf("  %-*s ", HELP_INDENT - 3, left);
    print_words(help, HELP_INDENT, &column);
    putchar('\n');
}

static void print_option(const Option *option)
{
    char left[64];
    if (is_positional(option))
        snprintf(left, sizeof left, "%s", option->name);
    else
        snprintf(left, sizeof left, "--%s %s", option->name,
                 option->argument != NULL ? option->argument : "");
    print_help_line(left, option->help);
}

/* Lines that go on from the one before bring an indent of their own. */
static void print_example(const char *text)
{
    printf("\nexample:\n");
    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        printf("  %.*s\n", (int)length, text);
        text += length + (text[length] == '\n');
    }
}

static void print_help(const OptionTable *table)
{
    size_t column = (size_t)printf("usage: moebius %s", table->command);
    for (size_t i = 0; i < table->n_options; i++)
        print_usage_item(&table->options[i], &column);
    printf("\n\n");
    print_summary(table->summary);
    putchar('\n');
    for (size_t i = 0; i < table->n_options; i++)
        print_option(&table->options[i]);
    print_help_line("--help", "this text");
    print_example(table->example);
}

static Status parse_whole(const Parse *parse, const Option *option, const char *text,
                          uint64_t *value)
{
    char *end = NULL;
    errno = 0;
    unsigned long long number = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    if (end == NULL || *end != '\0')
        return options_fail(parse->table, "--%s: '%s' is no whole number", option->name, text);
    if (errno == ERANGE || number < option->least || number > option->most)
        return options_fail(parse->table, "--%s: %s, allowed is %llu to %llu", option->name, text,
                            (unsigned long long)option->least, (unsigned long long)option->most);
    *value = number;
    return OK;
}

static Status parse_real(const Parse *parse, const Option *option, const char *text, double *value)
{
    char *end = NULL;
    bool plain = isdigit((unsigned char)text[0]) || strchr("+-.", text[0]) != NULL;
    double number = plain ? strtod(text, &end) : 0;
    if (end == NULL || end == text || *end != '\0' || !isfinite(number))
        return options_fail(parse->table, "--%s: '%s' is no number", option->name, text);
    if (number < option->low || number > option->high)
        return options_fail(parse->table, "--%s: %s, allowed is %g to %g", option->name, text,
                            option->low, option->high);
    *value = number;
    return OK;
}

static Status parse_choice(const Parse *parse, const Option *option, const char *text, int *value)
{
    char allowed[256] = "";
    size_t used = 0;
    for (int i = 0; option->choices[i] != NULL; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *value = i;
            return OK;
        }
        if (used < sizeof allowed)
            used += (size_t)snprintf(allowed + used, sizeof allowed - used, "%s%s", i ? ", " : "",
                                     option->choices[i]);
    }
    return options_fail(parse->table, "--%s: '%s', allowed are %s", option->name, text, allowed);
}

Status option_list_append(OptionList *list, const char *text)
{
    TRY(mem_resize_array(&list->items, list->count + 1, sizeof *list->items, "options"));
    list->items[list->count++] = text;
    return OK;
}

static Status store(const Parse *parse, const Option *option, const char *text)
{
    uint64_t number;
    if (text[0] == '\0')
        return options_fail(parse->table, "--%s: the value is empty", option->name);
    switch (option->kind) {
    case OPTION_U32:
        TRY(parse_whole(parse, option, text, &number));
        *(uint32_t *)option->value = (uint32_t)number;
        return OK;
    case OPTION_U64:
        return parse_whole(parse, option, text, option->value);
    case OPTION_F64:
        return parse_real(parse, option, text, option->value);
    case OPTION_CHOICE:
        return parse_choice(parse, option, text, option->value);
    case OPTION_LIST:
    case OPTION_POSITIONALS:
        return option_list_append(option->value, text);
    case OPTION_TEXT:
    case OPTION_POSITIONAL:
    case OPTION_FLAG:
        break;
    }
    *(const char **)option->value = text;
    return OK;
}

/* The option whose name is the LENGTH bytes at NAME; n_options when there is none. */
static size_t find_option(const OptionTable *table, const char *name, size_t length)
{
    size_t i = 0;
    for (; i < table->n_options; i++) {
        const Option *option = &table->options[i];
        if (!is_positional(option) && strlen(option->name) == length &&
            memcmp(option->name, name, length) == 0)
            break;
    }
    return i;
}

static Status mark_seen(Parse *parse, size_t i)
{
    const Option *option = &parse->table->options[i];
    if ((parse->seen >> i & 1) != 0 && option->kind != OPTION_LIST)
        return options_fail(parse->table, "--%s: given twice", option->name);
    parse->seen |= (uint64_t)1 << i;
    return OK;
}

static Status parse_option(Parse *parse)
{
    const char *name = parse->argv[parse->at] + 2;
    size_t length = strcspn(name, "=");
    size_t i = find_option(parse->table, name, length);
    if (i == parse->table->n_options)
        return options_fail(parse->table, "--%.*s: unknown option", (int)length, name);
    const Option *option = &parse->table->options[i];
    const char *text = name[length] == '=' ? name + length + 1 : NULL;
    TRY(mark_seen(parse, i));
    if (option->kind == OPTION_FLAG) {
        if (text != NULL)
            return options_fail(parse->table, "--%s: takes no value", option->name);
        *(bool *)option->value = true;
        return OK;
    }
    if (text == NULL) {
        if (parse->at + 1 >= parse->argc)
            return options_fail(parse->table, "--%s: needs %s", option->name, option->argument);
        text = parse->argv[++parse->at];
        if (strncmp(text, "--", 2) == 0 && strlen(text) > 2)
            return options_fail(parse->table, "--%s: needs %s, not %s (or write --%s=%s)",
                                option->name, option->argument, text, option->name, text);
    }
    return store(parse, option, text);
}

/* The "-o" of an option that has a letter, as find_option(). */
static size_t find_letter(const OptionTable *table, const char *text)
{
    size_t i = 0;
    while (i < table->n_options &&
           (table->options[i].letter == 0 || table->options[i].letter != text[1]))
        i++;
    return text[2] == '\0' ? i : table->n_options;
}

static Status parse_letter(Parse *parse)
{
    const char *text = parse->argv[parse->at];
    size_t i = find_letter(parse->table, text);
    if (i == parse->table->n_options)
        return options_fail(parse->table, "%s: unknown option", text);
    const Option *option = &parse->table->options[i];
    TRY(mark_seen(parse, i));
    if (parse->at + 1 >= parse->argc)
        return options_fail(parse->table, "%s: needs %s", text, option->argument);
    return store(parse, option, parse->argv[++parse->at]);
}

static Status parse_positional(Parse *parse)
{
    for (size_t i = 0; i < parse->table->n_options; i++) {
        const Option *option = &parse->table->options[i];
        bool taken = option->kind == OPTION_POSITIONAL && (parse->seen >> i & 1) != 0;
        if (!is_positional(option) || taken)
            continue;
        if (parse->argv[parse->at][0] == '\0')
            return options_fail(parse->table, "%s: the value is empty", option->name);
        parse->seen |= (uint64_t)1 << i;
        return store(parse, option, parse->argv[parse->at]);
    }
    return options_fail(parse->table, "'%s': unexpected argument", parse->argv[parse->at]);
}

static Status check_required(const Parse *parse)
{
    for (size_t i = 0; i < parse->table->n_options; i++) {
        const Option *option = &parse->table->options[i];
        if (!option->required || (parse->seen >> i & 1) != 0)
            continue;
        const char *dashes = is_positional(option) ? "" : "--";
        return options_fail(parse->table, "%s%s is missing", dashes, option->name);
    }
    return OK;
}

static bool names_files(const Option *option)
{
    /* A folder's option may name one as well: "shape:FILE.json", a tokenizer. */
    static const char *const WORDS[] = {"FILE", "TRACE", "CSV", "HTML", "DIR"};
    const char *argument = is_positional(option) ? option->name : option->argument;
    for (size_t i = 0; argument != NULL && i < sizeof WORDS / sizeof WORDS[0]; i++)
        if (strstr(argument, WORDS[i]) != NULL)
            return true;
    return false;
}

/* PATH is the file that TEXT names before its last colon, as in "FILE.json:2". */
static bool is_before_colon(const char *path, const char *text)
{
    char file[PATH_MAX];
    const char *colon = strrchr(text, ':');
    size_t length = colon != NULL ? (size_t)(colon - text) : 0;
    if (colon == NULL || length >= sizeof file)
        return false;
    memcpy(file, text, length);
    file[length] = '\0';
    return file_is_same(path, file);
}

/* True when writing PATH destroys what TEXT names, as in "trace:FILE" and "shape:FILE.json:2", or
 * is to be as well. */
static bool is_destroyed(const char *path, const char *text, bool is_written)
{
    const char *after = strchr(text, ':');
    return (is_written && strcmp(path, text) == 0) || file_is_same(path, text) ||
           (after != NULL && (file_is_same(path, after + 1) || is_before_colon(path, after + 1)));
}

/* What OPTION has of texts; *COUNT of them. */
static const char *const *texts_of(const Option *option, size_t *count)
{
    const OptionList *list = option->value;
    const char *const *text = option->value;
    switch (option->kind) {
    case OPTION_LIST:
    case OPTION_POSITIONALS:
        *count = list->count;
        return list->items;
    case OPTION_TEXT:
    case OPTION_POSITIONAL:
        *count = *text != NULL;
        return text;
    default:
        *count = 0;
        return NULL;
    }
}

static Status check_written(const OptionTable *table, const Option *written)
{
    const char *path = *(const char *const *)written->value;
    for (size_t i = 0; path != NULL && i < table->n_options; i++) {
        const Option *other = &table->options[i];
        bool may_be = written->grows != NULL && strcmp(written->grows, other->name) == 0;
        size_t count;
        const char *const *texts = texts_of(other, &count);
        if (other == written || may_be || !names_files(other))
            continue;
        for (size_t k = 0; k < count; k++)
            if (is_destroyed(path, texts[k], other->writes))
                return options_fail(table, "--%s: %s is the file that %s%s %s", written->name, path,
                                    is_positional(other) ? "" : "--", other->name,
                                    other->writes ? "writes" : "reads");
    }
    return OK;
}

static Status check_all_written(const OptionTable *table)
{
    for (size_t i = 0; i < table->n_options; i++)
        if (table->options[i].writes)
            TRY(check_written(table, &table->options[i]));
    return OK;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

Status options_parse(const OptionTable *table, int argc, char **argv)
{
    assert(table->n_options <= OPTIONS_MAX);
    Parse parse = {.table = table, .argc = argc, .argv = argv, .at = 1};
    if (wants_help(argc, argv)) {
        print_help(table);
        return STATUS_END;
    }
    bool options_end = false;
    for (; parse.at < argc; parse.at++) {
        const char *text = argv[parse.at];
        if (!options_end && strcmp(text, "--") == 0)
            options_end = true;
        else if (!options_end && strncmp(text, "--", 2) == 0)
            TRY(parse_option(&parse));
        else if (!options_end && text[0] == '-' && text[1] != '\0')
            TRY(parse_letter(&parse));
        else
            TRY(parse_positional(&parse));
    }
    TRY(check_required(&parse));
    return check_all_written(table);
}
