#include "command.h"

#include "frame.h"
#include "text.h"

enum { ARGUMENTS_MAX = 4096, VARIABLES_MAX = 1024, ABORT_MS = 500 };

static char *arguments[ARGUMENTS_MAX + 1];
static char *variables[VARIABLES_MAX + 1];
static char *inherited[64 + 1];

static bool same_variable(const char *a, const char *b)
{
	while (*a && *a == *b && *a != '=')
		a++, b++;
	return *a == '=' && *b == '=';
}

void command_environment(char **own)
{
	unsigned count = 0;

	inherited[count++] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	inherited[count++] = "HOME=/root";
	for (; *own && count < 64; own++)
		if (!starts(*own, "PATH=") && !starts(*own, "HOME="))
			inherited[count++] = *own;
}

char **command_environ(void) { return inherited; }

static bool set_variable(char *setting)
{
	unsigned at = 0;

	while (variables[at] && !same_variable(variables[at], setting))
		at++;
	if (at == VARIABLES_MAX)
		return false;
	if (!variables[at])
		variables[at + 1] = NULL;
	variables[at] = setting;
	return true;
}

/* Run by the new process, which has its descriptors: enter, find the program, become it. */
static _Noreturn void become(const char *root, const char *directory)
{
	const char *name = arguments[0], *path = "PATH=";
	char candidate[4096];
	long result = 0;

	complain_to = 2;
	if (root && ((result = SYS1(chroot, root)) || (result = SYS1(chdir, "/")))) {
		complain_errno("cannot make this the root: ", root, result);
		sys_exit(EXIT_CANNOT);
	}
	if (directory && (result = SYS1(chdir, directory))) {
		complain_errno("cannot enter ", directory, result);
		sys_exit(EXIT_CANNOT);
	}
	for (char **variable = variables; *variable; variable++)
		if (starts(*variable, "PATH="))
			path = *variable;
	path += strlen("PATH=");
	result = -ENOENT;
	if (last_slash(name))
		result = SYS3(execve, name, arguments, variables);
	else
		while (*path) {
			size_t size = 0;

			while (path[size] && path[size] != ':')
				size++;
			if (size && size + strlen(name) + 2 < sizeof(candidate)) {
				long tried;

				memcpy(candidate, path, size);
				join(candidate + size, sizeof(candidate) - size, "/", name, NULL);
				tried = SYS3(execve, candidate, arguments, variables);
				if (tried != -ENOENT && tried != -ENOTDIR)
					result = tried;
			}
			path += size + (path[size] == ':');
		}
	complain_errno("cannot run ", name, result);
	sys_exit(result == -ENOENT || result == -ENOTDIR ? EXIT_NOT_FOUND : EXIT_CANNOT);
}

static const char *parse(uint8_t *data, size_t size, const char **root, const char **directory)
{
	unsigned count = 0;
	size_t at = 0;

	for (unsigned i = 0; i <= 64; i++)
		variables[i] = inherited[i];
	data[size] = 0;
	while (at < size) {
		char tag = (char)data[at];
		char *text = (char *)data + at + 1;

		if (at + 1 >= size)
			return "the request ends inside a record";
		at += strlen(text) + 2;
		if (tag == 'a' && count < ARGUMENTS_MAX)
			arguments[count++] = text;
		else if (tag == 'e' && set_variable(text))
			continue;
		else if (tag == 'd')
			*directory = text;
		else if (tag == 'r')
			*root = text;
		else
			return "the request has an unknown record, or too many of them";
	}
	arguments[count] = NULL;
	return count ? NULL : "the request names no program";
}

static bool open_pty(int *master, int *slave, const uint8_t *size)
{
	int unlock = 0;

	*master = sys_open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (*master < 0)
		return false;
	sys_ioctl(*master, TIOCSPTLCK, (long)&unlock);
	*slave = sys_ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*slave < 0) {
		sys_close(*master);
		return false;
	}
	command_resize(*master, load16(size), load16(size + 2));
	return true;
}

const char *command_start(struct command *command, uint8_t *request, size_t size)
{
	const char *root = NULL, *directory = NULL, *wrong;
	int theirs[3], ours[3];
	uint16_t flags;

	if (size < 10)
		return "the request is too short";
	flags = load16(request);
	command->window = load32(request + 6);
	wrong = parse(request + 10, size - 10, &root, &directory);
	if (wrong)
		return wrong;
	command->pty = flags & REQUEST_PTY;
	if (command->pty) {
		if (!open_pty(&ours[0], &theirs[0], request + 2))
			return "the guest has no pseudo-terminals";
		ours[1] = ours[0];
		ours[2] = -1;
		theirs[1] = theirs[2] = theirs[0];
	} else {
		for (int i = 0; i < 3; i++) {
			int ends[2];

			if (SYS2(pipe2, ends, O_CLOEXEC) < 0)
				return "the guest has no descriptors left";
			theirs[i] = ends[i != 0];
			ours[i] = ends[i == 0];
			SYS3(fcntl, ours[i], F_SETFL, O_NONBLOCK);
		}
	}
	command->pid = sys_fork();
	if (command->pid == 0) {
		sys_sigset(SIGPIPE, SIG_DFL);
		sys_sigmask(SIG_SETMASK, 0);
		SYS0(setsid);
		if (command->pty)
			sys_ioctl(theirs[0], TIOCSCTTY, 0);
		for (int i = 0; i < 3; i++)
			sys_dup(theirs[i], i);
		become(root, directory);
	}
	for (int i = 0; i < (command->pty ? 1 : 3); i++)
		sys_close(theirs[i]);
	if (command->pid > 0) {
		command->in = ours[0];
		command->out = ours[1];
		command->err = ours[2];
		return NULL;
	}
	command->pid = 0;
	for (int i = 0; i < (command->pty ? 1 : 3); i++)
		sys_close(ours[i]);
	return "the guest cannot start another process";
}

void command_close(int *fd)
{
	if (*fd >= 0)
		sys_close(*fd);
	*fd = -1;
}

void command_resize(int terminal, uint16_t rows, uint16_t cols)
{
	uint16_t window[4] = { rows, cols, 0, 0 }; /* struct winsize */

	sys_ioctl(terminal, TIOCSWINSZ, (long)window);
}

struct sessions {
	const int *ids;
	unsigned count;
	int signal, found;
};

static bool signal_member(const char *name, void *context)
{
	struct sessions *sessions = context;
	int pid, session;

	if (!number(name, &pid) || (session = SYS1(getsid, pid)) <= 0)
		return true;
	for (unsigned i = 0; i < sessions->count; i++)
		if (session == sessions->ids[i]) {
			sys_kill(pid, sessions->signal);
			sessions->found++;
		}
	return true;
}

/* Send *signal* (0: none) to each process of the sessions; how many there are. */
static int signal_sessions(const int *ids, unsigned count, int signal)
{
	struct sessions sessions = { ids, count, signal, 0 };

	each_name("/proc", signal_member, &sessions);
	return sessions.found;
}

void sessions_end(const int *ids, unsigned count)
{
	long deadline = sys_now() + ABORT_MS;
	int status;

	signal_sessions(ids, count, SIGHUP);
	signal_sessions(ids, count, SIGCONT);
	do {
		while (sys_wait(-1, &status, WNOHANG) > 0)
			;
		if (!signal_sessions(ids, count, sys_now() < deadline ? 0 : SIGKILL))
			return;
		sys_sleep(5);
	} while (sys_now() < deadline + ABORT_MS);
}
