/* 32-bit paging with 4 MiB pages (Intel SDM volume 3, section 4.3): one word at two addresses, and a
   fault at an absent page. A KVM that emulates ring 0 may refuse this kind of paging. */
#include "faults32.h"

static u32 directory[1024] __attribute__((aligned(4096)));

int main(void)
{
    set_gate(14, (void *)page_fault, 0);
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
    expect(1, "the same word a GiB on", (uptr)&word, read32((uptr)&word + 0x40000000), 0x12345678);
    write32((uptr)&word + 0x40000000, 0x9abcdef0);
    expect(2, "the word written a GiB on", (uptr)&word, word, 0x9abcdef0);
    FAULTS("movb 0x20000000, %%al", "i"(0));
    expect(3, "read of an absent page", 14, seen, 14);
    expect(3, "its error code", 14, error_seen, 0);
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
    return ok();
}
