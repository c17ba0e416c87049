/* The PL011, the debug exit, and what the compiler wants. */
#include "arm64.h"

enum { DR = 0, FR = 0x18, TXFF = 1 << 5, PATIENCE = 1000 };

void put(const char *text)
{
    for (; *text; text++) {
        for (int i = 0; read32(UART + FR) & TXFF && i < PATIENCE; i++) { }
        write32(UART + DR, (u8)*text);
    }
}

_Noreturn void finish(int value)
{
    write8(DEBUG_EXIT, value);
    for (;;)
        __asm__ volatile("wfi");
}

/* The compiler may call these two. */
void *memcpy(void *to, const void *from, __SIZE_TYPE__ n)
{
    for (__SIZE_TYPE__ i = 0; i < n; i++)
        ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}

void *memset(void *to, int value, __SIZE_TYPE__ n)
{
    for (__SIZE_TYPE__ i = 0; i < n; i++)
        ((volatile u8 *)to)[i] = value;
    return to;
}
