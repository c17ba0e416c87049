/* Memory-mapped accesses of 1 to 8 bytes.
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
    write64(at + 0xfff8, 1);
    expect(7, "the last word", at + 0xfff8, read64(at + 0xfff8), 1);
    return ok();
}
