/* REP INSB and REP OUTSB with large counts on every port but those that end the machine.
   The bytes written are zeroes.
   Parameters 0 and 1: first and last port (default 0 and 0xffff); parameter 2: the step above
   0xfff (default 61); parameter 3: the count (default 8). */
#include "io.h"

static u8 zeroes[4096], input[4096];

static int ends_the_machine(u16 port)
{
    return port == DEBUG_EXIT || port == 0x64      /* i8042 command */
        || (port >= 0x600 && port <= 0x60f)        /* ACPI sleep and reset, here and in QEMU */
        || port == 0x92 || port == 0xcf9           /* system control, reset control */
        || port == 0xb2                            /* APM command */
        || (port >= 0x510 && port <= 0x51b)        /* fw_cfg and PCI: pyvmm refuses who asks for them */
        || (port >= 0xcf8 && port <= 0xcff);
}

int main(void)
{
    u32 first = param(0, 0), last = param(1, 0xffff), step = param(2, 61);
    u64 count = param(3, 8);
    if (count > sizeof zeroes)
        fail(1, "the count is above 4096");
    for (u32 port = first; port <= last; port += port < 0x1000 ? 1 : step) {
        if (ends_the_machine(port))
            continue;
        void *to = input;
        const void *from = zeroes;
        u64 n = count, m = count;
        __asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"((u16)port) : "memory");
        __asm__ volatile("rep outsb" : "+S"(from), "+c"(m) : "d"((u16)port) : "memory");
        expect(2, "left over", port, n + m, 0);
    }
    /* Accesses that run past the last port. */
    outw(0xffff, 0);
    outl(0xfffd, 0);
    inw(0xffff);
    inl(0xfffd);
    return ok();
}
