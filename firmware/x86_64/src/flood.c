/* Floods the console: lines of 63 letters and a line feed, by REP OUTSB without asking whether the
   transmitter is ready.
   Parameter 0: how many bytes (default 4096; rounded up to a multiple of 4096). */
#include "io.h"

static u8 page[4096];

int main(void)
{
    for (int i = 0; i < 64; i++)
        page[i] = i == 63 ? '\n' : 'A' + i % 26;
    const void *from = page;
    void *to = page + 64;
    u64 count = sizeof page - 64;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    for (u64 left = (param(0, 4096) + 4095) / 4096; left; left--) {
        from = page, count = sizeof page;
        __asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"((u16)COM1) : "memory");
    }
    return ok();
}
