/* Switches the machine off by PSCI. */
#include "arm64.h"

int main(void)
{
    put("off\n");
    psci(PSCI_SYSTEM_OFF, 0, 0, 0);
    fail(1, "SYSTEM_OFF returned");
}
