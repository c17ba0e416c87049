/* Loads a pair from a device: the processor does not tell the hypervisor what such an access is. */
#include "arm64.h"

int main(void)
{
    u64 a, b;
    put("pair\n");
    __asm__ volatile("ldp %0, %1, [%2]" : "=&r"(a), "=&r"(b) : "r"(UART + 0x18) : "memory");
    fail(1, "a pair of loads went through");
}
