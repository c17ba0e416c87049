/* Ports that nobody claims, in every width: reads are all ones, writes are dropped. Where an access
   reaches into a claimed port as well, only that it is survived is checked.
   Parameter 0: the step above 0x7ff (default 211). Parameter 1: 1 for aligned accesses only
   (QEMU answers unaligned ones with zeroes). */
#include "io.h"

/* What pyvmm's machine has (docs/reference/address-maps.md) or QEMU's microvm. */
static const u16 claimed[][2] = {
    { 0x20, 0x21 },   { 0x40, 0x43 },   { 0x60, 0x61 },   { 0x64, 0x64 },   { 0x70, 0x71 },
    { 0x80, 0x80 },   { 0x92, 0x92 },   { 0xa0, 0xa1 },   { 0xe0, 0xef },   { 0x2f8, 0x2ff },
    { 0x3d4, 0x3d5 }, { 0x3f8, 0x3ff }, { 0x4d0, 0x4d1 }, { 0x501, 0x505 }, { 0x510, 0x51b },
    { 0x600, 0x60f }, { 0xcf8, 0xcff },
};

/* 0: free; 1: a read only, it reaches into a claimed port; 2: leave it alone. */
static int kind(u32 port, int width)
{
    int result = 0;
    for (unsigned i = 0; i < sizeof claimed / sizeof *claimed; i++) {
        if (port >= claimed[i][0] && port <= claimed[i][1])
            return 2;
        if (port < claimed[i][0] && port + width > claimed[i][0])
            result = 1;
    }
    return result;
}

int main(void)
{
    u32 step = param(0, 211);
    for (u32 port = 0; port <= 0xffff; port += port < 0x800 ? 1 : step)
        for (int width = 1; width <= 4; width *= 2) {
            if (port + width > 0x10000)
                continue;
            int how = kind(port, width);
            if (how == 2 || (params[1] && port % width))
                continue;
            if (how == 0) {
                if (width == 1)
                    outb(port, 0x12);
                else if (width == 2)
                    outw(port, 0x1234);
                else
                    outl(port, 0x12345678);
            }
            u32 got = width == 1 ? inb(port) : width == 2 ? inw(port) : inl(port);
            if (how == 0)
                expect(width, "read", port, got, width == 4 ? ~0u : (1u << 8 * width) - 1);
        }
    expect(5, "read", 0xffff, inb(0xffff), 0xff);
    return ok();
}
