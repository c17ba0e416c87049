/* INT through a gate. KVM's emulator has it for real mode only: a KVM that emulates ring 0 reports an
   internal error at it there, and an invalid opcode to a program at CPL 3. */
#include "traps.h"

enum { VECTOR = 0x33, KERNEL_VECTOR = 0x34 };

static volatile int calls, refused;

HANDLER call(struct frame *frame)
{
    (void)frame;
    calls++;
}

#if LEVEL == 3
HANDLER protection(struct frame *frame, u64 error)
{
    (void)error;
    refused++;
    frame->ip += 2;
}
#endif

int main(void)
{
    set_gate(VECTOR, call, LEVEL == 3 ? 3 : 0);
    __asm__ volatile("int %0" : : "i"(VECTOR) : "memory");
    expect(1, "calls", VECTOR, calls, 1);
#if LEVEL == 3
    set_gate(KERNEL_VECTOR, call, 0);
    set_gate(13, protection, 0);
    __asm__ volatile("int %0" : : "i"(KERNEL_VECTOR) : "memory");
    expect(2, "refusals of a gate for ring 0", KERNEL_VECTOR, refused, 1);
    expect(3, "calls", KERNEL_VECTOR, calls, 1);
#endif
    return ok();
}
