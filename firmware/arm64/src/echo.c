/* Echoes the PL011 by interrupts until Ctrl-D. */
#include "arm64.h"

enum { UART_INTID = 33, DR = 0, FR = 0x18, RXFE = 1 << 4, LCR_H = 0x2c, IMSC = 0x38, ICR = 0x44 };
static volatile int done;

static void on_interrupt(u32 intid)
{
    (void)intid;
    while (!(read32(UART + FR) & RXFE)) {
        u8 byte = read32(UART + DR);
        if (byte == 4)
            done = 1;
        else
            write32(UART + DR, byte);
    }
    write32(UART + ICR, 0x50);
}

int main(void)
{
    handled_by = on_interrupt;
    write32(UART + LCR_H, 0x70);
    write32(UART + IMSC, 0x50);
    gic_on();
    gic_enable(UART_INTID);
    put("echo\n");
    while (!done)
        __asm__ volatile("wfi");
    write32(UART + IMSC, 0);
    put("\n");
    return ok();
}
