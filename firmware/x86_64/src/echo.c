/* Echoes what comes on COM1, driven by its interrupt through the 8259, until Ctrl-D (4). */
#include "apic.h"

enum { IRQ = 4, IER = COM1 + 1, IIR = COM1 + 2, LCR = COM1 + 3, MCR = COM1 + 4, LSR = COM1 + 5 };

static volatile int done;

HANDLER serial(struct frame *frame)
{
    (void)frame;
    while (inb(LSR) & 1) {
        u8 byte = inb(COM1);
        if (byte == 4)
            done = 1;
        else
            outb(COM1, byte);
    }
    outb(0x20, 0x20);
}

int main(void)
{
    set_gate(PIC_VECTOR + IRQ, serial, 0);
    lapic_on();
    pic_through_lapic();
    pic_remap(~(1 << IRQ));
    outb(LCR, 3);
    outb(IIR, 7); /* FIFOs on and empty */
    outb(MCR, 0x0b);
    outb(IER, 1);
    put("ready\n");
    while (!done)
        wait_for_interrupt();
    return ok();
}
