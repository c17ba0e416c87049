/* CPL 3: what it may not do comes to the kernel as the right fault. With IOPL 0, the I/O
   permission bitmap alone says which ports it may use. */
#include "paging.h"
#include "traps.h"

enum { USER_CODE = 0x3b }; /* start.S */

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

    call_kernel(drop_iopl);
    FAULTS("cli", "i"(0));
    expect(5, "CLI with IOPL 0", 13, seen, 13);
    outb(COM1 + 7, 0xc3);
    expect(6, "scratch register", COM1 + 7, inb(COM1 + 7), 0xc3);
    task.permissions[0x80 / 8] |= 1;
    FAULTS("outb %%al, $0x80", "i"(0));
    expect(7, "a port the bitmap forbids", 13, seen, 13);
    FAULTS("inw %w1, %%ax", "d"(0x7f));
    expect(8, "a word with one byte forbidden", 13, seen, 13);
    return ok();
}
