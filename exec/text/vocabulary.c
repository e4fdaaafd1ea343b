#include "exec/text/vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void count_object(const cJSON *object, size_t *count, size_t *bytes)
{
    *count = 0;
    *bytes = 0;
    for (const cJSON *node = object->child; node != NULL; node = node->next, ++*count)
        *bytes += strlen(node->string);
}

/* One more than the highest id of OBJECT. */
static Status highest_id(const JsonAt *at, uint32_t *n_ids)
{
    *n_ids = 0;
    for (const cJSON *node = at->node->child; node != NULL; node = node->next) {
        JsonAt piece = {.node = node, .file = at->file};
        uint32_t id = 0;
        if (!cJSON_IsNumber(node) || node->valuedouble < 0 || node->valuedouble >= VOCABULARY_MAX ||
            node->valuedouble != (double)(uint32_t)node->valuedouble) {
            json_find(at, node->string, &piece);
            TRY(json_u32(&piece, 0, VOCABULARY_MAX - 1, &id));
        }
        id = (uint32_t)node->valuedouble;
        if (id >= *n_ids)
            *n_ids = id + 1;
    }
    return OK;
}

/* Makes room for COUNT pieces of BYTES in all. */
static Status vocabulary_new(Vocabulary *vocabulary, uint32_t n_ids, size_t count, size_t bytes)
{
    TRY(mem_new(&vocabulary->pieces, n_ids, sizeof *vocabulary->pieces, "vocabulary"));
    vocabulary->n_ids = n_ids;
    vocabulary->n_pieces = (uint32_t)count;
    TRY(mem_new(&vocabulary->pool, bytes + 1, 1, "vocabulary"));
    return string_table_new(&vocabulary->ids, count);
}

/* Copies TEXT to *USED bytes into the pool. */
static Span keep(const Vocabulary *vocabulary, const char *text, size_t *used)
{
    Span piece = {.data = vocabulary->pool + *used, .bytes = strlen(text)};
    memcpy(vocabulary->pool + *used, text, piece.bytes);
    *used += piece.bytes;
    return piece;
}

static Status fill_object(const JsonAt *at, Vocabulary *vocabulary)
{
    size_t used = 0;
    for (const cJSON *node = at->node->child; node != NULL; node = node->next) {
        uint32_t id = (uint32_t)node->valuedouble;
        if (vocabulary->pieces[id].data != NULL) {
            JsonAt piece;
            json_find(at, node->string, &piece);
            return json_fail(&piece, "the id %u is also that of \"%.*s\"", id,
                             (int)vocabulary->pieces[id].bytes,
                             (const char *)vocabulary->pieces[id].data);
        }
        vocabulary->pieces[id] = keep(vocabulary, node->string, &used);
        string_table_put(&vocabulary->ids, vocabulary->pieces[id], id);
    }
    return OK;
}

Status vocabulary_load_object(const JsonAt *at, Vocabulary *vocabulary)
{
    size_t count;
    size_t bytes;
    uint32_t n_ids = 0;
    *vocabulary = (Vocabulary){0};
    if (!cJSON_IsObject(at->node))
        return json_fail(at, "must be an object");
    count_object(at->node, &count, &bytes);
    if (count == 0)
        return json_fail(at, "holds no pieces");
    TRY(highest_id(at, &n_ids));
    Status status = vocabulary_new(vocabulary, n_ids, count, bytes);
    if (status == OK)
        status = fill_object(at, vocabulary);
    if (status != OK)
        vocabulary_free(vocabulary);
    return status;
}

static Status check_scored(const JsonAt *at, size_t *count, size_t *bytes)
{
    *count = 0;
    *bytes = 0;
    if (!cJSON_IsArray(at->node))
        return json_fail(at, "must be an array");
    for (const cJSON *node = at->node->child; node != NULL; node = node->next, ++*count) {
        const cJSON *text = cJSON_IsArray(node) ? node->child : NULL;
        const cJSON *score = text != NULL ? text->next : NULL;
        if (!cJSON_IsString(text) || !cJSON_IsNumber(score) || score->next != NULL) {
            JsonAt item = json_item(at, node, *count);
            return json_fail(&item, "must be [piece, score]");
        }
        *bytes += strlen(text->valuestring);
    }
    if (*count == 0)
        return json_fail(at, "holds no pieces");
    if (*count > VOCABULARY_MAX)
        return json_fail(at, "%zu pieces, at most %d are allowed", *count, VOCABULARY_MAX);
    return OK;
}

/* Writes the shortest decimal digits that read back as VALUE, which a file holds whoever wrote it,
 * as a whole number and a power of ten. */
static uint64_t decimal_digits(double value, int *exponent)
{
    char text[32];
    uint64_t digits = 0;
    bool fraction = false;
    for (int count = 15; count <= 17; count++) {
        snprintf(text, sizeof text, "%.*e", count - 1, value);
        if (strtod(text, NULL) == value)
            break;
    }
    const char *c = text;
    *exponent = 0;
    for (; *c != 'e' && *c != '\0'; c++) {
        fraction = fraction || *c == '.';
        if (*c < '0' || *c > '9')
            continue;
        digits = digits * 10 + (uint64_t)(*c - '0');
        *exponent -= fraction;
    }
    if (*c == 'e')
        *exponent += (int)strtol(c + 1, NULL, 10);
    for (; digits != 0 && digits % 10 == 0; digits /= 10)
        ++*exponent;
    return digits;
}

static double read_score(double value)
{
    char power[16];
    int exponent;
    double digits = (double)decimal_digits(value, &exponent);
    if (exponent < -308 || exponent > 308)
        return value;
    snprintf(power, sizeof power, "1e%d", abs(exponent));
    digits = exponent < 0 ? digits / strtod(power, NULL) : digits * strtod(power, NULL);
    return value < 0 ? -digits : digits;
}

Status vocabulary_load_scored(const JsonAt *at, Vocabulary *vocabulary, double **scores)
{
    size_t count;
    size_t bytes;
    size_t used = 0;
    uint32_t id = 0;
    *vocabulary = (Vocabulary){0};
    *scores = NULL;
    TRY(check_scored(at, &count, &bytes));
    Status status = vocabulary_new(vocabulary, (uint32_t)count, count, bytes);
    if (status == OK)
        status = mem_new(scores, count, sizeof **scores, "vocabulary");
    if (status != OK) {
        vocabulary_free(vocabulary);
        return status;
    }
    for (const cJSON *node = at->node->child; node != NULL; node = node->next, id++) {
        vocabulary->pieces[id] = keep(vocabulary, node->child->valuestring, &used);
        (*scores)[id] = read_score(node->child->next->valuedouble);
        string_table_put(&vocabulary->ids, vocabulary->pieces[id], id);
    }
    return OK;
}

void vocabulary_free(Vocabulary *vocabulary)
{
    string_table_free(&vocabulary->ids);
    mem_free(vocabulary->pieces);
    mem_free(vocabulary->pool);
    *vocabulary = (Vocabulary){0};
}
