/* The architected timer's interrupt through the GIC, by the virtual and the physical timer. */
#include "arm64.h"

enum { PHYSICAL = 30, VIRTUAL = 27 };
static volatile u64 came[32];

static void on_interrupt(u32 intid)
{
    came[intid & 31]++;
    if (intid == VIRTUAL)
        WRITE_SYSTEM("cntv_ctl_el0", 2);
    else
        WRITE_SYSTEM("cntp_ctl_el0", 2);
}

static void wait(u32 intid, int value, const char *what)
{
    u64 start = READ_SYSTEM("cntvct_el0"), limit = 20 * READ_SYSTEM("cntfrq_el0");
    while (!came[intid] && READ_SYSTEM("cntvct_el0") - start < limit)
        __asm__ volatile("wfi");
    expect(value, what, intid, came[intid], 1);
}

int main(void)
{
    u64 soon = READ_SYSTEM("cntfrq_el0") / 100;
    handled_by = on_interrupt;
    gic_on();
    gic_enable(VIRTUAL);
    gic_enable(PHYSICAL);
    u64 start = READ_SYSTEM("cntvct_el0");
    WRITE_SYSTEM("cntv_tval_el0", soon);
    WRITE_SYSTEM("cntv_ctl_el0", 1);
    wait(VIRTUAL, 1, "the virtual timer's interrupt");
    if (READ_SYSTEM("cntvct_el0") - start < soon)
        fail(2, "the virtual timer came too early");
    WRITE_SYSTEM("cntp_tval_el0", soon);
    WRITE_SYSTEM("cntp_ctl_el0", 1);
    wait(PHYSICAL, 3, "the physical timer's interrupt");
    return ok();
}
