/* PSCI (Arm DEN0022): its version, what is there, a CPU that is not, calls nobody knows. */
#include "arm64.h"

enum { NOT_SUPPORTED = -1, INVALID_PARAMETERS = -2, ALREADY_ON = -4 };

int main(void)
{
    u64 version = psci(PSCI_VERSION, 0, 0, 0);
    if (version < 2)
        expect(1, "PSCI version", PSCI_VERSION, version, 2);
    expect(2, "an unknown call", 0x840000ff, (int)psci(0x840000ff, 0, 0, 0), (u64)(long)NOT_SUPPORTED);
    u64 me = READ_SYSTEM("mpidr_el1") & 0xff00ffffff;
    expect(3, "CPU_ON of itself", me, psci(PSCI_CPU_ON, me, (u64)secondary_entry, 0), (u64)(long)ALREADY_ON);
    expect(4, "CPU_ON of a CPU that is not", 0xff, psci(PSCI_CPU_ON, 0xff00, (u64)secondary_entry, 0),
           (u64)(long)INVALID_PARAMETERS);
    expect(5, "AFFINITY_INFO of itself", me, psci(PSCI_AFFINITY_INFO, me, 0, 0), 0);
    if (version >= 0x10000)
        expect(6, "PSCI_FEATURES of SYSTEM_RESET", 0, (int)psci(PSCI_FEATURES, PSCI_SYSTEM_RESET, 0, 0), 0);
    return ok();
}

void secondary(u64 word) { (void)word; }
