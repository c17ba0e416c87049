/* Starts all other processors by INIT and two start-up messages (Intel SDM volume 3, section 9.4);
   each counts itself, and marks its APIC ID, from real mode.
   Parameter 0: how many processors there must be (default: what CPUID leaf 1 says). */
#include "apic.h"

enum { TRAMPOLINE = 0x8000 };

/* What trampoline.S leaves. */
static volatile u32 *const started = (volatile u32 *)(TRAMPOLINE + 0xe00);
static volatile u8 *const seen = (volatile u8 *)(TRAMPOLINE + 0xf00);

extern const u8 trampoline[], trampoline_end[];

static void wait(u64 cycles)
{
    for (u64 start = tsc(); tsc() - start < cycles;)
        __asm__ volatile("pause");
}

int main(void)
{
    u32 eax = 1, ebx, ecx, edx;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx));
    u32 want = param(0, ebx >> 16 & 0xff);
    if (!want)
        want = 1;

    u8 *to = (u8 *)TRAMPOLINE;
    __builtin_memset(to, 0, 4096);
    __builtin_memcpy(to, trampoline, trampoline_end - trampoline);

    lapic_on();
    set_lapic(LAPIC_ICR, 0xc4500); /* INIT to all but self */
    wait(1000000);
    for (int i = 0; i < 2; i++) {
        set_lapic(LAPIC_ICR, 0xc4600 | TRAMPOLINE >> 12);
        wait(200000);
    }
    for (u64 start = tsc(); *started < want - 1 && tsc() - start < 20000000000;)
        __asm__ volatile("pause");
    wait(1000000); /* for one too many */
    expect(1, "processors started beside the first", LAPIC_ICR, *started, want - 1);

    seen[lapic(LAPIC_ID) >> 24]++;
    u32 ids = 0;
    for (int id = 0; id < 255; id++) {
        if (seen[id] > 1)
            fail(2, "two processors have one APIC ID");
        ids += seen[id];
    }
    expect(3, "APIC IDs", LAPIC_ID, ids, want);
    put("ok smp ");
    put_hex(want);
    put("\n");
    return 0;
}
