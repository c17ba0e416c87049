/* Firmware as an ELF32 file: entered in flat protected mode with a stack, paging and interrupts off. */
#include "io.h"

struct given {
    u32 stack, flags, cr0, version, version_by_code;
};
extern struct given given;

static u32 zeroed[64]; /* what the file does not hold is zero */

int main(void)
{
    expect(1, "CR0.PG and PE", 0, given.cr0 & 0x80000001, 1);
    expect(2, "interrupts enabled", 0, given.flags & 0x200, 0);
    if (given.version == 0 || given.version == 0xffffffff)
        fail(3, "the local APIC does not answer at 0xfee00030");
    expect(4, "the same through the code segment", 0xfee00030, given.version_by_code, given.version);
    if (!given.stack)
        fail(5, "no stack");
    for (int i = 0; i < 64; i++)
        expect(6, "zeroed memory", (uptr)(zeroed + i), zeroed[i], 0);
    return ok();
}
