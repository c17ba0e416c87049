/* Switches the SP805 on and does not feed it: the machine ends. */
#include "arm64.h"

int main(void)
{
    write32(WATCHDOG + 0xc00, 0x1acce551);
    write32(WATCHDOG + 0x000, 50000); /* 50 ms at 1 MHz */
    write32(WATCHDOG + 0x008, 3);
    put("starving\n");
    for (;;)
        __asm__ volatile("wfi");
}
