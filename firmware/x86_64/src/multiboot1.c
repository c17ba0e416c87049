/* A multiboot kernel: checks the information its boot loader passed and reports it on one line.
   Source: Multiboot Specification 0.6.96, sections 3.1 (header) and 3.3 (information). */
#include "io.h"

enum { HEADER_MAGIC = 0x1badb002, LOADER_MAGIC = 0x2badb002, HEADER_FLAGS = 3 };
enum { HAS_MEMORY = 1, HAS_COMMAND_LINE = 4, HAS_MODULES = 8, HAS_MAP = 64, AVAILABLE = 1 };

__attribute__((section(".multiboot"), used)) static const u32 header[] = {
    HEADER_MAGIC, HEADER_FLAGS, -(u32)(HEADER_MAGIC + HEADER_FLAGS),
};

struct information {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
};

struct module {
    u32 start, end, string, reserved;
};

struct range {
    u32 size; /* of what follows */
    u64 base, length;
    u32 type;
} __attribute__((packed));

static u64 memory(const struct information *info)
{
    u64 sum = 0, end_of_first = 0;
    for (u32 at = info->mmap_addr; at < info->mmap_addr + info->mmap_length;) {
        const struct range *range = (const void *)at;
        if (range->size < 20 || range->size > 256)
            fail(4, "a memory map entry has an unlikely size");
        if (range->type == AVAILABLE) {
            sum += range->length;
            if (range->base == 1 << 20)
                end_of_first = range->length >> 10;
        }
        at += range->size + 4;
    }
    expect(5, "KiB from 1 MiB on, against the map", 0, info->mem_upper, end_of_first);
    return sum;
}

int main(void)
{
    const struct information *info = (const void *)boot_info;
    expect(1, "magic number", 0, boot_magic, LOADER_MAGIC);
    expect(2, "information flags", boot_info,
           info->flags & (HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MAP),
           HAS_MEMORY | HAS_COMMAND_LINE | HAS_MODULES | HAS_MAP);
    if (info->mem_lower < 512 || info->mem_lower > 640)
        fail(3, "lower memory is not 512 to 640 KiB");

    u64 bytes = memory(info);
    put("ok " PROGRAM " memory ");
    put_hex(bytes);
    put(" cmdline '");
    put((const char *)info->cmdline);
    put("'");
    const struct module *modules = (const void *)info->mods_addr;
    for (u32 i = 0; i < info->mods_count; i++) {
        put(" module '");
        for (u32 at = modules[i].start; at < modules[i].end && at < modules[i].start + 32; at++) {
            char letter[] = { *(const char *)at, 0 };
            put(letter);
        }
        put("'");
    }
    put("\n");
    return 0;
}
