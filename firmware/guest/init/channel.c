#include "channel.h"

#include "text.h"

enum { RETRY_MS = 20, TELL_MS = 5000, PORTS_MS = 1000 };

#define PORTS "/dev/virtio-ports/"

struct port {
	const char *name;
	char *path; /* out */
};

static bool is_port(const char *device, void *context)
{
	struct port *port = context;
	char name[256], file[320], *walk = name, *line;

	join(file, sizeof(file), "/sys/class/virtio-ports/", device, "/name", NULL);
	if (read_file(file, name, sizeof(name)) <= 0)
		return true;
	line = next_line(&walk);
	if (!line || !equal(line, port->name))
		return true;
	join(port->path, 64, "/dev/", device, NULL);
	return false;
}

/* Open /dev/virtio-ports/NAME without udev: the port whose name sysfs says is NAME. */
static int open_port(const char *name, int flags)
{
	char path[64] = "";
	struct port port = { name, path };

	each_name("/sys/class/virtio-ports", is_port, &port);
	return path[0] ? sys_open(path, flags) : -ENOENT;
}

static bool is_device(const char *name, void *context)
{
	*(bool *)context |= starts(name, "virtio");
	return true;
}

char *channel_choose(char *paths)
{
	char *bar = paths, node[64] = "";
	struct port port = { NULL, node };
	bool found = false;

	while (*bar && *bar != '|')
		bar++;
	if (!*bar)
		return paths;
	*bar++ = 0;
	port.name = last_slash(paths) + 1;
	each_name("/sys/bus/virtio/drivers/virtio_console", is_device, &found);
	for (long since = sys_now(); found && sys_now() - since < PORTS_MS; sys_sleep(RETRY_MS / 4)) {
		each_name("/sys/class/virtio-ports", is_port, &port);
		if (node[0])
			return paths;
	}
	return bar;
}

int channel_open(const char *path, bool *tty)
{
	int fd, flags = O_RDWR | O_NOCTTY | O_NONBLOCK;
	struct termios raw = { .c_iflag = IGNBRK, .c_cflag = CS8 | CREAD | CLOCAL | B115200 };

	for (long since = sys_now(), told = 0;; sys_sleep(RETRY_MS)) {
		fd = sys_open(path, flags);
		if (fd < 0 && starts(path, PORTS))
			fd = open_port(last_slash(path) + 1, flags);
		if (fd >= 0)
			break;
		if (!told && sys_now() - since > TELL_MS) {
			complain_errno("still waiting for ", path, fd);
			told = 1;
		}
	}
	raw.c_cc[VMIN] = 1;
	*tty = sys_ioctl(fd, TCSETS, (long)&raw) == 0;
	SYS3(fcntl, fd, F_SETOWN, SYS0(getpid));
	SYS3(fcntl, fd, F_SETFL, flags | FASYNC);
	return fd;
}
