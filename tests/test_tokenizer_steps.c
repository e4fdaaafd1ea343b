/* The steps around the model: normalizers, pre-tokenizers, added and special tokens, decoders, text
 * files, and SentencePiece models. */
#include "base/memory.h"
#include "exec/text/component.h"
#include "exec/text/normalizer.h"
#include "exec/text/pretokenizer.h"
#include "exec/text/text_requests.h"
#include "exec/text/unicode.h"
#include "tests/tokenizer_maker.h"

static cJSON *parse(const char *text, JsonAt *at)
{
    cJSON *json = NULL;
    assert_ok(json_parse(text, strlen(text), "test", &json));
    *at = json_root(json, "test");
    return json;
}

static Status append_word(void *argument, Span word)
{
    char *joined = argument;
    size_t used = strlen(joined);
    snprintf(joined + used, 1024 - used, "%s%.*s", used > 0 ? "|" : "", (int)word.bytes,
             (const char *)word.data);
    return OK;
}

/* The words of TEXT, joined by '|'. */
static const char *words_of(const char *json_text, const char *text)
{
    static char joined[1024];
    JsonAt at;
    PreTokenizer *pretokenizer = NULL;
    cJSON *json = parse(json_text, &at);
    assert_ok(pretokenizer_load(&at, &pretokenizer));
    cJSON_Delete(json);
    joined[0] = '\0';
    assert_ok(pretokenizer_run(pretokenizer, span_of(text), true, append_word, joined));
    pretokenizer_free(pretokenizer);
    return joined;
}

static const char *split_words(const char *pattern, const char *behavior, const char *invert,
                               const char *text)
{
    char json[512];
    snprintf(json, sizeof json,
             "{\"type\": \"Split\", \"pattern\": %s, \"behavior\": \"%s\", \"invert\": %s}",
             pattern, behavior, invert);
    return words_of(json, text);
}

static void the_five_behaviors_split_as_they_are_documented(void **state)
{
    static const char TEXT[] = "the-final--countdown";
    static const char DASH[] = "{\"String\": \"-\"}";
    static const char DASH_PATTERN[] = "{\"Regex\": \"-\"}";
    (void)state;
    assert_string_equal(split_words(DASH, "Removed", "false", TEXT), "the|final|countdown");
    assert_string_equal(split_words(DASH, "Isolated", "false", TEXT), "the|-|final|-|-|countdown");
    assert_string_equal(split_words(DASH, "MergedWithPrevious", "false", TEXT),
                        "the-|final-|-|countdown");
    assert_string_equal(split_words(DASH, "MergedWithNext", "false", TEXT),
                        "the|-final|-|-countdown");
    assert_string_equal(split_words(DASH, "Contiguous", "false", TEXT), "the|-|final|--|countdown");
    assert_string_equal(split_words(DASH_PATTERN, "Contiguous", "false", TEXT),
                        "the|-|final|--|countdown");
    assert_string_equal(split_words(DASH, "Removed", "true", TEXT), "-|-|-");
}

/* U+180E is no white space, \h is a hexadecimal digit, \w has all letters and marks. */
static void classes_mean_what_they_mean_to_oniguruma(void **state)
{
    (void)state;
    assert_string_equal(split_words("{\"Regex\": \"\\\\s\"}", "Removed", "false",
                                    "a\u180Eb\u3000c\xC2\x85"
                                    "d"),
                        "a\u180Eb|c|d");
    assert_string_equal(split_words("{\"Regex\": \"\\\\h+\"}", "Removed", "true", "xyzBEEF 09g"),
                        "BEEF|09");
    assert_string_equal(
        split_words("{\"Regex\": \"[\\\\w]+\"}", "Removed", "true", "e\u0301_1½-\u24D0"),
        "e\u0301_1|\u24D0");
    assert_string_equal(split_words("{\"Regex\": \"\\\\u4e16\"}", "Isolated", "false", "a世b"),
                        "a|世|b");
    assert_string_equal(split_words("{\"Regex\": \"$\"}", "Isolated", "false", "a\nb"), "a|\nb");
}

static void pretokenizers_cut_as_they_are_documented(void **state)
{
    (void)state;
    assert_string_equal(words_of(BYTE_LEVEL("false", "true"), "Hello  world's 42!\n\n x"),
                        "Hello| | world|'s| 42|!|\n\n| x");
    assert_string_equal(words_of(BYTE_LEVEL("true", "false"), "Hello"), " Hello");
    assert_string_equal(words_of("{\"type\": \"Digits\", \"individual_digits\": true}", "a12½b"),
                        "a|1|2|½|b");
    assert_string_equal(words_of("{\"type\": \"Digits\", \"individual_digits\": false}", "a12½b"),
                        "a|12½|b");
    assert_string_equal(words_of("{\"type\": \"Punctuation\"}", "a,«b»!"), "a|,|«|b|»|!");
    assert_string_equal(words_of("{\"type\": \"Whitespace\"}", " Hey, man!! "), "Hey|,|man|!!");
    assert_string_equal(words_of("{\"type\": \"WhitespaceSplit\"}", " Hey, man!! "), "Hey,|man!!");
    assert_string_equal(words_of("{\"type\": \"Metaspace\", \"replacement\": \"▁\"}", "a  b"),
                        "▁a|▁|▁b");
    assert_string_equal(
        words_of("{\"type\": \"Metaspace\", \"replacement\": \"▁\", \"add_prefix_space\": false}",
                 "a b"),
        "a|▁b");
    assert_string_equal(
        words_of(
            "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"WhitespaceSplit\"}, "
            "{\"type\": \"Metaspace\", \"replacement\": \"▁\", \"prepend_scheme\": \"first\"}]}",
            "a b"),
        "▁a|b");
}

/* What the normalizer makes of TEXT, and whether it still begins at the start. */
static const char *normal(const char *json_text, const char *text, bool *at_start)
{
    static char made[512];
    JsonAt at;
    Span out;
    Normalizer *normalizer = NULL;
    cJSON *json = parse(json_text, &at);
    assert_ok(normalizer_load(&at, &normalizer));
    cJSON_Delete(json);
    *at_start = true;
    assert_ok(normalizer_run(normalizer, span_of(text), &out, at_start));
    snprintf(made, sizeof made, "%.*s", (int)out.bytes, (const char *)out.data);
    normalizer_free(normalizer);
    return made;
}

static void normalizers_rewrite_as_they_are_documented(void **state)
{
    bool start;
    (void)state;
    assert_string_equal(normal("{\"type\": \"NFC\"}", "abc e\u0301 x\u1100\u1161", &start),
                        "abc \u00E9 x\uAC00");
    assert_string_equal(normal("{\"type\": \"NFD\"}", "\u00E9\u1E69", &start),
                        "e\u0301s\u0323\u0307");
    assert_string_equal(normal("{\"type\": \"NFKC\"}", "\uFB01 \u2460 \uFF21\u0301", &start),
                        "fi 1 \u00C1");
    assert_string_equal(normal("{\"type\": \"NFKD\"}", "\u00BD\u00E9", &start), "1\u20442e\u0301");
    assert_string_equal(normal("{\"type\": \"Lowercase\"}", "ÀΣİ", &start), "àσi\u0307");
    assert_string_equal(normal("{\"type\": \"StripAccents\"}", "e\u0301a\u0327", &start), "ea");
    assert_true(start);
    assert_string_equal(normal("{\"type\": \"StripAccents\"}", "\u0301a", &start), "a");
    assert_false(start);
    assert_string_equal(normal("{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}",
                               " \u00A0é \n", &start),
                        "é");
    assert_string_equal(normal("{\"type\": \"Prepend\", \"prepend\": \"▁\"}", "a", &start), "▁a");
    assert_string_equal(normal("{\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, "
                               "\"content\": \"_\"}",
                               "a   b c", &start),
                        "a_b c");
}

/* Alternating classes, as many as a gnome sort would never get through. */
static void a_megabyte_of_marks_is_ordered(void **state)
{
    enum { PAIRS = 1 << 18 };
    ByteBuffer text = {0};
    ByteBuffer out = {0};
    UnicodeScratch scratch = {0};
    (void)state;
    assert_ok(bytes_append(&text, "q", 1));
    for (size_t i = 0; i < PAIRS; i++)
        assert_ok(bytes_append(&text, "\u0301\u0323", 4));
    assert_ok(unicode_append_normalized(&out, bytes_span(&text, 0), UNICODE_NFD, &scratch));
    assert_int_equal(out.bytes, text.bytes);
    for (size_t i = 0; i < 2 * PAIRS; i++)
        assert_memory_equal(out.data + 1 + 2 * i, i < PAIRS ? "\u0323" : "\u0301", 2);
    unicode_scratch_free(&scratch);
    bytes_free(&text);
    bytes_free(&out);
}

static void append_base64(char *text, const unsigned char *data, size_t bytes)
{
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes; i += 3) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; k++)
            bits = bits << 8 | (i + k < bytes ? data[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            *text++ = i + k <= bytes ? DIGITS[bits >> (18 - 6 * k) & 63] : '=';
    }
    *text = '\0';
}

/* A double-array trie of: fi ligature -> fi, circled 1 -> 1, zero-width space -> nothing, e -> 3,
 * e + acute -> E. */
static const char *charsmap_json(void)
{
    static const uint32_t UNITS[][2] = {
        {0, 0x400},       {2, 0x80000008}, {4, 0x80000006}, {7, 0x80000005}, {9, 0x80000003},
        {12, 0x80000000}, {100, 0x19965},  {130, 0x21981},  {133, 0x20c80},  {138, 0x21981},
        {141, 0x2298b},   {148, 0x27091},  {166, 0x2b4ac},  {168, 0x285a0},  {206, 0x334cc},
        {227, 0x398e2},   {238, 0x390ef}};
    static const char POOL[] = "fi\0001\0\0E\0003"; /* and its last zero */
    static unsigned char blob[4 + 1024 + sizeof POOL];
    static char json[2048];
    char base64[1600];
    blob[1] = 4; /* 1024 bytes of trie */
    for (size_t i = 0; i < sizeof UNITS / sizeof UNITS[0]; i++)
        for (size_t b = 0; b < 4; b++)
            blob[4 + 4 * UNITS[i][0] + b] = (unsigned char)(UNITS[i][1] >> 8 * b);
    memcpy(blob + 4 + 1024, POOL, sizeof POOL);
    append_base64(base64, blob, sizeof blob);
    snprintf(json, sizeof json, "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"%s\"}",
             base64);
    return json;
}

/* A short cluster goes by the shortest rule it begins with: e + acute by the one for e. */
static void a_character_map_replaces_clusters_and_characters(void **state)
{
    bool start;
    (void)state;
    assert_string_equal(normal(charsmap_json(), "x\uFB01\u2460y\u200B.", &start), "xfi1y.");
    assert_string_equal(normal(charsmap_json(), "e\u0301ez", &start), "33z");
    assert_string_equal(normal(charsmap_json(), "e\u0301\u0302\u0303", &start),
                        "3\u0301\u0302\u0303");
}

static void a_broken_character_map_is_refused(void **state)
{
    static const char *const TEXTS[] = {"", "A", "AAAA", "AAAAAA==", "/////w==", "!!!!"};
    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) {
        char text[128];
        JsonAt at;
        Normalizer *normalizer = NULL;
        snprintf(text, sizeof text, "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"%s\"}",
                 TEXTS[i]);
        cJSON *json = parse(text, &at);
        assert_int_equal(normalizer_load(&at, &normalizer), ERR_INPUT);
        cJSON_Delete(json);
    }
}

#define TOKEN(id, content, single, left, right, normalized)                                        \
    "{\"id\": " id ", \"content\": \"" content "\", \"single_word\": " single                      \
    ", \"lstrip\": " left ", \"rstrip\": " right ", \"normalized\": " normalized                   \
    ", \"special\": false}"

static void added_tokens_are_found_as_their_flags_say(void **state)
{
    Tokenizer *tokenizer = make_tokenizer(&(TokenizerParts){
        .added = "[" TOKEN("10", "<x>", "false", "false", "false", "false") ", " TOKEN(
            "11", "<x><x>", "false", "false", "false",
            "false") ", " TOKEN("12", "fox", "true", "false", "false",
                                "false") ", " TOKEN("13", "<l>", "false", "true", "false",
                                                    "false") ", " TOKEN("14", "<r>", "false",
                                                                        "false", "true",
                                                                        "false") ", " TOKEN("15",
                                                                                            "NO",
                                                                                            "false",
                                                                                            "false",
                                                                                            "false",
                                                                                            "true") "]",
        .normalizer = "{\"type\": \"Lowercase\"}",
        .model = BPE_OF("\"unk_token\": \"?\", ", "\"?\": 0, \"a\": 1, \" \": 2", "")});
    (void)state;
    assert_string_equal(pieces_of(tokenizer, span_of("a<x><x><x>A"), true), "a|<x><x>|<x>|a");
    assert_string_equal(pieces_of(tokenizer, span_of("fox afox a fox"), true),
                        "fox| |a|?|?|?| |a| |fox");
    assert_string_equal(pieces_of(tokenizer, span_of("a \t<l> a"), true), "a|<l>| |a");
    assert_string_equal(pieces_of(tokenizer, span_of("a <r> \u00A0a"), true), "a| |<r>|a");
    assert_string_equal(pieces_of(tokenizer, span_of("aNOano"), true), "a|NO|a|NO");
    tokenizer_close(tokenizer);
}

static void a_template_puts_its_tokens_around(void **state)
{
    static const char TEMPLATE[] =
        "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"S\", "
        "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": "
        "{\"id\": \"E\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": {\"S\": {\"id\": "
        "\"S\", \"ids\": [1], \"tokens\": [\"S\"]}, \"E\": {\"id\": \"E\", \"ids\": [2, 0], "
        "\"tokens\": [\"E\", \"a\"]}}}";
    static const char ROBERTA[] = "{\"type\": \"Sequence\", \"processors\": [" BYTE_LEVEL(
        "true", "true") ", {\"type\": "
                        "\"RobertaProcessing\", \"sep\": [\"E\", 2], \"cls\": [\"S\", 1], "
                        "\"trim_offsets\": true, "
                        "\"add_prefix_space\": false}]}";
    TokenizerParts parts = {.post_processor = TEMPLATE,
                            .model = BPE_OF("", "\"a\": 0, \"S\": 1, \"E\": 2", "")};
    Tokenizer *tokenizer = make_tokenizer(&parts);
    (void)state;
    assert_string_equal(pieces_of(tokenizer, span_of("aa"), true), "S|a|a|E|a");
    assert_string_equal(pieces_of(tokenizer, span_of("aa"), false), "a|a");
    tokenizer_close(tokenizer);
    parts.post_processor = ROBERTA;
    tokenizer = make_tokenizer(&parts);
    assert_string_equal(pieces_of(tokenizer, span_of("a"), true), "S|a|E");
    tokenizer_close(tokenizer);
}

static void the_llama_decoder_joins_bytes_and_strips_one_space(void **state)
{
    static const uint32_t IDS[] = {1, 2, 3, 4, 0, 3, 0};
    ByteBuffer text = {0};
    Tokenizer *tokenizer = make_tokenizer(&(TokenizerParts){
        .decoder = "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": "
                   "{\"String\": \"▁\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, "
                   "{\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, "
                   "\"stop\": 0}]}",
        .model = BPE_OF("", "\"a\": 0, \"▁\": 1, \"▁b\": 2, \"<0xC3>\": 3, \"<0xA9>\": 4", "")});
    (void)state;
    assert_ok(tokenizer_decode(tokenizer, IDS, 7, false, &text));
    assert_int_equal(text.bytes, strlen(" b\u00E9a\uFFFDa"));
    assert_memory_equal(text.data, " b\u00E9a\uFFFDa", text.bytes);
    bytes_free(&text);
    tokenizer_close(tokenizer);
}

static void load_requests(const char *name, const char *text, bool lines, TokenSet *set)
{
    Tokenizer *tokenizer = NULL;
    TextOptions options = {.lines = lines, .add_special = true, .vocabulary = 2048};
    uint64_t bytes;
    const char *path = scratch_path(name);
    assert_ok(file_write_all(path, text, strlen(text)));
    assert_ok(tokenizer_open("models/tiny-32x4", &tokenizer));
    options.vocabulary = tokenizer_n_ids(tokenizer);
    assert_ok(text_requests_load(path, &options, tokenizer, set, &bytes));
    tokenizer_close(tokenizer);
}

static void text_files_become_requests_with_labels(void **state)
{
    TokenSet set;
    (void)state;
    load_requests("whole.txt", "one\n\ntwo\r\n", false, &set);
    assert_int_equal(set.n_requests, 1);
    assert_string_equal(set.requests[0].label, "whole.txt");
    tokens_free(&set);
    load_requests("lines.txt", "one\n\ntwo\r\n", true, &set);
    assert_int_equal(set.n_requests, 2);
    assert_string_equal(set.requests[0].label, "lines.txt:1");
    assert_string_equal(set.requests[1].label, "lines.txt:3");
    tokens_free(&set);
    load_requests("some.jsonl", "{\"text\": \"a\\nb\", \"label\": \"x\"}\n{\"text\": \"c\"}\n",
                  false, &set);
    assert_int_equal(set.n_requests, 2);
    assert_string_equal(set.requests[0].label, "x");
    assert_string_equal(set.requests[1].label, "");
    tokens_free(&set);
}

/* One field of a protocol buffer: a string of bytes. */
static void put_field(ByteBuffer *out, unsigned char field, Span value)
{
    unsigned char head[] = {(unsigned char)(field << 3 | 2), (unsigned char)value.bytes};
    assert_in_range(value.bytes, 0, 127);
    assert_ok(bytes_append(out, head, sizeof head));
    assert_ok(bytes_append(out, value.data, value.bytes));
}

static void put_piece(ByteBuffer *model, const char *piece, float score, unsigned char type)
{
    ByteBuffer message = {0};
    unsigned char number[5] = {2 << 3 | 5};
    unsigned char kind[] = {3 << 3, type};
    memcpy(number + 1, &score, sizeof score);
    put_field(&message, 1, span_of(piece));
    assert_ok(bytes_append(&message, number, sizeof number));
    assert_ok(bytes_append(&message, kind, sizeof kind));
    put_field(model, 1, bytes_span(&message, 0));
    bytes_free(&message);
}

static void sentencepiece_models_encode_and_decode(void **state)
{
    enum { NORMAL = 1, UNKNOWN, CONTROL };
    static const uint32_t WANTED[] = {3, 5, 4};
    const char *path = scratch_path("spiece.model");
    Tokenizer *tokenizer = NULL;
    ByteBuffer model = {0};
    ByteBuffer text = {0};
    IdBuffer ids = {0};
    (void)state;
    put_piece(&model, "<unk>", 0, UNKNOWN);
    put_piece(&model, "<s>", 0, CONTROL);
    put_piece(&model, "</s>", 0, CONTROL);
    put_piece(&model, "▁ab", -1, NORMAL);
    put_piece(&model, "c", -2, NORMAL);
    put_piece(&model, "▁", -3, NORMAL);
    put_piece(&model, "a", -9, NORMAL);
    put_piece(&model, "b", -9, NORMAL);
    assert_ok(file_write_all(path, model.data, model.bytes));
    bytes_free(&model);
    Status status = tokenizer_open(path, &tokenizer);
    if (status == ERR_UNSUPPORTED) /* a build without the library */
        skip();
    assert_ok(status);
    assert_int_equal(tokenizer_n_ids(tokenizer), 8);
    assert_true(tokenizer_is_special(tokenizer, 1));
    assert_ok(tokenizer_encode(tokenizer, span_of("ab c"), true, &ids));
    assert_int_equal(ids.count, 3);
    assert_memory_equal(ids.ids, WANTED, sizeof WANTED);
    assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, true, &text));
    assert_int_equal(text.bytes, 4);
    assert_memory_equal(text.data, "ab c", 4);
    ids_free(&ids);
    bytes_free(&text);
    tokenizer_close(tokenizer);
}

static void a_file_that_is_no_sentencepiece_model_is_refused(void **state)
{
    const char *path = scratch_path("broken.model");
    Tokenizer *tokenizer = NULL;
    (void)state;
    assert_ok(file_write_all(path, "nonsense", 8));
    Status status = tokenizer_open(path, &tokenizer);
    assert_true(status == ERR_INPUT || status == ERR_UNSUPPORTED);
    assert_null(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_five_behaviors_split_as_they_are_documented),
        cmocka_unit_test(classes_mean_what_they_mean_to_oniguruma),
        cmocka_unit_test(pretokenizers_cut_as_they_are_documented),
        cmocka_unit_test(normalizers_rewrite_as_they_are_documented),
        cmocka_unit_test(a_megabyte_of_marks_is_ordered),
        cmocka_unit_test(a_character_map_replaces_clusters_and_characters),
        cmocka_unit_test(a_broken_character_map_is_refused),
        cmocka_unit_test(added_tokens_are_found_as_their_flags_say),
        cmocka_unit_test(a_template_puts_its_tokens_around),
        cmocka_unit_test(the_llama_decoder_joins_bytes_and_strips_one_space),
        cmocka_unit_test(text_files_become_requests_with_labels),
        cmocka_unit_test(sentencepiece_models_encode_and_decode),
        cmocka_unit_test(a_file_that_is_no_sentencepiece_model_is_refused),
    };
    memory_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
