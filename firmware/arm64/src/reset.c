/* Resets the machine by PSCI. */
#include "arm64.h"

int main(void)
{
    put("reset\n");
    psci(PSCI_SYSTEM_RESET, 0, 0, 0);
    fail(1, "SYSTEM_RESET returned");
}
