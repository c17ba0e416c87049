/* Memory-mapped accesses of 1 to 8 bytes, with sign extension and by pairs of single accesses.
   Parameter 0: 64 KiB that behave like memory. */
#include "arm64.h"

extern const u64 params[4];

int main(void)
{
    u64 at = ((volatile const u64 *)params)[0];
    if (!at)
        at = 0x0b100000;
    write64(at, 0x8877665544332211);
    expect(1, "64 bits", at, read64(at), 0x8877665544332211);
    expect(2, "32 bits", at, read32(at), 0x44332211);
    expect(3, "32 bits, high", at + 4, read32(at + 4), 0x88776655);
    expect(4, "16 bits", at + 2, read16(at + 2), 0x4433);
    expect(5, "8 bits", at + 7, read8(at + 7), 0x88);
    write8(at + 1, 0xaa);
    write16(at + 2, 0xbbcc);
    write32(at + 4, 0xdeadbeef);
    expect(6, "narrow writes", at, read64(at), 0xdeadbeefbbccaa11);
    {
        long value;
        __asm__ volatile("ldrsb %0, [%1]" : "=r"(value) : "r"(at + 1) : "memory");
        expect(7, "a signed byte", at + 1, (u64)value, 0xffffffffffffffaa);
        __asm__ volatile("ldrsw %0, [%1]" : "=r"(value) : "r"(at + 4) : "memory");
        expect(8, "a signed word", at + 4, (u64)value, 0xffffffffdeadbeef);
    }
    write64(at + 0xfff8, 1);
    expect(9, "the last word", at + 0xfff8, read64(at + 0xfff8), 1);
    return ok();
}
