/*
 * PID 1 of pyvmm's guests: mounts what programs expect, loads modules, says that the guest is
 * ready, then serves the exec protocol or gives a shell; reaps, and ends the machine when the
 * shell ends, the power button is pressed or a signal asks (those of busybox's poweroff).
 */
#include <linux/input-event-codes.h>
#include <linux/sockios.h>
#include <linux/sysinfo.h>

#include "channel.h"
#include "command.h"
#include "server.h"
#include "sys.h"
#include "text.h"

enum { CHANNELS_MAX = 32, KEYBOARDS_MAX = 16, END_MS = 2000, RESTART_MS = 1000, CONSOLE_MS = 5000 };

/* From <linux/input.h> and <linux/if.h>, which would pull in a C library's headers. */
struct input_event {
	uint64_t seconds, microseconds;
	uint16_t type, code;
	int32_t value;
};

struct interface_request { /* struct ifreq, its member ifr_flags */
	char name[16];
	int16_t flags;
	char rest[22];
};

enum { AF_INET = 2, SOCK_DGRAM = 2, IFF_UP = 1 };

static struct {
	char path[128];
	int pid;
} channels[CHANNELS_MAX];
static unsigned channel_count;

static struct pollfd watched[1 + KEYBOARDS_MAX]; /* a signalfd, then input devices */
static unsigned watched_count;

static int shell; /* its pid; 0: none */
static bool shell_wanted; /* also when there are channels: the word pyvmm.shell */
static bool silent; /* the kernel had no console to give us */

static void mount_one(const char *source, const char *target, const char *type, const char *data)
{
	long result;

	sys_mkdir(target, 0755);
	result = sys_mount(source, target, type, 0, data);
	if (result < 0 && result != -EBUSY && result != -ENODEV)
		complain_errno("cannot mount ", target, result);
}

/* *file* as standard input, output and error, also of the programs to come. */
static void become_standard(int file)
{
	for (int fd = 0; fd < 3; fd++)
		if (file == fd)
			SYS3(fcntl, fd, F_SETFD, 0);
		else
			sys_dup(file, fd);
	if (file > 2)
		sys_close(file);
}

static void prepare(void)
{
	mount_one("devtmpfs", "/dev", "devtmpfs", "mode=0755");
	mount_one("proc", "/proc", "proc", NULL);
	mount_one("sysfs", "/sys", "sysfs", NULL);
	mount_one("devpts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666");
	mount_one("tmpfs", "/dev/shm", "tmpfs", "mode=1777");
	mount_one("tmpfs", "/tmp", "tmpfs", "mode=1777");
	mount_one("tmpfs", "/run", "tmpfs", "mode=0755");
	sys_mkdir("/root", 0700);
	sys_symlink("/proc/self/fd", "/dev/fd");
	sys_symlink("/proc/self/fd/0", "/dev/stdin");
	sys_symlink("/proc/self/fd/1", "/dev/stdout");
	sys_symlink("/proc/self/fd/2", "/dev/stderr");
	for (int fd = 0; fd < 3; fd++)
		silent |= SYS2(fcntl, fd, F_GETFD) < 0;
	if (silent) /* until take_console: nothing else may get these numbers */
		become_standard(sys_open("/dev/null", O_RDWR));
}

/* A console that is a module's: the driver may still be finding it. */
static void take_console(void)
{
	static char line[4096];
	long deadline = sys_now() + CONSOLE_MS;
	char *walk = line, *word;
	bool expected = false;
	int file;

	read_file("/proc/cmdline", line, sizeof(line));
	while ((word = next_word(&walk)))
		expected |= starts(word, "console=hvc");
	while ((file = sys_open("/dev/console", O_RDWR | O_NOCTTY)) < 0 && expected && sys_now() < deadline)
		sys_sleep(10);
	if (file >= 0)
		become_standard(file);
}

/* Load what /etc/pyvmm/modules lists: a path a line, in order, parameters behind it. */
static void load_modules(void)
{
	static char list[65536];
	char *walk = list, *path;

	if (read_file("/etc/pyvmm/modules", list, sizeof(list)) < 0)
		return;
	while ((path = next_line(&walk))) {
		char *parameters = path;
		long result;
		int fd;

		while (*parameters && *parameters != ' ')
			parameters++;
		if (*parameters)
			*parameters++ = 0;
		fd = sys_open(path, O_RDONLY);
		result = fd < 0 ? fd : SYS3(finit_module, fd, parameters, 0);
		if (fd >= 0)
			sys_close(fd);
		if (result == -ENOSYS)
			return; /* a kernel with everything built in */
		if (result < 0 && result != -EEXIST)
			complain_errno("cannot load ", path, result);
	}
}

static void set_up_loopback(void)
{
	struct interface_request request = { .name = "lo", .flags = IFF_UP };
	int fd = SYS3(socket, AF_INET, SOCK_DGRAM | O_CLOEXEC, 0);

	if (fd < 0)
		return; /* a kernel without networks */
	sys_ioctl(fd, SIOCSIFFLAGS, (long)&request);
	sys_close(fd);
}

static void set_name(void)
{
	char text[65], *walk = text, *name = NULL;

	if (read_file("/etc/hostname", text, sizeof(text)) > 0)
		name = next_line(&walk);
	name = name ? name : "pyvmm";
	SYS2(sethostname, name, strlen(name));
}

static void banner(void)
{
	struct new_utsname names;
	struct sysinfo info;
	unsigned long mask[128] = { 0 }, cpus = 0;
	char line[256], count[24], size[24];

	SYS1(uname, &names);
	SYS1(sysinfo, &info);
	SYS3(sched_getaffinity, 0, sizeof(mask), mask);
	for (unsigned i = 0; i < 128; i++)
		for (; mask[i]; mask[i] &= mask[i] - 1)
			cpus++;
	join(line, sizeof(line), "pyvmm guest ready: Linux ", names.release, " ", names.machine, ", ",
	     decimal(count, cpus), " CPUs, ", decimal(size, info.totalram * info.mem_unit >> 20),
	     " MiB\n", NULL);
	write_all(1, line, strlen(line));
}

static void add_channel(const char *path)
{
	if (channel_count < CHANNELS_MAX)
		join(channels[channel_count++].path, sizeof(channels->path),
		     *path == '/' ? "" : "/dev/", path, NULL);
}

/* Channels: pyvmm.exec=DEVICE[,DEVICE...], a DEVICE perhaps PORT|OTHER, on the command line, a line each in /etc/pyvmm/channels. */
static void find_channels(void)
{
	static char text[8192];
	char *walk = text, *word;

	read_file("/proc/cmdline", text, sizeof(text));
	while ((word = next_word(&walk))) {
		/* The last word has the line's end behind it. */
		shell_wanted |= starts(word, "pyvmm.shell") && word[strlen("pyvmm.shell")] <= ' ';
		if (!starts(word, "pyvmm.exec="))
			continue;
		for (char *name = word + strlen("pyvmm.exec="), *end = name; *name; name = end) {
			while (*end && *end != ',')
				end++;
			if (*end)
				*end++ = 0;
			add_channel(name);
		}
	}
	walk = text;
	read_file("/etc/pyvmm/channels", text, sizeof(text));
	while ((word = next_line(&walk)))
		add_channel(word);
}

/* In a new child: signals as a program expects them. */
static void fresh_signals(void) { sys_sigmask(SIG_SETMASK, 0); }

static void start_channel(unsigned index)
{
	channels[index].pid = sys_fork();
	if (channels[index].pid == 0) {
		fresh_signals();
		serve(channel_choose(channels[index].path));
		sys_sleep(RESTART_MS);
		sys_exit(1);
	}
}

/* The device behind /dev/console, which itself can't be a controlling terminal. */
static void console_path(char *path, size_t room)
{
	char active[256], *walk = active, *word, *last = NULL;

	read_file("/sys/class/tty/console/active", active, sizeof(active));
	while ((word = next_word(&walk)))
		last = word;
	join(path, room, "/dev/", last ? last : "console", NULL);
}

static void start_shell(void)
{
	char path[280], *arguments[] = { "-sh", NULL };

	console_path(path, sizeof(path));
	shell = sys_fork();
	if (shell)
		return;
	fresh_signals();
	SYS0(setsid);
	int terminal = sys_open(path, O_RDWR);

	if (terminal >= 0) {
		sys_ioctl(terminal, TIOCSCTTY, 1);
		become_standard(terminal);
	}
	SYS1(chdir, "/root");
	complain_errno("cannot start ", "/bin/sh",
		       SYS3(execve, "/bin/sh", arguments, command_environ()));
	sys_exit(127);
}

/* Run /etc/pyvmm/setup, where it exists, and wait for it. */
static void run_setup(void)
{
	char *arguments[] = { "sh", "/etc/pyvmm/setup", NULL };
	int status = 0, pid;

	if (SYS3(faccessat, AT_FDCWD, arguments[1], 0) < 0)
		return;
	pid = sys_fork();
	if (pid == 0) {
		fresh_signals();
		SYS3(execve, "/bin/sh", arguments, command_environ());
		sys_exit(127);
	}
	while (sys_wait(-1, &status, 0) != pid)
		;
	if (status)
		complain("/etc/pyvmm/setup failed", NULL);
}

static bool watch_input(const char *name, void *context)
{
	char path[280];
	int fd;

	(void)context;
	if (!starts(name, "event") || watched_count > KEYBOARDS_MAX)
		return true;
	fd = sys_open(join(path, sizeof(path), "/dev/input/", name, NULL), O_RDONLY | O_NONBLOCK);
	if (fd >= 0)
		watched[watched_count++] = (struct pollfd){ fd, POLLIN, 0 };
	return true;
}

static _Noreturn void end(unsigned how)
{
	long deadline = sys_now() + END_MS;
	int status;

	sys_kill(-1, SIGTERM);
	sys_kill(-1, SIGHUP); /* what ends an interactive shell */
	sys_kill(-1, SIGCONT);
	for (int left; (left = sys_wait(-1, &status, WNOHANG)) != -ECHILD && sys_now() < deadline;)
		if (!left)
			sys_sleep(5);
	sys_kill(-1, SIGKILL);
	SYS0(sync);
	SYS4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, how, NULL);
	SYS4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, NULL);
	for (;;)
		sys_sleep(1000);
}

static void reap(void)
{
	int pid, status;

	while ((pid = sys_wait(-1, &status, WNOHANG)) > 0) {
		if (pid == shell)
			end(LINUX_REBOOT_CMD_POWER_OFF);
		for (unsigned i = 0; i < channel_count; i++)
			if (channels[i].pid == pid)
				start_channel(i);
	}
}

static void handle_signals(void)
{
	struct signalfd_siginfo info;

	while (sys_read(watched[0].fd, &info, sizeof(info)) == sizeof(info))
		switch (info.ssi_signo) {
		case SIGCHLD:
			reap();
			break;
		case SIGINT: /* Ctrl-Alt-Del */
		case SIGTERM:
			end(LINUX_REBOOT_CMD_RESTART);
		case SIGUSR1:
			end(LINUX_REBOOT_CMD_HALT);
		case SIGUSR2:
			end(LINUX_REBOOT_CMD_POWER_OFF);
		}
}

static void handle_input(struct pollfd *device)
{
	struct input_event event;
	long got;

	while ((got = sys_read(device->fd, &event, sizeof(event))) == sizeof(event))
		if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
			end(LINUX_REBOOT_CMD_POWER_OFF);
	if (got != -EAGAIN)
		device->fd = -1; /* unplugged */
}

/* Called from the entry point with the stack the kernel made: argc, argv, NULL, envp, NULL. */
__attribute__((used)) _Noreturn void start(long *stack)
{
	unsigned long mask = SIGNAL_BIT(SIGCHLD) | SIGNAL_BIT(SIGINT) | SIGNAL_BIT(SIGTERM) |
			     SIGNAL_BIT(SIGUSR1) | SIGNAL_BIT(SIGUSR2);

	command_environment((char **)(stack + 1 + stack[0] + 1));
	if (SYS0(getpid) != 1) {
		complain_to = 2;
		complain("this is the first process of a guest, not a command", NULL);
		sys_exit(2);
	}
	sys_sigmask(SIG_SETMASK, mask);
	SYS4(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_CAD_OFF, NULL);
	prepare();
	load_modules();
	if (silent)
		take_console();
	set_up_loopback();
	set_name();
	find_channels();
	watched[watched_count++] = (struct pollfd){ sys_signalfd(mask), POLLIN, 0 };
	each_name("/dev/input", watch_input, NULL);
	banner();
	run_setup();
	for (unsigned i = 0; i < channel_count; i++)
		start_channel(i);
	if (shell_wanted || !channel_count)
		start_shell();
	for (;;) {
		sys_poll(watched, watched_count, -1);
		if (watched[0].revents)
			handle_signals();
		for (unsigned i = 1; i < watched_count; i++)
			if (watched[i].revents)
				handle_input(&watched[i]);
	}
}

__asm__(ENTRY_ASM);
