/* Memory-mapped input and output of one to eight bytes, aligned or not, also across a page
   border, by moves, string instructions and read-modify-write.
   Parameter 0: 64 KiB that behave like memory but are none (default 0xff000000, where QEMU's
   pc-testdev has them). */
#include "paging.h"

static u64 read(uptr at, int width)
{
    switch (width) {
    case 1: return read8(at);
    case 2: return read16(at);
    case 4: return read32(at);
    default: return read64(at);
    }
}

static void write(uptr at, int width, u64 value)
{
    switch (width) {
    case 1: write8(at, value); break;
    case 2: write16(at, value); break;
    case 4: write32(at, value); break;
    default: write64(at, value); break;
    }
}

static const u64 pattern = 0x8877665544332211;

/* Write at *at*, read it back whole and byte by byte, and see that the neighbours stayed. */
static void one(uptr at, int width)
{
    u64 want = width == 8 ? pattern : pattern & ((1ull << 8 * width) - 1);
    write8(at - 1, 0xa5);
    write8(at + width, 0x5a);
    write(at, width, pattern);
    expect(width, "read back", at, read(at, width), want);
    for (int i = 0; i < width; i++)
        expect(8 + width, "byte", at + i, read8(at + i), want >> 8 * i & 0xff);
    expect(17, "byte before", at - 1, read8(at - 1), 0xa5);
    expect(18, "byte behind", at + width, read8(at + width), 0x5a);
}

static void instructions(uptr at)
{
    static const char text[] = "sixteen bytes...";
    char back[16];
    void *to = (void *)at;
    const void *from = text;
    u64 n = 16;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    to = back, from = (void *)at, n = 4;
    __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    for (int i = 0; i < 16; i++)
        expect(19, "string move", at + i, back[i], text[i]);
    to = (void *)at, n = 3;
    __asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(0x7e7e7e7e) : "memory");
    expect(20, "string store", at + 8, read64(at + 8), 0x2e2e2e737e7e7e7eull);

    u32 value = 0x01020304;
    write32(at, 0x0a0b0c0d);
    __asm__ volatile("xchgl %0, %1" : "+r"(value), "+m"(*(u32 *)at) : : "memory");
    expect(21, "xchg, the old value", at, value, 0x0a0b0c0d);
    expect(21, "xchg, the new value", at, read32(at), 0x01020304);
    __asm__ volatile("addl $0x10, %0" : "+m"(*(u32 *)at) : : "memory");
    expect(22, "add", at, read32(at), 0x01020314);
    __asm__ volatile("orb $0x80, %0" : "+m"(*(u8 *)at) : : "memory");
    expect(23, "or", at, read32(at), 0x01020394);
    long extended;
    __asm__ volatile("movsbq %1, %0" : "=r"(extended) : "m"(*(u8 *)at) : "memory");
    expect(24, "sign extension", at, extended, 0xffffffffffffff94);
    __asm__ volatile("movzwl %1, %k0" : "=r"(extended) : "m"(*(u16 *)at) : "memory");
    expect(25, "zero extension", at, extended, 0x0394);
    __asm__ volatile("movl $0x600df00d, %0" : "=m"(*(u32 *)at) : : "memory");
    expect(26, "store of a constant", at, read32(at), 0x600df00d);
}

int main(void)
{
    uptr base = param(0, 0xff000000);
    map(base, 1);
    uptr border = base + 0x1000;
    for (int width = 1; width <= 8; width *= 2) {
        one(base + 0x100, width);
        one(base + 0x103, width);
        for (int before = 1; before <= width; before++)
            one(border - before, width);
    }
    instructions(base + 0x200);
    instructions(border - 5);
    return ok();
}
