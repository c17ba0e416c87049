/* Page tables in 2 MiB pages (Intel SDM volume 3, section 4.5). */
#include "paging.h"

enum { POOL = 16, PRESENT_WRITABLE_USER = 7, LARGE = 0x80, UNCACHED = 0x10 };
#define FRAME 0x000ffffffffff000ull

extern u64 page_root[512];
static u64 pool[POOL][512] __attribute__((aligned(4096)));
static int taken;

static u64 *below(u64 *entry)
{
    if (!(*entry & 1)) {
        if (taken == POOL)
            fail(30, "too many page tables");
        *entry = (uptr)pool[taken++] | PRESENT_WRITABLE_USER;
    }
    return (u64 *)(*entry & FRAME);
}

u64 *page_entry(u64 address)
{
    u64 *pointers = below(page_root + (address >> 39 & 511));
    u64 *directory = below(pointers + (address >> 30 & 511));
    return directory + (address >> 21 & 511);
}

void map(u64 address, int uncached)
{
    *page_entry(address) = (address & ~0x1fffffull) | PRESENT_WRITABLE_USER | LARGE | (uncached ? UNCACHED : 0);
}

void map_range(u64 address, u64 length, int uncached)
{
    for (u64 at = address & ~0x1fffffull; at < address + length; at += 0x200000)
        map(at, uncached);
}
