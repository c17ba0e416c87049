/* Floods the console. Parameter 0: bytes (4096). */
#include "arm64.h"

extern const u64 params[4];

int main(void)
{
    u64 count = ((volatile const u64 *)params)[0];
    if (!count)
        count = 4096;
    for (u64 i = 0; i < count; i++)
        write32(UART, 'a' + i % 26);
    put("\n");
    return ok();
}
