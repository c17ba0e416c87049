/* Starts all other CPUs by PSCI CPU_ON and counts them, each by its own MPIDR_EL1.
   Parameter 0: how many CPUs there must be (1). */
#include "arm64.h"

extern const u64 params[4];
static volatile u8 seen[256];

void secondary(u64 word)
{
    u64 mpidr = READ_SYSTEM("mpidr_el1");
    seen[word] = (mpidr & 0xff) == (word & 15) && (mpidr >> 8 & 0xff) == word >> 4 ? 1 : 2;
    __asm__ volatile("dsb sy");
}

int main(void)
{
    u64 want = ((volatile const u64 *)params)[0];
    if (!want)
        want = 1;
    u64 found = 1, frequency = READ_SYSTEM("cntfrq_el0");
    while (found < 256 && psci(PSCI_CPU_ON, (found & 15) | found >> 4 << 8, (u64)secondary_entry, found) == 0)
        found++;
    expect(1, "CPUs that can be started", 0, found, want);
    u64 start = READ_SYSTEM("cntvct_el0");
    for (u64 cpu = 1; cpu < found; cpu++) {
        while (!seen[cpu] && READ_SYSTEM("cntvct_el0") - start < 20 * frequency) { }
        expect(2, "a CPU's report", cpu, seen[cpu], 1);
    }
    put("ok smp ");
    put_hex(found);
    put("\n");
    return 0;
}
