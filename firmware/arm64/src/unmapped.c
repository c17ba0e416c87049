/* Addresses where nothing is read as ones in every width, and swallow writes. */
#include "arm64.h"

static const u64 places[] = { NOBODY, NOBODY + 0xff8, 0x0a000000, 0x3e000000, RAM - 8 };

int main(void)
{
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        u64 at = places[i];
        expect(1, "8 bits", at, read8(at), 0xff);
        expect(2, "16 bits", at, read16(at), 0xffff);
        expect(3, "32 bits", at, read32(at), 0xffffffff);
        expect(4, "64 bits", at, read64(at), ~0UL);
        write8(at, 0);
        write16(at, 0);
        write32(at, 0);
        write64(at, 0);
    }
    return ok();
}
