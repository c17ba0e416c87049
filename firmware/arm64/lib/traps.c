/* What lib/start.S calls: exceptions and interrupts at EL1. */
#include "arm64.h"

u64 boot_x0;
volatile u64 fault_count, fault_esr, fault_far;
void (*handled_by)(u32 intid);

/* SVC and HVC return behind themselves, the others are stepped over. */
void fault(void)
{
    u64 esr = READ_SYSTEM("esr_el1"), class = esr >> 26;
    fault_count++;
    fault_esr = esr;
    fault_far = READ_SYSTEM("far_el1");
    if (class != 0x15 && class != 0x16)
        WRITE_SYSTEM("elr_el1", READ_SYSTEM("elr_el1") + 4);
}

_Noreturn void no_vector(u64 esr, u64 at)
{
    expect(31, "an exception nobody expected", at, esr, 0);
    finish(31);
}

void interrupt(void)
{
    u64 intid = READ_SYSTEM("S3_0_C12_C12_0"); /* ICC_IAR1_EL1 */
    if (intid >= 1020)
        return;
    if (handled_by)
        handled_by(intid);
    WRITE_SYSTEM("S3_0_C12_C12_1", intid); /* ICC_EOIR1_EL1 */
}
