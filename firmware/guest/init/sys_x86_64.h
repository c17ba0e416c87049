/* System calls and the entry point on x86-64 (System V AMD64 ABI, appendix A.2). */
#pragma once

#define ENTRY_ASM \
	".globl _start\n" \
	"_start:\n" \
	"	xor %ebp, %ebp\n" \
	"	mov %rsp, %rdi\n" \
	"	and $-16, %rsp\n" \
	"	call start\n" \
	"	hlt\n"

static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
	long ret;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
