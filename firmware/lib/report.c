/* What a program says and how it ends: one line on COM1, one byte to the debug-exit port. */
#include "io.h"

enum { LINE_STATUS = 5, TRANSMITTER_EMPTY = 0x20, PATIENCE = 1000 };

void put(const char *text)
{
    for (; *text; text++) {
        for (int i = 0; !(inb(COM1 + LINE_STATUS) & TRANSMITTER_EMPTY) && i < PATIENCE; i++) { }
        outb(COM1, *text);
    }
}

void put_hex(u64 value)
{
    char digits[19];
    char *p = digits + sizeof digits - 1;
    *p = 0;
    do {
        *--p = "0123456789abcdef"[value & 15];
        value >>= 4;
    } while (value);
    *--p = 'x';
    *--p = '0';
    put(p);
}

_Noreturn void finish(int value)
{
    outb(DEBUG_EXIT, value);
    for (;;)
        __asm__ volatile("pause"); /* HLT would fault at CPL 3 */
}

static void fail_line(const char *what)
{
    put("FAIL " PROGRAM ": ");
    put(what);
}

_Noreturn void fail(int value, const char *what)
{
    fail_line(what);
    put("\n");
    finish(value);
}

void expect(int value, const char *what, u64 at, u64 got, u64 want)
{
    if (got == want)
        return;
    fail_line(what);
    put(" at ");
    put_hex(at);
    put(": got ");
    put_hex(got);
    put(", want ");
    put_hex(want);
    put("\n");
    finish(value);
}

int ok(void)
{
    put("ok " PROGRAM "\n");
    return 0;
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
