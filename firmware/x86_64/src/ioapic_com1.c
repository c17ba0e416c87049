/* COM1's interrupt through the I/O APIC's pin 4: transmitter empty, then data that the UART sends to
   itself (loopback), both as the 16550A data sheet says. */
#include "apic.h"

enum { VECTOR = 0x34, PIN = 4 };
enum { IER = COM1 + 1, IIR = COM1 + 2, LCR = COM1 + 3, MCR = COM1 + 4, LSR = COM1 + 5 };
enum { DATA_READY = 1, TRANSMITTER_EMPTY = 2, IIR_NONE = 1, IIR_EMPTY = 2, IIR_DATA = 4 };
enum { OUT2 = 8, LOOP = 16 };

static volatile int calls;

HANDLER serial(struct frame *frame)
{
    (void)frame;
    calls++;
    set_lapic(LAPIC_EOI, 0);
}

static void wait_for_call(void)
{
    int before = calls;
    while (calls == before)
        wait_for_interrupt();
}

int main(void)
{
    set_gate(VECTOR, serial, 0);
    pic_remap(0xffff);
    lapic_on();
    u32 pins = (ioapic_read(1) >> 16 & 0xff) + 1;
    if (pins < 16)
        fail(1, "the I/O APIC has fewer than 16 pins");
    ioapic_write(0x10 + 2 * PIN + 1, lapic(LAPIC_ID));
    ioapic_write(0x10 + 2 * PIN, VECTOR); /* edge, active high, fixed, physical */
    expect(2, "redirection entry", PIN, ioapic_read(0x10 + 2 * PIN) & 0x1ffff, VECTOR);

    outb(LCR, 3);
    outb(COM1 + 2, 0);
    outb(MCR, OUT2);
    outb(IER, TRANSMITTER_EMPTY);
    wait_for_call();
    expect(3, "interrupt identification", IIR, inb(IIR) & 0x0f, IIR_EMPTY);
    expect(4, "interrupt identification read again", IIR, inb(IIR) & 0x0f, IIR_NONE);
    outb(COM1, '.');
    wait_for_call();
    inb(IIR);

    outb(IER, 0);
    outb(MCR, OUT2 | LOOP);
    outb(IER, DATA_READY);
    outb(COM1, 0x5a);
    if ((inb(IIR) & 0x0f) != IIR_DATA) /* loopback takes a byte's time on some UARTs */
        wait_for_call();
    expect(5, "interrupt identification of data", IIR, inb(IIR) & 0x0f, IIR_DATA);
    expect(6, "looped data", COM1, inb(COM1), 0x5a);
    expect(7, "line status after the data", LSR, inb(LSR) & 1, 0);
    outb(IER, 0);
    outb(MCR, 0);
    put("\n");
    return ok();
}
