/*
 * The kernel's interface without a C library: the system calls init needs, each returning
 * what the kernel returned (a negative errno on failure). Only calls that every architecture
 * has are used (openat, ppoll, clone, dup3), so a port is one header of its own.
 */
#pragma once

#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/termbits.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/poll.h>
#include <linux/reboot.h>
#include <linux/signalfd.h>
#include <linux/stat.h>
#include <linux/time.h>
#include <linux/utsname.h>
#include <linux/wait.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include "sys_x86_64.h"
#elif defined(__aarch64__)
#include "sys_aarch64.h"
#else
#error "no sys_<machine>.h for this architecture"
#endif

#define SYS0(n) sys6(__NR_##n, 0, 0, 0, 0, 0, 0)
#define SYS1(n, a) sys6(__NR_##n, (long)(a), 0, 0, 0, 0, 0)
#define SYS2(n, a, b) sys6(__NR_##n, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS3(n, a, b, c) sys6(__NR_##n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS4(n, a, b, c, d) sys6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS5(n, a, b, c, d, e) \
	sys6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

#define SIGNAL_BIT(n) (1UL << ((n)-1))

static inline int sys_open(const char *path, int flags)
{
	return SYS4(openat, AT_FDCWD, path, flags | O_CLOEXEC, 0644);
}
static inline long sys_read(int fd, void *data, size_t size) { return SYS3(read, fd, data, size); }
static inline long sys_write(int fd, const void *data, size_t size)
{
	return SYS3(write, fd, data, size);
}
static inline int sys_close(int fd) { return SYS1(close, fd); }
static inline int sys_fork(void) { return SYS5(clone, SIGCHLD, 0, 0, 0, 0); }
static inline int sys_wait(int pid, int *status, int flags)
{
	return SYS4(wait4, pid, status, flags, 0);
}
static inline int sys_kill(int pid, int number) { return SYS2(kill, pid, number); }
static inline _Noreturn void sys_exit(int status)
{
	for (;;)
		SYS1(exit_group, status);
}
static inline long sys_ioctl(int fd, unsigned long request, long argument)
{
	return SYS3(ioctl, fd, request, argument);
}
static inline int sys_mkdir(const char *path, int mode)
{
	return SYS3(mkdirat, AT_FDCWD, path, mode);
}
static inline int sys_symlink(const char *target, const char *path)
{
	return SYS3(symlinkat, target, AT_FDCWD, path);
}
static inline int sys_mount(const char *source, const char *target, const char *type,
			    unsigned long flags, const char *data)
{
	return SYS5(mount, source, target, type, flags, data);
}
/* *size* zero bytes of memory of their own, or NULL; released by sys_unmap. */
static inline void *sys_map(size_t size)
{
	long got = sys6(__NR_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return got < 0 && got > -4096 ? NULL : (void *)got;
}
static inline void sys_unmap(void *memory, size_t size) { SYS2(munmap, memory, size); }
static inline int sys_dup(int from, int to) { return SYS3(dup3, from, to, 0); }

/* Wait for any of *count* descriptors; *ms* below 0 waits for ever. */
static inline int sys_poll(struct pollfd *fds, unsigned count, long ms)
{
	struct __kernel_timespec limit = { ms / 1000, ms % 1000 * 1000000 };

	return SYS5(ppoll, fds, count, ms < 0 ? NULL : &limit, NULL, sizeof(unsigned long));
}

/* Block or unblock (SIG_BLOCK, SIG_UNBLOCK) the signals of *mask*. */
static inline void sys_sigmask(int how, unsigned long mask)
{
	SYS4(rt_sigprocmask, how, &mask, NULL, sizeof(mask));
}

/* Set a signal to SIG_IGN or SIG_DFL; neither needs a restorer. */
static inline void sys_sigset(int number, __sighandler_t handler)
{
	struct {
		__sighandler_t handler;
		unsigned long flags;
		void *restorer;
		unsigned long mask;
	} action = { handler, 0, NULL, 0 };

	SYS4(rt_sigaction, number, &action, NULL, sizeof(action.mask));
}

static inline int sys_signalfd(unsigned long mask)
{
	return SYS4(signalfd4, -1, &mask, sizeof(mask), O_CLOEXEC | O_NONBLOCK);
}

/* Milliseconds since boot. */
static inline long sys_now(void)
{
	struct __kernel_timespec time = { 0, 0 };

	SYS2(clock_gettime, CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static inline void sys_sleep(long ms) { sys_poll(NULL, 0, ms); }
