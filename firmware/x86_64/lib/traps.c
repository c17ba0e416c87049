/* The C half of the interrupt table in traps.S. */
#include "traps.h"

extern u16 idt[];

void set_gate(int vector, void *handler, int ring)
{
    uptr at = (uptr)handler;
#ifdef __x86_64__
    u16 *gate = idt + 8 * vector;
    gate[4] = at >> 32;
    gate[5] = at >> 48;
    gate[1] = 0x18;
#else
    u16 *gate = idt + 4 * vector;
    gate[1] = 0x08;
#endif
    gate[0] = at;
    gate[2] = 0x8e00 | ring << 13;
    gate[3] = at >> 16;
}

/* *stack* is the vector, then what the processor pushed: perhaps an error code, RIP, CS, flags. */
_Noreturn void unexpected(const uptr *stack)
{
    /* Exceptions with an error code: Intel SDM volume 3, table 6-1. */
    static const u32 has_error_code = 1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17 | 1u << 21;
    uptr vector = stack[0];
    const uptr *frame = stack + 1 + (has_error_code >> vector & 1);
    put("FAIL " PROGRAM ": exception ");
    put_hex(vector);
    if (has_error_code >> vector & 1) {
        put(" error ");
        put_hex(stack[1]);
    }
    put(" at ");
    put_hex(frame[0]);
    put("\n");
    finish(UNEXPECTED);
}
