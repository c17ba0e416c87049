/* Exceptions at EL1: SVC, an undefined instruction, a breakpoint, an unaligned load with alignment
   checked. */
#include "arm64.h"

enum { UNKNOWN = 0x00, SVC = 0x15, DATA_ABORT = 0x25, BRK = 0x3c };

static void expect_class(int value, const char *what, u64 count, u64 class)
{
    expect(value, what, 0, fault_count, count);
    expect(value, what, 0, fault_esr >> 26, class);
}

int main(void)
{
    __asm__ volatile("svc #7" : : : "memory");
    expect_class(1, "SVC", 1, SVC);
    expect(2, "SVC's number", 0, fault_esr & 0xffff, 7);
    __asm__ volatile(".word 0" : : : "memory");
    expect_class(3, "an undefined instruction", 2, UNKNOWN);
    __asm__ volatile("brk #9" : : : "memory");
    expect_class(4, "BRK", 3, BRK);
    WRITE_SYSTEM("sctlr_el1", READ_SYSTEM("sctlr_el1") | 2);
    u64 value, at = RAM + 0x300001;
    __asm__ volatile("ldr %0, [%1]" : "=r"(value) : "r"(at) : "memory");
    expect_class(5, "an unaligned load", 4, DATA_ABORT);
    expect(6, "FAR_EL1", at, fault_far, at);
    return ok();
}
