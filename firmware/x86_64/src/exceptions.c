/* Faults and traps in long mode at CPL 0: each comes to its handler with the right error code, and
   the program goes on behind it. */
#include "paging.h"
#include "traps.h"

static volatile u64 seen, error_seen, address_seen;
static volatile uptr resume;

#define FAULT(name, vector)                                                                       \
    HANDLER name(struct frame *frame)                                                             \
    {                                                                                             \
        seen = vector;                                                                            \
        frame->ip = resume;                                                                       \
    }
#define FAULT_WITH_ERROR(name, vector)                                                            \
    HANDLER name(struct frame *frame, u64 error)                                                  \
    {                                                                                             \
        seen = vector;                                                                            \
        error_seen = error;                                                                       \
        __asm__ volatile("mov %%cr2, %0" : "=r"(address_seen));                                   \
        frame->ip = resume;                                                                       \
    }
FAULT(divide, 0)
FAULT(invalid_opcode, 6)
FAULT_WITH_ERROR(protection, 13)
FAULT_WITH_ERROR(page_fault, 14)

/* Run *instruction*, which faults, and go on behind it. */
#define FAULTS(instruction, ...)                                                                  \
    do {                                                                                          \
        seen = error_seen = ~0ull;                                                                \
        __asm__ volatile("movq $1f, %0\n\t" instruction "\n1:" : "=m"(resume) : __VA_ARGS__ : "memory", "rax", "rdx"); \
    } while (0)

int main(void)
{
    set_gate(0, divide, 0);
    set_gate(6, invalid_opcode, 0);
    set_gate(13, protection, 0);
    set_gate(14, page_fault, 0);

    FAULTS("xorl %%edx, %%edx; xorl %%eax, %%eax; divl %%eax");
    expect(1, "division by zero", 0, seen, 0);
    FAULTS("ud2");
    expect(2, "invalid opcode", 6, seen, 6);
    FAULTS("movq (%1), %%rax", "r"(0x0001000000000000ull));
    expect(3, "non-canonical address", 13, seen, 13);
    expect(3, "its error code", 13, error_seen, 0);
    FAULTS("movw %w1, %%fs", "r"(0x1230));
    expect(4, "selector beyond the table", 13, seen, 13);
    expect(4, "its error code", 13, error_seen, 0x1230);

    const uptr hole = 0x50000123;
    FAULTS("movb (%1), %%al", "r"(hole));
    expect(5, "read of an absent page", 14, seen, 14);
    expect(5, "its error code", 14, error_seen, 0);
    expect(5, "its address", 14, address_seen, hole);
    FAULTS("movb $1, (%1)", "r"(hole));
    expect(6, "write to an absent page", 14, seen, 14);
    expect(6, "its error code", 14, error_seen, 2);
    return ok();
}
