/* Any bytes as JSON: refused, or what is printed of it parses again to the same text; and the same
 * is accepted where tables are taken out. */
#include <stdlib.h>
#include <string.h>

#include "base/json_numbers.h"
#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char *print_again(const char *text)
{
    cJSON *root = NULL;
    if (json_parse(text, strlen(text), "fuzz", &root) != OK)
        abort();
    char *again;
    if (json_print(root, false, &again) != OK)
        abort();
    cJSON_Delete(root);
    return again;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static bool installed;
    cJSON *root = NULL;
    if (!installed)
        memory_install();
    installed = true;
    char *text = malloc(bytes + 1);
    if (text == NULL)
        return 0;
    if (bytes > 0)
        memcpy(text, data, bytes);
    text[bytes] = '\0';
    if (json_parse(text, bytes, "fuzz", &root) == OK) {
        char *first;
        if (json_print(root, false, &first) != OK)
            abort();
        char *second = print_again(first);
        if (strcmp(first, second) != 0)
            abort();
        mem_free(first);
        mem_free(second);
    }
    bool accepted = root != NULL;
    cJSON_Delete(root);
    JsonNumbers numbers;
    if ((json_parse_numbers(text, bytes, "fuzz", &root, &numbers) == OK) != accepted)
        abort();
    json_numbers_free(&numbers);
    cJSON_Delete(root);
    free(text);
    return 0;
}
