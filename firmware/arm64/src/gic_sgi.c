/* A software-generated interrupt to itself, and what the GIC says of itself. */
#include "arm64.h"

static volatile u64 came;

static void on_interrupt(u32 intid)
{
    came = 0x100 | intid;
}

int main(void)
{
    expect(1, "GICD_PIDR2: the architecture's revision", GICD + 0xffe8, read32(GICD + 0xffe8) >> 4 & 15, 3);
    if ((read32(GICD + 4) & 31) < 7)
        fail(2, "fewer than 224 shared interrupts");
    handled_by = on_interrupt;
    gic_on();
    gic_enable(5);
    WRITE_SYSTEM("S3_0_C12_C11_5", 5 << 24 | 1); /* ICC_SGI1R_EL1: INTID 5, target 0 of cluster 0 */
    u64 start = READ_SYSTEM("cntvct_el0"), limit = 20 * READ_SYSTEM("cntfrq_el0");
    while (!came && READ_SYSTEM("cntvct_el0") - start < limit) { }
    expect(3, "the interrupt", 5, came, 0x105);
    return ok();
}
