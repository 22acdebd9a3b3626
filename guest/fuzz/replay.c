/* Runs a fuzz target over the files named as arguments: what libFuzzer's own driver does, for any compiler. */
#include "fuzz.h"

#include <stdio.h>

#define INPUT_MAX (2u << 20)

int main(int count, char **arguments)
{
    for (int at = 1; at < count; at++) {
        uint8_t *input = malloc(INPUT_MAX);
        FILE *file = fopen(arguments[at], "rb");
        if (input == NULL || file == NULL) {
            perror(arguments[at]);
            return 1;
        }
        size_t size = fread(input, 1, INPUT_MAX, file);
        fclose(file);
        /* In a buffer of its very size, so that a read beyond it is seen. */
        uint8_t *exact = realloc(input, size > 0 ? size : 1);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%d inputs\n", count - 1);
    return 0;
}
