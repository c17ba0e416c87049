/* A mark in every 2 MiB of RAM, from 8 MiB on. Parameter 0: bytes of RAM (16 MiB). */
#include "arm64.h"

extern const u64 params[4];
enum { STEP = 2 << 20, FIRST = 8 << 20 };

int main(void)
{
    u64 size = ((volatile const u64 *)params)[0];
    if (!size)
        size = 16 << 20;
    for (u64 at = RAM + FIRST; at < RAM + size; at += STEP)
        write64(at + STEP - 8, at ^ 0x5555);
    for (u64 at = RAM + FIRST; at < RAM + size; at += STEP)
        expect(1, "a mark", at, read64(at + STEP - 8), at ^ 0x5555);
    return ok();
}
