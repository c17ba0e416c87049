/*
 * Vsock streams for shell scripts in a guest, which busybox has nothing for:
 *
 *	vsock cid               print this machine's context identifier
 *	vsock echo PORT         echo every connection to PORT, until it is killed
 *	vsock listen PORT       one connection to PORT, from standard input and to standard output
 *	vsock connect PORT      the same with a connection to PORT of the host
 *
 * Each direction ends by itself: the end of input is passed on, and the end of what the other side
 * sends closes standard output. Status 1 and a line on standard error tell of a call that failed.
 */
#include "must.h"

enum { AF_VSOCK = 40, SOCK_STREAM = 1, SHUT_WR = 1, BACKLOG = 128 };

static const unsigned ANY = -1U, HOST = 2;
static const unsigned long GET_LOCAL_CID = 0x7b9; /* IOCTL_VM_SOCKETS_GET_LOCAL_CID */

/* struct sockaddr_vm of linux/vm_sockets.h, which needs a C library's headers. */
struct address {
	uint16_t family, reserved;
	uint32_t port, cid;
	uint8_t zero[4];
};

static char buffer[64 << 10];

static int stream(void)
{
	return must("make a socket", SYS3(socket, AF_VSOCK, SOCK_STREAM, 0));
}

static int listen_on(int port)
{
	struct address address = { AF_VSOCK, 0, port, ANY, { 0 } };
	int fd = stream();

	must("bind", SYS3(bind, fd, &address, sizeof(address)));
	must("listen", SYS2(listen, fd, BACKLOG));
	return fd;
}

static int accept_from(int fd) { return must("accept", SYS4(accept4, fd, NULL, NULL, 0)); }

static int connect_to(int port)
{
	struct address address = { AF_VSOCK, 0, port, HOST, { 0 } };
	int fd = stream();

	must("connect", SYS3(connect, fd, &address, sizeof(address)));
	return fd;
}

static void copy(int from, int to)
{
	long size;

	while ((size = must("read", sys_read(from, buffer, sizeof(buffer)))) > 0)
		for (long at = 0; at < size;)
			at += must("write", sys_write(to, buffer + at, size - at));
}

static void exchange(int fd)
{
	int status, child = must("fork", sys_fork());

	if (!child) {
		sys_close(1); /* or its reader would wait for this process, too */
		copy(0, fd);
		SYS2(shutdown, fd, SHUT_WR);
		sys_exit(0);
	}
	copy(fd, 1);
	sys_close(1);
	sys_wait(child, &status, 0);
	if (status)
		sys_exit(1);
}

static _Noreturn void echo(int fd)
{
	sys_sigset(SIGCHLD, SIG_IGN); /* nobody waits for the children */
	for (;;) {
		int one = accept_from(fd);

		if (!must("fork", sys_fork())) {
			sys_close(fd);
			copy(one, one);
			sys_exit(0);
		}
		sys_close(one);
	}
}

static void print_cid(void)
{
	unsigned cid;
	char text[25];
	int fd = must("open /dev/vsock", sys_open("/dev/vsock", O_RDONLY));

	must("ask for the CID", sys_ioctl(fd, GET_LOCAL_CID, (long)&cid));
	join(buffer, sizeof(buffer), decimal(text, cid), "\n", NULL);
	write_all(1, buffer, strlen(buffer));
}

__attribute__((used)) _Noreturn void start(long *stack)
{
	char **words = (char **)(stack + 1);
	const char *verb = *stack > 1 ? words[1] : "";
	int port;

	sys_sigset(SIGPIPE, SIG_IGN);
	if (equal(verb, "cid") && *stack == 2) {
		print_cid();
	} else if (*stack == 3 && number(words[2], &port)) {
		if (equal(verb, "echo"))
			echo(listen_on(port));
		else if (equal(verb, "listen"))
			exchange(accept_from(listen_on(port)));
		else if (equal(verb, "connect"))
			exchange(connect_to(port));
		else
			sys_exit(2);
	} else {
		sys_exit(2);
	}
	sys_exit(0);
}

__asm__(ENTRY_ASM);
