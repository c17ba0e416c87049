/* The interval timer's channel 0 through the 8259: five ticks of a millisecond, each waking a HLT. */
#include "apic.h"

static volatile int ticks, others;

HANDLER tick(struct frame *frame)
{
    (void)frame;
    ticks++;
    outb(0x20, 0x20);
}

HANDLER other(struct frame *frame)
{
    (void)frame;
    others++;
    outb(0x20, 0x20);
}

int main(void)
{
    for (int i = 1; i < 16; i++)
        set_gate(PIC_VECTOR + i, other, 0);
    set_gate(PIC_VECTOR, tick, 0);
    lapic_on();
    pic_through_lapic();
    pic_remap(0xfffe);
    expect(1, "interrupt mask", 0x21, inb(0x21), 0xfe);

    outb(0x43, 0x34); /* channel 0, both bytes, rate generator */
    outb(0x40, 1193 & 0xff), outb(0x40, 1193 >> 8);
    while (ticks < 5)
        wait_for_interrupt();
    expect(2, "other interrupts", 0, others, 0);

    outb(0x21, 0xff);
    interrupts_on();
    int before = ticks;
    for (u64 start = tsc(); tsc() - start < 10000000;) { }
    interrupts_off();
    expect(3, "ticks while masked", 0x21, ticks, before);
    return ok();
}
