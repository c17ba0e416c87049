/* What a program says and how it ends, on either architecture: one line on the console, one byte to the debug exit. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* To the console, and the end of the VM with *value*: 0 passed, 1-31 the check that failed (lib/console.c). */
void put(const char *text);
_Noreturn void finish(int value);

void put_hex(u64 value); /* 0x and as few digits as it takes */
/* "FAIL name: what", then end with *value*. */
_Noreturn void fail(int value, const char *what);
/* The same with "at X: got Y, want Z" where got differs from want; returns where they agree. */
void expect(int value, const char *what, u64 at, u64 got, u64 want);
/* "ok name". main() returns this. */
int ok(void);
