/* Models, round trips and refusals of tokenizers. */
#include "base/memory.h"
#include "exec/text/utf8.h"
#include "tests/tokenizer_maker.h"

static const char TINY[] = "models/tiny-32x4";

static const char *const MERGES[][2] = {{"a", "b"},   {"c", "d"},   {"ab", "c"},   {"b", "b"},
                                        {"a", "a"},   {"d", "a"},   {"aa", "ab"},  {"ab", "cd"},
                                        {"bb", "bb"}, {"cd", "cd"}, {"abcd", "a"}, {"da", "da"}};

enum { N_MERGES = sizeof MERGES / sizeof MERGES[0] };

static Tokenizer *letters(void)
{
    static char model[4096];
    size_t used = (size_t)snprintf(model, sizeof model,
                                   "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, "
                                   "\"c\": 2, \"d\": 3");
    for (size_t i = 0; i < N_MERGES; i++)
        used += (size_t)snprintf(model + used, sizeof model - used, ", \"%s%s\": %zu", MERGES[i][0],
                                 MERGES[i][1], i + 4);
    used += (size_t)snprintf(model + used, sizeof model - used, "}, \"merges\": [");
    for (size_t i = 0; i < N_MERGES; i++)
        used += (size_t)snprintf(model + used, sizeof model - used,
                                 i % 2 == 0 ? "%s\"%s %s\"" : "%s[\"%s\", \"%s\"]",
                                 i > 0 ? ", " : "", MERGES[i][0], MERGES[i][1]);
    snprintf(model + used, sizeof model - used, "]}");
    return make_tokenizer(&(TokenizerParts){.model = model});
}

/* Merges the first pair of lowest rank, again and again. PIECES[*COUNT][16]. */
static void merge_plainly(char (*pieces)[16], size_t *count)
{
    for (;;) {
        size_t at = 0;
        size_t rank = N_MERGES;
        for (size_t i = 0; i + 1 < *count; i++)
            for (size_t r = 0; r < rank; r++)
                if (strcmp(pieces[i], MERGES[r][0]) == 0 &&
                    strcmp(pieces[i + 1], MERGES[r][1]) == 0) {
                    rank = r;
                    at = i;
                }
        if (rank == N_MERGES)
            return;
        memmove(pieces[at] + strlen(pieces[at]), pieces[at + 1], strlen(pieces[at + 1]) + 1);
        memmove(pieces + at + 1, pieces + at + 2, (*count - at - 2) * sizeof *pieces);
        --*count;
    }
}

static void bpe_equals_plain_merging_of_short_and_long_words(void **state)
{
    enum { LONGEST = 300 };
    static char pieces[LONGEST][16];
    unsigned char word[LONGEST];
    uint64_t seed = 11;
    Tokenizer *tokenizer = letters();
    IdBuffer ids = {0};
    (void)state;
    for (uint32_t round = 0; round < 400; round++) {
        size_t count = 1 + random_below(&seed, round < 300 ? 45 : LONGEST);
        for (size_t i = 0; i < count; i++) {
            word[i] = (unsigned char)('a' + random_below(&seed, round % 3 + 2));
            pieces[i][0] = (char)word[i];
            pieces[i][1] = '\0';
        }
        ids.count = 0;
        assert_ok(tokenizer_encode(tokenizer, (Span){word, count}, true, &ids));
        merge_plainly(pieces, &count);
        assert_int_equal(ids.count, count);
        for (size_t i = 0; i < count; i++) {
            Span piece = tokenizer_piece(tokenizer, ids.ids[i]);
            assert_int_equal(piece.bytes, strlen(pieces[i]));
            assert_memory_equal(piece.data, pieces[i], piece.bytes);
        }
    }
    ids_free(&ids);
    tokenizer_close(tokenizer);
}

/* Quadratic work on a million symbols would not end while anybody waits. */
static void a_word_of_a_megabyte_is_encoded(void **state)
{
    enum { BYTES = 1 << 20 };
    uint64_t seed = 5;
    unsigned char *word;
    IdBuffer ids = {0};
    ByteBuffer text = {0};
    Tokenizer *tokenizer = letters();
    (void)state;
    assert_ok(mem_new(&word, BYTES, 1, "word"));
    for (size_t i = 0; i < BYTES; i++)
        word[i] = (unsigned char)('a' + random_below(&seed, 4));
    assert_ok(tokenizer_encode(tokenizer, (Span){word, BYTES}, true, &ids));
    for (size_t i = 0; i < ids.count; i++) {
        Span piece = tokenizer_piece(tokenizer, ids.ids[i]);
        assert_ok(bytes_append(&text, piece.data, piece.bytes));
    }
    assert_int_equal(text.bytes, BYTES);
    assert_memory_equal(text.data, word, BYTES);
    mem_free(word);
    ids_free(&ids);
    bytes_free(&text);
    tokenizer_close(tokenizer);
}

static const char *const PIECES[] = {"<unk>", "a",  "b",  "ab", "ba",  "aab",
                                     "bab",   "bb", "aa", "é",  "aéb", "bbb"};

enum { N_PIECES = sizeof PIECES / sizeof PIECES[0] };

/* The best score of TEXT from pieces 1 on. */
static double best_score(const char *text, const double *scores)
{
    double best = -1e300;
    if (*text == '\0')
        return 0;
    for (size_t i = 1; i < N_PIECES; i++) {
        size_t length = strlen(PIECES[i]);
        if (strncmp(text, PIECES[i], length) != 0)
            continue;
        double score = scores[i] + best_score(text + length, scores);
        best = score > best ? score : best;
    }
    return best;
}

static Tokenizer *make_unigram(const double *scores, const char *options)
{
    static char model[2048];
    size_t used = (size_t)snprintf(
        model, sizeof model, "{\"type\": \"Unigram\", \"unk_id\": 0, %s\"vocab\": [", options);
    for (size_t i = 0; i < N_PIECES; i++)
        used += (size_t)snprintf(model + used, sizeof model - used, "%s[\"%s\", %.17g]",
                                 i > 0 ? ", " : "", PIECES[i], scores[i]);
    snprintf(model + used, sizeof model - used, "]}");
    return make_tokenizer(&(TokenizerParts){.model = model});
}

static void unigram_takes_the_best_of_all_segmentations(void **state)
{
    uint64_t seed = 3;
    IdBuffer ids = {0};
    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        double scores[N_PIECES] = {0};
        char text[40] = "";
        for (size_t i = 1; i < N_PIECES; i++)
            scores[i] = -(double)random_below(&seed, 64) / 8 - 1;
        Tokenizer *tokenizer = make_unigram(scores, "");
        for (uint32_t i = 0; i < 2 + random_below(&seed, 9); i++)
            strcat(text, random_below(&seed, 6) == 0 ? "é" : random_below(&seed, 2) ? "a" : "b");
        ids.count = 0;
        assert_ok(tokenizer_encode(tokenizer, span_of(text), true, &ids));
        double total = 0;
        char joined[64] = "";
        for (size_t i = 0; i < ids.count; i++) {
            total += scores[ids.ids[i]];
            strcat(joined, PIECES[ids.ids[i]]);
        }
        assert_string_equal(joined, text);
        assert_true(total == best_score(text, scores));
        tokenizer_close(tokenizer);
    }
    ids_free(&ids);
}

static void unknown_characters_in_a_row_are_one_unknown_piece(void **state)
{
    double scores[N_PIECES] = {0, -1, -1, -3, -3, -9, -9, -9, -9, -2, -9, -9};
    Tokenizer *tokenizer = make_unigram(scores, "");
    (void)state;
    assert_string_equal(pieces_of(tokenizer, span_of("a世界b世é"), true), "a|<unk>|b|<unk>|é");
    tokenizer_close(tokenizer);
}

static const char *unknown_pieces(const char *options)
{
    char model[1024];
    snprintf(
        model, sizeof model,
        BPE_OF("%s", "\"<unk>\": 0, \"a\": 1, \"<0xC3>\": 2, \"<0xA9>\": 3, \"<0xE4>\": 4", ""),
        options);
    Tokenizer *tokenizer = make_tokenizer(&(TokenizerParts){.model = model});
    const char *pieces = pieces_of(tokenizer, span_of("xyaé世"), true);
    tokenizer_close(tokenizer);
    return pieces;
}

static void bpe_spells_the_unknown_as_its_options_say(void **state)
{
    (void)state;
    assert_string_equal(unknown_pieces(""), "a");
    assert_string_equal(unknown_pieces("\"unk_token\": \"<unk>\", "), "<unk>|<unk>|a|<unk>|<unk>");
    assert_string_equal(unknown_pieces("\"unk_token\": \"<unk>\", \"fuse_unk\": true, "),
                        "<unk>|a|<unk>");
    assert_string_equal(unknown_pieces("\"unk_token\": \"<unk>\", \"byte_fallback\": true, "),
                        "<unk>|<unk>|a|<0xC3>|<0xA9>|<unk>");
}

static void a_word_that_is_a_piece_stays_whole_when_merges_are_ignored(void **state)
{
    const char *vocab = "\"a\": 0, \"b\": 1, \"ab\": 2, \"ba\": 3, \"bab\": 4";
    char model[512];
    (void)state;
    for (int ignore = 0; ignore < 2; ignore++) {
        snprintf(model, sizeof model, BPE_OF("%s", "%s", "\"a b\""),
                 ignore ? "\"ignore_merges\": true, " : "", vocab);
        Tokenizer *tokenizer = make_tokenizer(&(TokenizerParts){.model = model});
        assert_string_equal(pieces_of(tokenizer, span_of("bab"), true), ignore ? "bab" : "b|ab");
        tokenizer_close(tokenizer);
    }
}

static Tokenizer *tiny(void)
{
    Tokenizer *tokenizer = NULL;
    assert_ok(tokenizer_open(TINY, &tokenizer));
    return tokenizer;
}

static void assert_round_trip(Tokenizer *tokenizer, Span text, Span wanted)
{
    IdBuffer ids = {0};
    ByteBuffer back = {0};
    assert_ok(tokenizer_encode(tokenizer, text, true, &ids));
    assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, false, &back));
    assert_int_equal(back.bytes, wanted.bytes);
    if (wanted.bytes > 0)
        assert_memory_equal(back.data, wanted.data, wanted.bytes);
    ids_free(&ids);
    bytes_free(&back);
}

static void byte_level_text_comes_back(void **state)
{
    static const uint32_t RANGES[][2] = {{1, 0x7F},        {0x80, 0x800},       {0x800, 0xD7FF},
                                         {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}, {0x20, 0x7E}};
    uint64_t seed = 17;
    Tokenizer *tokenizer = tiny();
    (void)state;
    for (uint32_t round = 0; round < 200; round++) {
        ByteBuffer text = {0};
        for (uint32_t i = random_below(&seed, 200); i > 0; i--) {
            const uint32_t *range = RANGES[random_below(&seed, 6)];
            uint32_t code_point = range[0] + random_below(&seed, range[1] - range[0] + 1);
            assert_ok(utf8_append(&text, random_below(&seed, 4) == 0 ? ' ' : code_point));
        }
        assert_round_trip(tokenizer, bytes_span(&text, 0), bytes_span(&text, 0));
        bytes_free(&text);
    }
    assert_round_trip(tokenizer, (Span){(const unsigned char *)"a\0b", 3},
                      (Span){(const unsigned char *)"a\0b", 3});
    tokenizer_close(tokenizer);
}

/* Any ids: the bytes of the whole are those of its parts. */
static void byte_level_decoding_loses_no_byte(void **state)
{
    uint64_t seed = 23;
    Tokenizer *tokenizer = tiny();
    uint32_t ids[64];
    ByteBuffer whole = {0};
    ByteBuffer parts = {0};
    (void)state;
    for (uint32_t round = 0; round < 50; round++) {
        whole.bytes = 0;
        parts.bytes = 0;
        for (size_t i = 0; i < 64; i++) {
            ids[i] = 2 + random_below(&seed, 256);
            assert_ok(tokenizer_decode(tokenizer, &ids[i], 1, false, &parts));
        }
        assert_ok(tokenizer_decode(tokenizer, ids, 64, false, &whole));
        assert_int_equal(whole.bytes, 64);
        assert_int_equal(parts.bytes, whole.bytes);
        assert_memory_equal(whole.data, parts.data, whole.bytes);
    }
    bytes_free(&whole);
    bytes_free(&parts);
    tokenizer_close(tokenizer);
}

/* What Python's bytes.decode("utf-8", errors="replace") makes of it. */
static void ill_formed_text_is_read_as_replacement_characters(void **state)
{
    static const char *const CASES[][2] = {
        {"a\xFFz", "a\uFFFDz"},
        {"\x80\x80", "\uFFFD\uFFFD"},
        {"\xE2\x82", "\uFFFD"},
        {"\xE2\x82z", "\uFFFDz"},
        {"\xF0\x9F\x98", "\uFFFD"},
        {"\xF0\x9F\x98\xF0\x9F\x98\x80", "\uFFFD\U0001F600"},
        {"\xC0\xAF", "\uFFFD\uFFFD"},
        {"\xE0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
        {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
        {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
        {"\xF5\x80", "\uFFFD\uFFFD"},
        {"\xC3", "\uFFFD"},
    };
    Tokenizer *tokenizer = tiny();
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++)
        assert_round_trip(tokenizer, span_of(CASES[i][0]), span_of(CASES[i][1]));
    tokenizer_close(tokenizer);
}

static void special_tokens_are_found_and_can_be_left_out(void **state)
{
    Tokenizer *tokenizer = tiny();
    IdBuffer ids = {0};
    ByteBuffer text = {0};
    (void)state;
    assert_ok(tokenizer_encode(tokenizer, span_of("a<|endoftext|>b"), true, &ids));
    assert_int_equal(ids.ids[1], 0);
    assert_true(tokenizer_is_special(tokenizer, 0));
    assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, true, &text));
    assert_int_equal(text.bytes, 2);
    assert_memory_equal(text.data, "ab", 2);
    ids_free(&ids);
    bytes_free(&text);
    tokenizer_close(tokenizer);
}

static void an_id_without_a_piece_is_refused(void **state)
{
    Tokenizer *tokenizer = tiny();
    uint32_t id = tokenizer_n_ids(tokenizer);
    ByteBuffer text = {0};
    (void)state;
    assert_int_equal(tokenizer_decode(tokenizer, &id, 1, false, &text), ERR_INPUT);
    tokenizer_close(tokenizer);
}

#define AB BPE_OF("", "\"a\": 0, \"b\": 1, \"ab\": 2", "\"a b\"")

static void what_is_not_supported_is_named(void **state)
{
    static const struct {
        TokenizerParts parts;
        const char *wanted;
    } CASES[] = {
        {{.model = "{\"type\": \"WordPiece\"}"},
         "model.type: \"WordPiece\", allowed are BPE, Unigram"},
        {{.model = AB, .more = "\"strange\": 1, "}, "strange: unknown key"},
        {{.model = AB, .more = "\"truncation\": {}, "}, "truncation: is not supported"},
        {{.model = BPE_OF("\"dropout\": 0.5, ", "\"a\": 0", "")}, "model.dropout: 0.5"},
        {{.model = BPE_OF("\"end_of_word_suffix\": \"</w>\", ", "\"a\": 0", "")},
         "model.end_of_word_suffix"},
        {{.model = BPE_OF("\"unk_token\": \"u\", ", "\"a\": 0", "")}, "model.unk_token"},
        {{.model = BPE_OF("", "\"a\": 0, \"b\": 0", "")}, "model.vocab.b: the id 0"},
        {{.model = BPE_OF("", "\"a\": -1", "")}, "model.vocab.a"},
        {{.model = BPE_OF("", "\"a\": 0", "\"a b\"")}, "model.merges[0]: \"a\" + \"b\""},
        {{.model = BPE_OF("", "\"a\": 0", "\"a\"")}, "model.merges[0]: must be"},
        {{.model = AB, .normalizer = "{\"type\": \"Nmt\"}"}, "normalizer.type: \"Nmt\""},
        {{.model = AB, .normalizer = "{\"type\": \"NFC\", \"x\": 1}"}, "normalizer.x"},
        {{.model = AB, .pre_tokenizer = "{\"type\": \"BertPreTokenizer\"}"}, "pre_tokenizer.type"},
        {{.model = AB,
          .pre_tokenizer = "{\"type\": \"Sequence\", \"pretokenizers\": [" BYTE_LEVEL(
              "false", "true") ", {\"type\": \"WhitespaceSplit\"}]}"},
         "pre_tokenizer.pretokenizers[1]: must not follow ByteLevel"},
        {{.model = AB,
          .pre_tokenizer = "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a{2}+\"}, "
                           "\"behavior\": \"Isolated\", \"invert\": false}"},
         "pre_tokenizer.pattern.Regex: a + after an interval"},
        {{.model = AB,
          .pre_tokenizer = "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a\"}, "
                           "\"behavior\": \"Isolated\", \"invert\": false}"},
         "pre_tokenizer.pattern.Regex: not a pattern"},
        {{.model = AB, .decoder = "{\"type\": \"CTC\"}"}, "decoder.type: \"CTC\""},
        {{.model = AB, .post_processor = "{\"type\": \"Odd\"}"}, "post_processor.type: \"Odd\""},
        {{.model = AB,
          .added = "[{\"id\": 9, \"content\": \"a\", \"single_word\": false, "
                   "\"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                   "\"special\": true}]"},
         "added_tokens[0].id: 9, and the vocabulary has \"a\" as 0"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        Tokenizer *tokenizer = NULL;
        const char *path = write_tokenizer(&CASES[i].parts);
        assert_int_equal(tokenizer_open(path, &tokenizer), ERR_INPUT);
        assert_null(tokenizer);
        if (strstr(error_message(), CASES[i].wanted) == NULL ||
            strncmp(error_message(), path, strlen(path)) != 0)
            fail_msg("case %zu: wanted '%s', got '%s'", i, CASES[i].wanted, error_message());
    }
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    static const TokenizerParts PARTS = {
        .added = "[{\"id\": 3, \"content\": \"Xy\", \"single_word\": false, \"lstrip\": false, "
                 "\"rstrip\": true, \"normalized\": true, \"special\": true}]",
        .normalizer = "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}, {\"type\": "
                      "\"Replace\", \"pattern\": {\"Regex\": \"q+\"}, \"content\": \"a\"}]}",
        .pre_tokenizer = BYTE_LEVEL("true", "true"),
        .decoder = BYTE_LEVEL("true", "true"),
        .model = BPE_OF("", "\"a\": 0, \"b\": 1, \"ab\": 2", "\"a b\""),
    };
    char path[256];
    (void)state;
    snprintf(path, sizeof path, "%s", write_tokenizer(&PARTS));
    for (FailingAllocation failing = {0}; failing_next(&failing);) {
        Tokenizer *tokenizer = NULL;
        IdBuffer ids = {0};
        ByteBuffer text = {0};
        Status status = tokenizer_open(path, &tokenizer);
        if (status == OK)
            status = tokenizer_encode(tokenizer, span_of("qqb abXy  \xFF é"), true, &ids);
        if (status == OK)
            status = tokenizer_decode(tokenizer, ids.ids, ids.count, false, &text);
        failing_end(&failing, status);
        tokenizer_close(tokenizer);
        ids_free(&ids);
        bytes_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bpe_equals_plain_merging_of_short_and_long_words),
        cmocka_unit_test(a_word_of_a_megabyte_is_encoded),
        cmocka_unit_test(unigram_takes_the_best_of_all_segmentations),
        cmocka_unit_test(unknown_characters_in_a_row_are_one_unknown_piece),
        cmocka_unit_test(bpe_spells_the_unknown_as_its_options_say),
        cmocka_unit_test(a_word_that_is_a_piece_stays_whole_when_merges_are_ignored),
        cmocka_unit_test(byte_level_text_comes_back),
        cmocka_unit_test(byte_level_decoding_loses_no_byte),
        cmocka_unit_test(ill_formed_text_is_read_as_replacement_characters),
        cmocka_unit_test(special_tokens_are_found_and_can_be_left_out),
        cmocka_unit_test(an_id_without_a_piece_is_refused),
        cmocka_unit_test(what_is_not_supported_is_named),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    memory_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
