/* Firmware as an ELF64 file: entered in 64-bit mode with a stack, the first 4 GiB mapped one to one,
   interrupts off. It goes on with the page tables it was given. */
#include "io.h"

struct given {
    u64 stack, flags, cr0, cr4, efer;
};
extern struct given given;

static u64 zeroed[32]; /* what the file does not hold is zero */

int main(void)
{
    expect(1, "CR0.PG and PE", 0, given.cr0 & 0x80000001, 0x80000001);
    expect(2, "CR4.PAE", 0, given.cr4 & 0x20, 0x20);
    expect(3, "EFER.LMA and LME", 0, given.efer & 0x500, 0x500);
    expect(4, "interrupts enabled", 0, given.flags & 0x200, 0);
    if (!given.stack)
        fail(5, "no stack");
    for (int i = 0; i < 32; i++)
        expect(6, "zeroed memory", (uptr)(zeroed + i), zeroed[i], 0);

    write64(0x900000, 0x1122334455667788); /* RAM */
    expect(7, "memory", 0x900000, read64(0x900000), 0x1122334455667788);
    u32 version = read32(0xfee00030); /* the local APIC, near the end of the first 4 GiB */
    if (version == 0 || version == 0xffffffff)
        fail(8, "the local APIC does not answer at 0xfee00030");
    return ok();
}
