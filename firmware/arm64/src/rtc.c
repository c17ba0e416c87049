/* The PL031 goes on, and its alarm interrupts. */
#include "arm64.h"

enum { RTC_INTID = 34, RTC_DR = 0, MR = 4, LR = 8, IMSC = 0x10, MIS = 0x18, ICR = 0x1c };
static volatile u64 came;

static void on_interrupt(u32 intid)
{
    if (intid != RTC_INTID)
        fail(1, "an interrupt of somebody else");
    came++;
    expect(2, "the alarm's status", RTC + MIS, read32(RTC + MIS), 1);
    write32(RTC + ICR, 1);
}

int main(void)
{
    if (read32(RTC + RTC_DR) < 1700000000)
        fail(3, "the clock is not set");
    handled_by = on_interrupt;
    gic_on();
    gic_enable(RTC_INTID);
    write32(RTC + LR, 1000);
    u64 start = READ_SYSTEM("cntvct_el0"), limit = 30 * READ_SYSTEM("cntfrq_el0");
    write32(RTC + MR, 1001);
    write32(RTC + IMSC, 1);
    while (!came && READ_SYSTEM("cntvct_el0") - start < limit)
        __asm__ volatile("wfi");
    expect(4, "alarms", RTC, came, 1);
    if (read32(RTC + RTC_DR) < 1001)
        fail(5, "the alarm came too early");
    return ok();
}
