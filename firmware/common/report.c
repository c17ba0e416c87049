/* What a program says: one line, and how it ends. */
#include "report.h"

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
