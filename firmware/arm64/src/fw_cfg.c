/* QEMU's fw_cfg in memory (docs/specs/fw_cfg.rst): selector, data in every width, DMA.
   Parameter 0: the number of CPUs that it tells (default 1). */
#include "arm64.h"

extern const u64 params[4];
enum { FW_CFG = 0x9020000, DATA = FW_CFG, SELECTOR = FW_CFG + 8, DMA = FW_CFG + 16 };
enum { SIGNATURE = 0, ID = 1, NB_CPUS = 5, NOTHING = 0x7777 };
enum { ERROR = 1, READ = 2, SKIP = 4, SELECT = 8, WRITE = 16 };

static struct {
    u32 control, length;
    u64 address;
} __attribute__((aligned(16))) descriptor;
static u8 got[16];

static void choose(u16 key)
{
    write16(SELECTOR, __builtin_bswap16(key));
}

static u32 transfer(u32 control, u32 length, u64 address)
{
    descriptor.control = __builtin_bswap32(control);
    descriptor.length = __builtin_bswap32(length);
    descriptor.address = __builtin_bswap64(address);
    __asm__ volatile("dsb sy" : : : "memory");
    write64(DMA, __builtin_bswap64((u64)&descriptor));
    __asm__ volatile("dsb sy" : : : "memory");
    return __builtin_bswap32(*(volatile u32 *)&descriptor.control);
}

int main(void)
{
    u64 cpus = ((volatile const u64 *)params)[0];
    choose(SIGNATURE);
    expect(1, "signature", DATA, read32(DATA), 0x554d4551); /* "QEMU" */
    expect(1, "behind the signature", DATA, read8(DATA), 0);
    choose(SIGNATURE);
    expect(2, "signature by bytes", DATA, read8(DATA) | read8(DATA) << 8 | read16(DATA) << 16, 0x554d4551);
    choose(NB_CPUS);
    expect(4, "CPUs", DATA, read16(DATA), cpus ? cpus : 1);
    choose(NOTHING);
    expect(5, "an item that is not there", DATA, read64(DATA), 0);
    choose(ID);
    expect(6, "interfaces", DATA, read32(DATA), 3);
    expect(7, "DMA signature", DMA, read64(DMA), 0x47464320554d4551ull); /* "QEMU CFG" */

    expect(8, "transfer", 0, transfer(SIGNATURE << 16 | SELECT | READ, 6, (u64)got), 0);
    expect(9, "bytes", (u64)got, *(u64 *)got, 0x554d4551);
    expect(10, "selection", 0, transfer(SIGNATURE << 16 | SELECT, 0, 0), 0);
    expect(11, "skipping", 0, transfer(SKIP, 2, 0), 0);
    expect(12, "what is left", DATA, read16(DATA), 0x554d); /* "MU" */
    expect(13, "transfer to nowhere", 0, transfer(SIGNATURE << 16 | SELECT | READ, 4, 1ull << 46), ERROR);
    return ok();
}
