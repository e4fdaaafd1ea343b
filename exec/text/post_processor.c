#include "exec/text/post_processor.h"

#include <string.h>

#include "exec/text/component.h"

/* Ids that one processor puts around the text. */
typedef struct {
    IdBuffer before;
    IdBuffer behind;
    uint32_t n_ids;
} Around;

void post_processor_free(PostProcessor *processor)
{
    ids_free(&processor->before);
    ids_free(&processor->behind);
}

static Status read_id(const JsonAt *at, uint32_t n_ids, uint32_t *id)
{
    return json_u32(at, 0, n_ids - 1, id);
}

/* Appends the ids that the template's token NAME stands for. */
static Status append_special(const JsonAt *at, const JsonAt *specials, const char *name,
                             uint32_t n_ids, IdBuffer *ids)
{
    static const char *const KEYS[] = {"id", "ids", "tokens", NULL};
    JsonAt token;
    JsonAt list;
    size_t index = 0;
    if (!json_find(specials, name, &token))
        return json_fail(at, "\"%.64s\" is not among special_tokens", name);
    TRY(json_only_keys(&token, KEYS));
    TRY(json_need(&token, "ids", &list));
    if (!cJSON_IsArray(list.node))
        return json_fail(&list, "must be an array");
    for (const cJSON *node = list.node->child; node != NULL; node = node->next) {
        JsonAt item = json_item(&list, node, index++);
        uint32_t id = 0;
        TRY(read_id(&item, n_ids, &id));
        TRY(ids_push(ids, id));
    }
    return OK;
}

/* One piece of a template: *SEQUENCE is 'A' or 'B', or 0 for the special token *NAME. */
static Status read_piece(const JsonAt *at, char *sequence, const char **name)
{
    static const char *const KINDS[] = {"SpecialToken", "Sequence", NULL};
    static const char *const KEYS[] = {"id", "type_id", NULL};
    static const char *const SEQUENCES[] = {"A", "B", NULL};
    JsonAt inner;
    JsonAt id;
    int which = 0;
    TRY(json_only_keys(at, KINDS));
    if (at->node->child == NULL || at->node->child->next != NULL)
        return json_fail(at, "must hold one of SpecialToken, Sequence");
    bool special = strcmp(at->node->child->string, "SpecialToken") == 0;
    TRY(json_need(at, at->node->child->string, &inner));
    TRY(json_only_keys(&inner, KEYS));
    TRY(json_need(&inner, "id", &id));
    *sequence = 0;
    if (special)
        return json_text(&id, name);
    TRY(json_choice(&id, SEQUENCES, &which));
    *sequence = which == 0 ? 'A' : 'B';
    return OK;
}

/* Reads the pieces of AT. AROUND NULL: only checks. */
static Status read_template(const JsonAt *at, const JsonAt *specials, bool pair, uint32_t n_ids,
                            Around *around)
{
    IdBuffer unused = {0};
    size_t index = 0;
    unsigned seen = 0;
    Status status = OK;
    if (!cJSON_IsArray(at->node))
        return json_fail(at, "must be an array of pieces");
    for (const cJSON *node = at->node->child; node != NULL && status == OK; node = node->next) {
        JsonAt item = json_item(at, node, index++);
        char sequence = 0;
        const char *name = NULL;
        IdBuffer *ids = around == NULL ? &unused : seen == 0 ? &around->before : &around->behind;
        status = read_piece(&item, &sequence, &name);
        if (status != OK)
            break;
        if (sequence == 0)
            status = append_special(&item, specials, name, n_ids, ids);
        else if (sequence == 'B' && !pair)
            status = json_fail(&item, "a template for one text has no sequence B");
        seen += sequence != 0;
    }
    ids_free(&unused);
    if (status == OK && !pair && seen != 1)
        status = json_fail(at, "must hold the sequence A once");
    return status;
}

static Status load_template(const JsonAt *at, Around *around)
{
    static const char *const KEYS[] = {"type", "single", "pair", "special_tokens", NULL};
    JsonAt specials;
    JsonAt pieces;
    TRY(json_only_keys(at, KEYS));
    TRY(json_need(at, "special_tokens", &specials));
    if (!cJSON_IsObject(specials.node))
        return json_fail(&specials, "must be an object");
    TRY(json_need(at, "single", &pieces));
    TRY(read_template(&pieces, &specials, false, around->n_ids, around));
    TRY(json_need(at, "pair", &pieces));
    return read_template(&pieces, &specials, true, around->n_ids, NULL);
}

/* [token, id] */
static Status read_pair(const JsonAt *at, const char *key, uint32_t n_ids, IdBuffer *ids)
{
    JsonAt pair;
    uint32_t id = 0;
    TRY(json_need(at, key, &pair));
    const cJSON *text = cJSON_IsArray(pair.node) ? pair.node->child : NULL;
    if (!cJSON_IsString(text) || text->next == NULL || text->next->next != NULL)
        return json_fail(&pair, "must be [token, id]");
    JsonAt item = json_item(&pair, text->next, 1);
    TRY(read_id(&item, n_ids, &id));
    return ids_push(ids, id);
}

static Status load_bert(const JsonAt *at, Around *around)
{
    static const char *const KEYS[] = {"type", "sep", "cls", NULL};
    TRY(json_only_keys(at, KEYS));
    TRY(read_pair(at, "cls", around->n_ids, &around->before));
    return read_pair(at, "sep", around->n_ids, &around->behind);
}

/* The two flags change offsets only, which are not made here. */
static Status load_roberta(const JsonAt *at, Around *around)
{
    static const char *const KEYS[] = {"type", "sep", "cls", "trim_offsets", "add_prefix_space",
                                       NULL};
    bool flag = false;
    TRY(json_only_keys(at, KEYS));
    TRY(component_flag(at, "trim_offsets", &flag));
    TRY(component_flag(at, "add_prefix_space", &flag));
    TRY(read_pair(at, "cls", around->n_ids, &around->before));
    return read_pair(at, "sep", around->n_ids, &around->behind);
}

/* Changes offsets only, which are not made here. */
static Status load_byte_level(const JsonAt *at, Around *around)
{
    static const char *const KEYS[] = {"type", "add_prefix_space", "trim_offsets", "use_regex",
                                       NULL};
    bool flag = false;
    (void)around;
    TRY(json_only_keys(at, KEYS));
    TRY(component_flag(at, "add_prefix_space", &flag));
    TRY(component_flag(at, "trim_offsets", &flag));
    return component_flag(at, "use_regex", &flag);
}

static Status load_into(const JsonAt *at, uint32_t n_ids, PostProcessor *processor);

static Status load_sequence(const JsonAt *at, uint32_t n_ids, PostProcessor *processor)
{
    JsonAt list;
    size_t index = 0;
    TRY(component_sequence(at, "processors", &list));
    for (const cJSON *node = list.node->child; node != NULL; node = node->next) {
        JsonAt item = json_item(&list, node, index++);
        TRY(load_into(&item, n_ids, processor));
    }
    return OK;
}

/* To Hugging Face's library what one template made is several texts for the next one. */
static Status take(const JsonAt *at, Around *around, PostProcessor *processor)
{
    if (around->before.count + around->behind.count == 0)
        return OK;
    if (processor->before.count + processor->behind.count > 0)
        return json_fail(at, "a second processor that adds tokens is not supported");
    PostProcessor empty = *processor;
    *processor = (PostProcessor){.before = around->before, .behind = around->behind};
    around->before = empty.before;
    around->behind = empty.behind;
    return OK;
}

static Status load_into(const JsonAt *at, uint32_t n_ids, PostProcessor *processor)
{
    static const char *const TYPES[] = {"TemplateProcessing", "BertProcessing", "RobertaProcessing",
                                        "ByteLevel",          "Sequence",       NULL};
    static Status (*const LOADERS[])(const JsonAt *, Around *) = {load_template, load_bert,
                                                                  load_roberta, load_byte_level};
    enum { SEQUENCE = sizeof LOADERS / sizeof LOADERS[0] };
    int type = 0;
    TRY(component_type(at, TYPES, &type));
    if (type == SEQUENCE)
        return load_sequence(at, n_ids, processor);
    Around around = {.n_ids = n_ids};
    Status status = LOADERS[type](at, &around);
    if (status == OK)
        status = take(at, &around, processor);
    ids_free(&around.before);
    ids_free(&around.behind);
    return status;
}

Status post_processor_load(const JsonAt *at, uint32_t n_ids, PostProcessor *processor)
{
    *processor = (PostProcessor){0};
    Status status = json_is_null(at) ? OK : load_into(at, n_ids, processor);
    if (status != OK)
        post_processor_free(processor);
    return status;
}
