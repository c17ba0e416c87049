/* QEMU's fw_cfg at ports (docs/specs/fw_cfg.rst): selector, data, string input, DMA.
   Parameter 0: the number of CPUs that it tells (default 1). */
#include "io.h"

enum { SELECTOR = 0x510, DATA = 0x511, DMA = 0x514 };
enum { SIGNATURE = 0, ID = 1, NB_CPUS = 5, NOTHING = 0x7777 };
enum { ERROR = 1, READ = 2, SKIP = 4, SELECT = 8, WRITE = 16 };

static volatile struct {
    u32 control, length;
    u64 address;
} __attribute__((aligned(16))) descriptor;
static u8 got[16];

static u32 transfer(u32 control, u32 length, u64 address)
{
    descriptor.control = __builtin_bswap32(control);
    descriptor.length = __builtin_bswap32(length);
    descriptor.address = __builtin_bswap64(address);
    outl(DMA, 0);
    outl(DMA + 4, __builtin_bswap32((u32)(uptr)&descriptor));
    return __builtin_bswap32(descriptor.control);
}

int main(void)
{
    outw(SELECTOR, NB_CPUS);
    expect(1, "CPUs, low byte", DATA, inb(DATA), param(0, 1));
    expect(1, "CPUs, high byte", DATA, inb(DATA), 0);
    outw(SELECTOR, NOTHING);
    expect(2, "an item that is not there", DATA, inb(DATA), 0);
    outw(SELECTOR, ID);
    expect(3, "interfaces", DATA, inb(DATA), 3);
    outb(SELECTOR, SIGNATURE);
    expect(4, "after a byte to the selector", DATA, inb(DATA), 0);
    expect(5, "DMA signature", DMA, inl(DMA) | (u64)inl(DMA + 4) << 32, 0x47464320554d4551ull); /* "QEMU CFG" */

    outw(SELECTOR, SIGNATURE);
    void *to = got;
    u64 count = 4;
    __asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"((u16)DATA) : "memory");
    expect(6, "signature by string input", DATA, *(volatile u32 *)got, 0x554d4551); /* "QEMU" */

    expect(7, "transfer", 0, transfer(SIGNATURE << 16 | SELECT | READ, 6, (uptr)got), 0);
    expect(8, "bytes", (uptr)got, *(volatile u64 *)got, 0x554d4551);
    expect(9, "selection", 0, transfer(SIGNATURE << 16 | SELECT, 0, 0), 0);
    expect(10, "skipping", 0, transfer(SKIP, 2, 0), 0);
    expect(11, "what is left", DATA, inb(DATA), 'M');
    expect(12, "transfer to nowhere", 0, transfer(SIGNATURE << 16 | SELECT | READ, 4, 1ull << 46), ERROR);
    expect(13, "transfer that writes", 0, transfer(SIGNATURE << 16 | SELECT | WRITE, 4, (uptr)got), ERROR);
    return ok();
}
