/* The state a program is entered in: EL1, MMU off, interrupts masked, x0 a device tree (Linux
   Documentation/arm64/booting.rst). */
#include "arm64.h"

int main(void)
{
    expect(1, "exception level", 0, READ_SYSTEM("CurrentEL"), 1 << 2);
    expect(2, "SCTLR_EL1.M", 0, READ_SYSTEM("sctlr_el1") & 1, 0);
    expect(3, "DAIF", 0, READ_SYSTEM("daif"), 0x3c0);
    expect(4, "the device tree's magic number", boot_x0, read32(boot_x0), 0xedfe0dd0);
    expect(5, "the device tree's alignment", boot_x0, boot_x0 & 7, 0);
    return ok();
}
