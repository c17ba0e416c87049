/* 32-bit protected mode: faults, a segment with a base, 4 MiB pages. */
#include "traps.h"

extern u64 gdt[];

static volatile u32 seen, error_seen;
static volatile uptr resume, stack;

/* The handlers go on at *resume* without IRET, which KVM's emulator has for real and long mode only. */
extern const u8 divide[], protection[], page_fault[];
__asm__(".macro handler name, vector, error\n\t"
        "\\name: .if \\error; popl error_seen; .endif\n\t"
        "movl $\\vector, seen\n\t"
        "movl stack, %esp\n\t"
        "jmp *resume\n\t"
        ".endm\n\t"
        "handler divide, 0, 0\n\t"
        "handler protection, 13, 1\n\t"
        "handler page_fault, 14, 1");

#define FAULTS(instruction, ...)                                                                  \
    do {                                                                                          \
        seen = error_seen = ~0u;                                                                  \
        __asm__ volatile("movl $1f, %0; movl %%esp, %1\n\t" instruction "\n1:" : "=m"(resume), "=m"(stack) : __VA_ARGS__ : "memory", "eax", "edx"); \
    } while (0)

static u32 directory[1024] __attribute__((aligned(4096)));

static void paging(void)
{
    directory[0] = 0x83;                  /* 0-4 MiB, a 4 MiB page */
    directory[1023] = 0xffc00093;         /* the ROM and the local APIC's neighbours */
    directory[256] = 0x83;                /* 1 GiB shows the first 4 MiB again */
    u32 cr0, cr4;
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | 0x10)); /* PSE */
    __asm__ volatile("mov %0, %%cr3" : : "r"(directory));
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 | 0x80000000) : "memory");

    static volatile u32 word = 0x12345678;
    expect(7, "the same word a GiB on", (uptr)&word, read32((uptr)&word + 0x40000000), 0x12345678);
    write32((uptr)&word + 0x40000000, 0x9abcdef0);
    expect(8, "the word written a GiB on", (uptr)&word, word, 0x9abcdef0);
    FAULTS("movb 0x20000000, %%al", "i"(0));
    expect(9, "read of an absent page", 14, seen, 14);
    expect(9, "its error code", 14, error_seen, 0);
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
}

int main(void)
{
    set_gate(0, (void *)divide, 0);
    set_gate(13, (void *)protection, 0);
    set_gate(14, (void *)page_fault, 0);

    FAULTS("xorl %%edx, %%edx; xorl %%eax, %%eax; divl %%eax", "i"(0));
    expect(1, "division by zero", 0, seen, 0);

    /* A segment of 256 bytes at 0x9000, in the place of the 64-bit code segment. */
    gdt[3] = 0x00409300900000ffull;
    write32(0x9010, 0xcafe1234);
    u32 got;
    __asm__ volatile("movw %w1, %%fs; movl %%fs:0x10, %0" : "=r"(got) : "r"(0x18) : "memory");
    expect(3, "through a segment base", 0x9010, got, 0xcafe1234);
    FAULTS("movw %w2, %%fs", "r"(0x1230));
    expect(5, "selector beyond the table", 13, seen, 13);
    paging();
    return ok();
}
