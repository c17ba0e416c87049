/* 32-bit protected mode: faults, and a segment with a base. */
#include "faults32.h"

extern u64 gdt[];

int main(void)
{
    set_gate(0, (void *)divide, 0);
    set_gate(13, (void *)protection, 0);

    FAULTS("xorl %%edx, %%edx; xorl %%eax, %%eax; divl %%eax", "i"(0));
    expect(1, "division by zero", 0, seen, 0);

    /* A segment of 256 bytes at 0x9000, in the place of the 64-bit code segment. */
    gdt[3] = 0x00409300900000ffull;
    write32(0x9010, 0xcafe1234);
    u32 got;
    __asm__ volatile("movw %w1, %%fs; movl %%fs:0x10, %0" : "=r"(got) : "r"(0x18) : "memory");
    expect(3, "through a segment base", 0x9010, got, 0xcafe1234);
    FAULTS("movw %w2, %%fs", "r"(0x1230));
    expect(5, "selector beyond the table", 13, seen, 13);
    return ok();
}
