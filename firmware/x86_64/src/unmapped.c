/* Guest-physical addresses where nothing is, in every width, aligned, unaligned and across a page
   border: reads are all ones, writes are dropped.
   Parameter 0: one address more to try, such as the first behind RAM.
   Parameter 1: 1 where reads give zeroes instead (QEMU's unassigned memory does). */
#include "paging.h"

static u64 ones = ~0ull;

static void check(uptr at)
{
    expect(1, "byte", at, read8(at), ones & 0xff);
    expect(2, "word", at, read16(at), ones & 0xffff);
    expect(4, "double word", at, read32(at), ones & 0xffffffff);
    expect(8, "quad word", at, read64(at), ones);
}

/* Every address is looked at through one window: some are beyond what is canonical. */
static void one(u64 address)
{
    const uptr window = 0x40000000;
    for (int i = 0; i < 2; i++) {
        *page_entry(window + i * 0x200000) = ((address & ~0x1fffffull) + i * 0x200000) | 0x97;
        flush_page(window + i * 0x200000);
    }
    uptr at = window + (address & 0x1fffff);
    static const u16 offsets[] = { 0, 3, 0xfff };
    for (int i = 0; i < 3; i++) {
        uptr a = at + offsets[i];
        check(a);
        write8(a, 0x12);
        write16(a, 0x1234);
        write32(a, 0x12345678);
        write64(a, 0x123456789abcdef0);
        check(a);
    }
}

int main(void)
{
    if (param(1, 0))
        ones = 0;
    one(0xc8000000); /* above RAM that ends at 3 GiB, below the device pages */
    one(0xdff00000);
    one(0xfd000000);
    one(0xfea00000); /* between the last device page and the I/O APIC */
    one(0xfed80000); /* between I/O APIC and local APIC */
    one(0x800000000);  /* 32 GiB */

    /* The last addresses the processor has (CPUID 0x80000008). */
    u32 eax = 0x80000008, ebx, ecx, edx;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx));
    one((1ull << (eax & 0xff)) - 0x200000);
    if (params[0])
        one(params[0]);
    return ok();
}
