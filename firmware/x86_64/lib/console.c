/* COM1, the debug exit, and what the compiler wants. */
#include "io.h"

enum { LINE_STATUS = 5, TRANSMITTER_EMPTY = 0x20, PATIENCE = 1000 };

void put(const char *text)
{
    for (; *text; text++) {
        for (int i = 0; !(inb(COM1 + LINE_STATUS) & TRANSMITTER_EMPTY) && i < PATIENCE; i++) { }
        outb(COM1, *text);
    }
}

_Noreturn void finish(int value)
{
    outb(DEBUG_EXIT, value);
    for (;;)
        __asm__ volatile("pause"); /* HLT would fault at CPL 3 */
}

/* The compiler may call these two. */
void *memcpy(void *to, const void *from, __SIZE_TYPE__ n)
{
    void *end = to;
    __asm__ volatile("rep movsb" : "+D"(end), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memset(void *to, int value, __SIZE_TYPE__ n)
{
    void *end = to;
    __asm__ volatile("rep stosb" : "+D"(end), "+c"(n) : "a"(value) : "memory");
    return to;
}
