/* The PL011's level interrupt through the GIC: its transmitter, and its receiver in loopback mode. */
#include "arm64.h"

enum { UART_INTID = 33, DR = 0, LCR_H = 0x2c, CR = 0x30, IMSC = 0x38, MIS = 0x40, ICR = 0x44 };
static volatile u64 came;
static volatile u32 why, byte;

static void on_interrupt(u32 intid)
{
    if (intid != UART_INTID)
        fail(1, "an interrupt of somebody else");
    came++;
    why = read32(UART + MIS);
    if (why & 0x50)
        byte = read32(UART + DR);
    write32(UART + ICR, why);
}

static void wait(u64 count, int value, const char *what)
{
    u64 start = READ_SYSTEM("cntvct_el0"), limit = 20 * READ_SYSTEM("cntfrq_el0");
    while (came < count && READ_SYSTEM("cntvct_el0") - start < limit) { }
    expect(value, what, UART, came, count);
}

int main(void)
{
    handled_by = on_interrupt;
    gic_on();
    gic_enable(UART_INTID);
    write32(UART + ICR, 0x7ff);
    write32(UART + IMSC, 0x20);
    write32(UART + DR, '.');
    wait(1, 2, "the transmitter's interrupt");
    expect(3, "its reason", UART + MIS, why, 0x20);
    write32(UART + IMSC, 0x50);
    write32(UART + LCR_H, 0x70);
    write32(UART + CR, 0x381);
    write32(UART + DR, 'x');
    wait(2, 4, "the receiver's interrupt");
    expect(5, "the byte", UART, byte, 'x');
    write32(UART + CR, 0x301);
    write32(UART + IMSC, 0);
    put("\n");
    return ok();
}
