/* Any bytes as a tokenizer.json: refused, or a tokenizer that encodes and decodes a text without
 * harm. */
#include <stdio.h>
#include <unistd.h>

#include "exec/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void use(Tokenizer *tokenizer)
{
    static const char TEXT[] = " It's 42 a\xCC\x81 <s>\n\xE4\xB8\x96 \xEF\xAC\x81 \xFF";
    Span text = {.data = (const unsigned char *)TEXT, .bytes = sizeof TEXT};
    IdBuffer ids = {0};
    ByteBuffer decoded = {0};
    if (tokenizer_encode(tokenizer, text, true, &ids) == OK)
        (void)tokenizer_decode(tokenizer, ids.ids, ids.count, false, &decoded);
    ids_free(&ids);
    bytes_free(&decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char path[64];
    Tokenizer *tokenizer = NULL;
    snprintf(path, sizeof path, "/tmp/moebius-fuzz-%ld.json", (long)getpid());
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        return 0;
    fwrite(data, 1, bytes, file);
    fclose(file);
    if (tokenizer_open(path, &tokenizer) == OK)
        use(tokenizer);
    tokenizer_close(tokenizer);
    unlink(path);
    return 0;
}
