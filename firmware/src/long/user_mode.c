/* CPL 3: what it may not do comes to the kernel as the right fault, a system call comes back. Port
   access is allowed by the I/O permission bitmap. */
#include "paging.h"
#include "traps.h"

enum { KERNEL_CODE = 0x18, USER_BASE = 0x28, USER_CODE = 0x3b }; /* start.S */
enum { EFER = 0xc0000080, STAR = 0xc0000081, LSTAR = 0xc0000082, FMASK = 0xc0000084 };

struct task {
    u8 registers[102];
    u16 io_map;
    u8 permissions[8193];
} __attribute__((packed));
extern struct task task;

static volatile u64 seen, error_seen, user_cs;
static volatile uptr resume; /* zero: no fault is expected */
/* What the next general protection fault does for the program before it returns. */
static void (*volatile in_kernel)(struct frame *);

static void go_on(struct frame *frame)
{
    if (!resume)
        expect(UNEXPECTED, "fault", frame->ip, seen, 0);
    frame->ip = resume;
    resume = 0;
}

HANDLER protection(struct frame *frame, u64 error)
{
    seen = 13;
    error_seen = error;
    user_cs = frame->cs;
    if (in_kernel)
        in_kernel(frame);
    go_on(frame);
}

HANDLER page_fault(struct frame *frame, u64 error)
{
    seen = 14;
    error_seen = error;
    go_on(frame);
}

static void drop_iopl(struct frame *frame) { frame->flags &= ~0x3000ul; }

static void wrmsr(u32 msr, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)));
}

/* Answers a system call with the argument plus the number of the kernel's code segment. */
extern const u8 system_call[];
__asm__("system_call: movl %cs, %eax\n\t"
        "addl %edi, %eax\n\t"
        "movq %rsp, %rdx\n\t"
        "pushq $0x33; pushq %rdx; pushq %r11; pushq $0x3b; pushq %rcx\n\t"
        "iretq");

static void allow_system_calls(struct frame *frame)
{
    (void)frame;
    wrmsr(STAR, (u64)USER_BASE << 48 | (u64)KERNEL_CODE << 32);
    wrmsr(LSTAR, (uptr)system_call);
    wrmsr(FMASK, 0);
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(EFER));
    wrmsr(EFER, (u64)high << 32 | low | 1);
}

#define FAULTS(instruction, ...)                                                                  \
    do {                                                                                          \
        seen = error_seen = ~0ull;                                                                \
        __asm__ volatile("movq $1f, %0\n\t" instruction "\n1:" : "=m"(resume) : __VA_ARGS__ : "memory", "rax"); \
    } while (0)

static void call_kernel(void (*function)(struct frame *))
{
    in_kernel = function;
    FAULTS("hlt", "i"(0));
    in_kernel = 0;
}

int main(void)
{
    set_gate(13, protection, 0);
    set_gate(14, page_fault, 0);
    u16 cs; /* a KVM that runs user mode natively shows its own selector here, but always ring 3 */
    __asm__ volatile("movw %%cs, %0" : "=r"(cs));
    expect(1, "privilege level", cs, cs & 3, 3);

    FAULTS("movq %%cr3, %%rax", "i"(0));
    expect(2, "read of CR3", 13, seen, 13);
    expect(2, "its code segment", 13, user_cs, USER_CODE);
    FAULTS("hlt", "i"(0));
    expect(3, "HLT", 13, seen, 13);

    const uptr kernel_page = 0x50000000;
    *page_entry(kernel_page) = 0x200000 | 0x83; /* not for this ring */
    FAULTS("movb (%1), %%al", "r"(kernel_page));
    expect(4, "read of a kernel page", 14, seen, 14);
    expect(4, "its error code", 14, error_seen, 5);

    call_kernel(allow_system_calls);
    u64 answer;
    __asm__ volatile("syscall" : "=a"(answer) : "a"(0), "D"(0x1000) : "rcx", "rdx", "r11", "memory");
    expect(5, "system call", LSTAR, answer, 0x1000 + KERNEL_CODE);

    call_kernel(drop_iopl);
    FAULTS("cli", "i"(0));
    expect(6, "CLI with IOPL 0", 13, seen, 13);
    outb(COM1 + 7, 0xc3);
    expect(7, "scratch register", COM1 + 7, inb(COM1 + 7), 0xc3);
    task.permissions[0x80 / 8] |= 1;
    FAULTS("outb %%al, $0x80", "i"(0));
    expect(8, "a port the bitmap forbids", 13, seen, 13);
    FAULTS("inw %w1, %%ax", "d"(0x7f));
    expect(9, "a word with one byte forbidden", 13, seen, 13);
    return ok();
}
