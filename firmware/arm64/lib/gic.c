/* GICv3 as a guest sets it up (Arm IHI 0069, chapters 12.9, 12.11; ICC registers by their encodings). */
#include "arm64.h"

enum {
    GICD_CTLR = 0x0000,
    GICD_IGROUPR = 0x0080,
    GICD_ISENABLER = 0x0100,
    GICD_IROUTER = 0x6000,
    GICR_WAKER = 0x0014,
    GICR_SGI = 0x10000,
};

static u64 redistributor(void)
{
    u64 mpidr = READ_SYSTEM("mpidr_el1");
    return GICR + (mpidr & 0xf) * GICR_STRIDE; /* KVM numbers CPUs by sixteens */
}

void gic_on(void)
{
    u64 mine = redistributor();

    WRITE_SYSTEM("S3_0_C12_C12_5", 7);    /* ICC_SRE_EL1 */
    write32(GICD + GICD_CTLR, 0x12);      /* affinity routing, group 1 */
    write32(mine + GICR_WAKER, 0);
    while (read32(mine + GICR_WAKER) & 4) { }
    write32(mine + GICR_SGI + GICD_IGROUPR, 0xffffffff);
    WRITE_SYSTEM("S3_0_C4_C6_0", 0xff);   /* ICC_PMR_EL1 */
    WRITE_SYSTEM("S3_0_C12_C12_7", 1);    /* ICC_IGRPEN1_EL1 */
    __asm__ volatile("msr daifclr, #2");
}

void gic_enable(u32 intid)
{
    if (intid < 32) {
        write32(redistributor() + GICR_SGI + GICD_ISENABLER, 1u << intid);
        return;
    }
    u32 word = intid / 32 * 4;
    write32(GICD + GICD_IGROUPR + word, read32(GICD + GICD_IGROUPR + word) | 1u << intid % 32);
    write64(GICD + GICD_IROUTER + 8 * intid, READ_SYSTEM("mpidr_el1") & 0xff00ffffff);
    write32(GICD + GICD_ISENABLER + word, 1u << intid % 32);
}
