/* What a KVM that runs CPL 3 natively but emulates ring 0 cannot do for it: SYSCALL into ring 0 and
   SYSRET back, and ports that IOPL 3 allows though the I/O permission bitmap forbids them. */
#include "traps.h"

enum { KERNEL_CODE = 0x18, USER_BASE = 0x28, IO_MAP = 104 }; /* start.S */
enum { EFER = 0xc0000080, STAR = 0xc0000081, LSTAR = 0xc0000082, FMASK = 0xc0000084 };

extern u8 task[];
extern u64 page_root[];

static void wrmsr(u32 msr, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)));
}

/* Answers with the argument plus CR3, which only ring 0 can read. */
extern const u8 system_call[];
__asm__("system_call: movq %cr3, %rax\n\t"
        "addq %rdi, %rax\n\t"
        "sysretq");

/* The HLT below faults into this. */
HANDLER allow_system_calls(struct frame *frame, u64 error)
{
    (void)error;
    wrmsr(STAR, (u64)USER_BASE << 48 | (u64)KERNEL_CODE << 32);
    wrmsr(LSTAR, (uptr)system_call);
    wrmsr(FMASK, 0);
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(EFER));
    wrmsr(EFER, (u64)high << 32 | low | 1);
    frame->ip++;
}

HANDLER refused(struct frame *frame, u64 error)
{
    (void)error;
    expect(1, "fault", frame->ip, 13, 0);
}

int main(void)
{
    set_gate(13, allow_system_calls, 0);
    __asm__ volatile("hlt" : : : "memory");
    set_gate(13, refused, 0);
    u64 answer;
    __asm__ volatile("syscall" : "=a"(answer) : "a"(0), "D"(0x1000) : "rcx", "r11", "memory");
    expect(2, "system call", LSTAR, answer, 0x1000 + (uptr)page_root);

    task[IO_MAP + (COM1 + 7) / 8] = 0x80;
    outb(COM1 + 7, 0x3c);
    expect(3, "scratch register", COM1 + 7, inb(COM1 + 7), 0x3c);
    return ok();
}
