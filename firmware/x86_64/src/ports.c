/* Port input and output of one, two and four bytes, both ways, aligned and not.
   Parameter 0: the first of four ports that behave like memory (default 0xe0, where QEMU's
   pc-testdev has them). Parameter 1: 1 where words answer at even ports only (pc-testdev). */
#include "io.h"

int main(void)
{
    u16 port = param(0, 0xe0);

    outl(port, 0x44332211);
    for (int i = 0; i < 4; i++)
        expect(1, "inb", port + i, inb(port + i), 0x11 * (i + 1));
    int step = params[1] ? 2 : 1;
    for (int i = 0; i < 3; i += step)
        expect(2, "inw", port + i, inw(port + i), 0x2211 + 0x1111 * i);
    expect(3, "inl", port, inl(port), 0x44332211);

    for (int i = 0; i < 4; i++)
        outb(port + i, 0xf0 + i);
    expect(4, "inl after outb", port, inl(port), 0xf3f2f1f0);
    outw(port + 2, 0xbbaa);
    outw(port, 0x9988);
    expect(5, "inl after outw", port, inl(port), 0xbbaa9988);
    outw(port + step, 0x6655);
    expect(6, "inl after outw elsewhere", port, inl(port), step == 1 ? 0xbb665588 : 0x66559988);

    /* A byte or word leaves the rest of the register alone; four bytes clear the upper half. */
    outl(port, 0xbb665588);
    u64 rax = 0x1122334455667788;
    __asm__ volatile("inb %w1, %%al" : "+a"(rax) : "d"(port));
    expect(7, "rax after inb", port, rax, 0x1122334455667788);
    __asm__ volatile("inw %w1, %%ax" : "+a"(rax) : "d"(port));
    expect(8, "rax after inw", port, rax, 0x1122334455665588);
    __asm__ volatile("inl %w1, %%eax" : "+a"(rax) : "d"(port));
    expect(9, "rax after inl", port, rax, 0xbb665588);
    return ok();
}
