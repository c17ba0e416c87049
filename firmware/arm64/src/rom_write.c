/* Writes to the ROM it runs in are dropped. */
#include "arm64.h"

extern const u64 params[4];

int main(void)
{
    u64 at = (u64)params + 24, before = read64(at);
    write64(at, ~before);
    write8(at + 1, 0x55);
    expect(1, "the ROM", at, read64(at), before);
    return ok();
}
