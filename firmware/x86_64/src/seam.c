/* Writes across a page border that is a seam of two host objects: the guest must not notice it.
   Parameter 0: the seam (default 4 MiB). Afterwards the 16 bytes around it hold 0x10 to 0x1f. */
#include "paging.h"

static void one(uptr at, int width)
{
    static const u64 pattern = 0x8877665544332211;
    write64(at - 8, 0xeeeeeeeeeeeeeeee);
    write64(at + width, 0xdddddddddddddddd);
    switch (width) {
    case 2: write16(at, (u16)pattern); expect(2, "word", at, read16(at), 0x2211); break;
    case 4: write32(at, (u32)pattern); expect(4, "double word", at, read32(at), 0x44332211); break;
    default: write64(at, pattern); expect(8, "quad word", at, read64(at), pattern); break;
    }
    for (int i = 0; i < width; i++)
        expect(width + 1, "byte", at + i, read8(at + i), pattern >> 8 * i & 0xff);
    expect(10, "before", at - 8, read64(at - 8), 0xeeeeeeeeeeeeeeee);
    expect(11, "behind", at + width, read64(at + width), 0xdddddddddddddddd);
}

/* mov $0x600df00d, %eax; ret: an instruction that lies on both sides. */
static void execute(uptr at)
{
    static const u8 code[] = { 0xb8, 0x0d, 0xf0, 0x0d, 0x60, 0xc3 };
    for (unsigned i = 0; i < sizeof code; i++)
        write8(at + i, code[i]);
    u32 got = ((u32(*)(void))at)();
    expect(12, "instruction", at, got, 0x600df00d);
}

int main(void)
{
    uptr seam = param(0, 0x400000);
    map(seam - 0x2000, 0);
    map(seam + 0x2000, 0);
    for (int width = 2; width <= 8; width *= 2)
        for (int before = 1; before < width; before++)
            one(seam - before, width);
    for (int before = 1; before < 6; before++)
        execute(seam - before);

    /* 256 bytes from one side to both, by a string move, and an exchange in the middle of it. */
    u8 *low = (u8 *)seam - 0x400;
    for (int i = 0; i < 256; i++)
        low[i] = i;
    void *to = (void *)(seam - 125);
    const void *from = low;
    u64 n = 256;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    expect(13, "string move", seam - 4, read64(seam - 4), 0x807f7e7d7c7b7a79);
    u32 value = 0xa0b0c0d0;
    __asm__ volatile("xchgl %0, %1" : "+r"(value), "+m"(*(u32 *)(seam - 3)) : : "memory");
    expect(14, "exchange", seam - 3, value, 0x7d7c7b7a);
    expect(15, "after the exchange", seam - 4, read64(seam - 4), 0x807f7ea0b0c0d079);

    for (int i = 0; i < 16; i++)
        write8(seam - 8 + i, 0x10 + i);
    return ok();
}
