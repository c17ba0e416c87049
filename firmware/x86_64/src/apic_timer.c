/* The local APIC: its timer once, again and again and by deadline, and an interrupt to itself. */
#include "apic.h"

enum { VECTOR = 0x30, IPI_VECTOR = 0x31 };
enum { PERIODIC = 1 << 17, DEADLINE = 2 << 17 };

static volatile int ticks, calls;

HANDLER tick(struct frame *frame)
{
    (void)frame;
    ticks++;
    set_lapic(LAPIC_EOI, 0);
}

HANDLER call(struct frame *frame)
{
    (void)frame;
    calls++;
    set_lapic(LAPIC_EOI, 0);
}

int main(void)
{
    set_gate(VECTOR, tick, 0);
    set_gate(IPI_VECTOR, call, 0);
    pic_remap(0xffff);
    lapic_on();

    /* An interrupt that is pending already would show whether an emulated processor keeps the shadow of STI
       over an exit, and QEMU's AMD-V does not: HLT is left to interrupts that are still to come. */
    interrupts_on();
    set_lapic(LAPIC_ICR, 1 << 18 | IPI_VECTOR); /* to self */
    while (!calls)
        __asm__ volatile("pause");
    interrupts_off();

    set_lapic(LAPIC_TIMER_DIVIDE, 3); /* by 16 */
    set_lapic(LAPIC_TIMER, VECTOR);
    set_lapic(LAPIC_TIMER_COUNT, 100000);
    while (!ticks)
        wait_for_interrupt();
    expect(1, "count after one shot", LAPIC_TIMER_NOW, lapic(LAPIC_TIMER_NOW), 0);
    expect(2, "ticks of one shot", LAPIC_TIMER, ticks, 1);

    set_lapic(LAPIC_TIMER, PERIODIC | VECTOR);
    set_lapic(LAPIC_TIMER_COUNT, 100000);
    while (ticks < 4)
        wait_for_interrupt();
    set_lapic(LAPIC_TIMER_COUNT, 0);
    interrupts_on(); /* a tick that came before the timer was off may be pending */
    __asm__ volatile("nop");
    interrupts_off();

    u32 eax = 1, ebx, ecx, edx;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx));
    if (ecx & 1 << 24) { /* TSC deadline */
        int before = ticks;
        set_lapic(LAPIC_TIMER, DEADLINE | VECTOR);
        u64 when = tsc() + 2000000;
        __asm__ volatile("wrmsr" : : "c"(0x6e0), "a"((u32)when), "d"((u32)(when >> 32)));
        while (ticks == before)
            wait_for_interrupt();
        expect(3, "early", 0x6e0, tsc() < when, 0);
    }
    return ok();
}
