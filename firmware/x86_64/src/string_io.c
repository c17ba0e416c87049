/* String input and output (INS, OUTS) in all widths, forwards and backwards, with counts of
   none, one and more than a page holds.
   Parameter 0: the first of four ports that behave like memory (default 0xe0).
   Parameter 1: how many elements OUTS writes (default 600; each may cost an exit). */
#include "io.h"

enum { INPUTS = 5000 };

static u8 buffer[4 * INPUTS + 16] __attribute__((aligned(4096)));

#define STRING(name, instruction, pointer)                                                        \
    static u8 *name(u16 port, u8 *at, u64 count, int backwards)                                   \
    {                                                                                             \
        if (backwards)                                                                            \
            __asm__ volatile("std");                                                              \
        __asm__ volatile("rep " instruction : "+" pointer(at), "+c"(count) : "d"(port) : "memory"); \
        __asm__ volatile("cld");                                                                  \
        expect(1, instruction " left over", port, count, 0);                                      \
        return at;                                                                                \
    }
STRING(rep_outsb, "outsb", "S")
STRING(rep_outsw, "outsw", "S")
STRING(rep_outsl, "outsl", "S")
STRING(rep_insb, "insb", "D")
STRING(rep_insw, "insw", "D")
STRING(rep_insl, "insl", "D")

typedef u8 *string_function(u16, u8 *, u64, int);

static void width(u16 port, int size, u64 outputs, string_function *out, string_function *in)
{
    u64 mask = (1ull << 8 * size) - 1;
    u64 marker = 0xd4c3b2a1 & mask;

    /* The last element is the one that stays in the port. */
    for (int i = 0; i < 8; i++)
        buffer[outputs * size - size + i] = marker >> 8 * i;
    u8 *end = out(port, buffer, outputs, 0);
    expect(2, "source after output", port, (uptr)end, (uptr)(buffer + outputs * size));
    expect(3, "port after output", port, inl(port) & mask, marker);

    buffer[(INPUTS - 1) * size + size] = 0x77;
    end = in(port, buffer, INPUTS, 0);
    expect(4, "destination after input", port, (uptr)end, (uptr)(buffer + INPUTS * size));
    expect(5, "behind the input", port, buffer[INPUTS * size], 0x77);
    /* All elements alike: the input equals itself one element on. */
    const u8 *here = buffer, *next = buffer + size;
    u64 left = INPUTS * size - size;
    __asm__ volatile("repe cmpsb" : "+S"(here), "+D"(next), "+c"(left) : : "memory", "cc");
    expect(6, "input differs", here - buffer, here[-1], next[-1]);
    expect(7, "first element", port, *(u32 *)buffer & mask, marker);

    /* Backwards, across a page border in the middle of an element. */
    u8 *last = buffer + 4096 - size / 2;
    for (int i = 0; i < 32; i++)
        buffer[4096 - 16 + i] = i;
    out(port, last, 2, 1);
    expect(8, "port after backward output", port, inl(port) & 0xff, (u8)(16 - size / 2 - size));
    end = in(port, last, 3, 1);
    expect(9, "destination after backward input", port, (uptr)end, (uptr)(last - 3 * size));
    expect(10, "before the backward input", port, last[-2 * size - 1], (u8)(16 - size / 2 - 2 * size - 1));

    out(port, buffer, 0, 0);
    end = in(port, buffer, 0, 0);
    expect(11, "destination after no input", port, (uptr)end, (uptr)buffer);
}

int main(void)
{
    u16 port = param(0, 0xe0);
    u64 outputs = param(1, 600);
    if (outputs > INPUTS)
        fail(12, "more outputs than the buffer holds");
    width(port, 1, outputs, rep_outsb, rep_insb);
    width(port, 2, outputs, rep_outsw, rep_insw);
    width(port, 4, outputs, rep_outsl, rep_insl);
    return ok();
}
