/* Writes to the ROM below 4 GiB are dropped. */
#include "io.h"

int main(void)
{
    const uptr at = 0xfffffff0;
    u64 before = read64(at);
    write8(at, 0x12);
    write16(at, 0x1234);
    write32(at, 0x12345678);
    write64(at, 0x123456789abcdef0);
    expect(1, "ROM after writes", at, read64(at), before);
    return ok();
}
