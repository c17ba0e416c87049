/* What a program says and how it ends: one line on the PL011, one byte to the debug exit. Exceptions. */
#include "arm64.h"

enum { DR = 0, FR = 0x18, TXFF = 1 << 5, PATIENCE = 1000 };

u64 boot_x0;
volatile u64 fault_count, fault_esr, fault_far;
void (*handled_by)(u32 intid);

void put(const char *text)
{
    for (; *text; text++) {
        for (int i = 0; read32(UART + FR) & TXFF && i < PATIENCE; i++) { }
        write32(UART + DR, (u8)*text);
    }
}

void put_hex(u64 value)
{
    char digits[19];
    char *p = digits + sizeof digits - 1;
    *p = 0;
    do {
        *--p = "0123456789abcdef"[value & 15];
        value >>= 4;
    } while (value);
    *--p = 'x';
    *--p = '0';
    put(p);
}

_Noreturn void finish(int value)
{
    write8(DEBUG_EXIT, value);
    for (;;)
        __asm__ volatile("wfi");
}

static void fail_line(const char *what)
{
    put("FAIL " PROGRAM ": ");
    put(what);
}

_Noreturn void fail(int value, const char *what)
{
    fail_line(what);
    put("\n");
    finish(value);
}

void expect(int value, const char *what, u64 at, u64 got, u64 want)
{
    if (got == want)
        return;
    fail_line(what);
    put(" at ");
    put_hex(at);
    put(": got ");
    put_hex(got);
    put(", want ");
    put_hex(want);
    put("\n");
    finish(value);
}

int ok(void)
{
    put("ok " PROGRAM "\n");
    return 0;
}

/* From lib/start.S: an exception at EL1. SVC and HVC return behind themselves, the others are stepped over. */
void fault(void)
{
    u64 esr = READ_SYSTEM("esr_el1"), class = esr >> 26;
    fault_count++;
    fault_esr = esr;
    fault_far = READ_SYSTEM("far_el1");
    if (class != 0x15 && class != 0x16)
        WRITE_SYSTEM("elr_el1", READ_SYSTEM("elr_el1") + 4);
}

_Noreturn void no_vector(u64 esr, u64 at)
{
    expect(31, "an exception nobody expected", at, esr, 0);
    finish(31);
}

void interrupt(void)
{
    u64 intid = READ_SYSTEM("S3_0_C12_C12_0"); /* ICC_IAR1_EL1 */
    if (intid >= 1020)
        return;
    if (handled_by)
        handled_by(intid);
    WRITE_SYSTEM("S3_0_C12_C12_1", intid); /* ICC_EOIR1_EL1 */
}

/* The compiler may call these two. */
void *memcpy(void *to, const void *from, __SIZE_TYPE__ n)
{
    for (__SIZE_TYPE__ i = 0; i < n; i++)
        ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}

void *memset(void *to, int value, __SIZE_TYPE__ n)
{
    for (__SIZE_TYPE__ i = 0; i < n; i++)
        ((volatile u8 *)to)[i] = value;
    return to;
}
