/* A multiboot2 kernel: checks the information its boot loader passed and reports it on one line.
   Source: Multiboot2 Specification 2.0, sections 3.1 (header) and 3.6 (information). */
#include "io.h"

enum { HEADER_MAGIC = 0xe85250d6, LOADER_MAGIC = 0x36d76289, AVAILABLE = 1 };
enum { COMMAND_LINE = 1, MODULE = 3, BASIC_MEMORY = 4, MAP = 6 };

/* The header, a request for the command line, memory sizes and map, and the end tag. */
__attribute__((section(".multiboot"), used, aligned(8))) static const u32 header[] = {
    HEADER_MAGIC, 0, 48, -(HEADER_MAGIC + 0u + 48u),
    1 /* information request, not optional */, 20, COMMAND_LINE, BASIC_MEMORY, MAP, 0 /* padding */,
    0 /* end */, 8,
};

struct tag {
    u32 type, size;
};

struct module {
    struct tag tag;
    u32 start, end;
    char string[];
};

struct range {
    u64 base, length;
    u32 type, reserved;
};

struct map {
    struct tag tag;
    u32 entry_size, entry_version;
};

static u64 memory(const struct map *map)
{
    u64 sum = 0;
    if (map->entry_size < sizeof(struct range) || map->entry_size % 8)
        fail(4, "the memory map's entry size is wrong");
    for (u32 at = (uptr)(map + 1); at < (uptr)map + map->tag.size; at += map->entry_size) {
        const struct range *range = (const void *)at;
        if (range->type == AVAILABLE)
            sum += range->length;
    }
    return sum;
}

int main(void)
{
    expect(1, "magic number", 0, boot_magic, LOADER_MAGIC);
    expect(2, "alignment of the information", 0, boot_info & 7, 0);
    u32 total = *(const u32 *)boot_info, seen = 0;
    u64 bytes = 0;
    const char *cmdline = "";
    const struct tag *tag = (const void *)(boot_info + 8);
    for (; tag->type; tag = (const void *)((uptr)tag + ((tag->size + 7) & ~7u))) {
        if (tag->size < 8 || (uptr)tag + tag->size > boot_info + total)
            fail(3, "a tag reaches past the information");
        seen |= 1u << tag->type;
        if (tag->type == MAP)
            bytes = memory((const void *)tag);
        else if (tag->type == COMMAND_LINE)
            cmdline = (const char *)(tag + 1);
    }
    expect(5, "end tag's size", 0, tag->size, 8);
    u32 asked = 1 << COMMAND_LINE | 1 << BASIC_MEMORY | 1 << MAP;
    expect(6, "requested tags", boot_info, seen & asked, asked);

    put("ok " PROGRAM " memory ");
    put_hex(bytes);
    put(" cmdline '");
    put(cmdline);
    put("'");
    for (tag = (const void *)(boot_info + 8); tag->type; tag = (const void *)((uptr)tag + ((tag->size + 7) & ~7u))) {
        if (tag->type != MODULE)
            continue;
        const struct module *module = (const void *)tag;
        put(" module '");
        for (u32 at = module->start; at < module->end && at < module->start + 32; at++) {
            char letter[] = { *(const char *)at, 0 };
            put(letter);
        }
        put("'");
    }
    put("\n");
    return 0;
}
