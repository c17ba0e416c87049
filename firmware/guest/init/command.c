#include "command.h"

#include <linux/limits.h>

#include "files.h"
#include "frame.h"
#include "text.h"
#include "user.h"

enum { ARGUMENTS_MAX = 4096, VARIABLES_MAX = 1024, INHERITED_MAX = 64, ABORT_MS = 500, DESCRIPTORS_MAX = 4096 };

static char *arguments[ARGUMENTS_MAX + 1];
static char *variables[VARIABLES_MAX + 1];
static char *inherited[INHERITED_MAX + 3 + 1];

/* What a request asks for; NULL where it does not. */
struct wish {
	const char *root, *directory, *user;
	const char *pack, *unpack; /* instead of a program */
};

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
	for (; *own && count < INHERITED_MAX; own++)
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

static const char *parse(uint8_t *data, size_t size, struct wish *wish)
{
	unsigned count = 0;
	size_t at = 0;

	for (unsigned i = 0; i <= INHERITED_MAX + 3; i++)
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
			wish->directory = text;
		else if (tag == 'r')
			wish->root = text;
		else if (tag == 'u')
			wish->user = text;
		else if (tag == 'p')
			wish->pack = text;
		else if (tag == 'x')
			wish->unpack = text;
		else
			return "the request has an unknown record, or too many of them";
	}
	arguments[count] = NULL;
	if (!count && !wish->pack && !wish->unpack)
		return "the request names no program";
	return !!count + !!wish->pack + !!wish->unpack > 1 ? "the request asks for two things" : NULL;
}

static _Noreturn void cannot(const char *what, const char *name, long result)
{
	complain_errno(what, name, result);
	sys_exit(EXIT_CANNOT);
}

/* Become the user, whose variables replace inherited ones, but none that the request sets. */
static void switch_user(const char *wanted, uint8_t *records, size_t size, struct wish *wish)
{
	static char home[PATH_MAX], name[280], logname[280];
	static struct user user;
	const char *wrong = user_find(wanted, &user);
	char **own = inherited;
	long result;

	if (wrong) {
		complain(wrong, wanted, NULL);
		sys_exit(EXIT_CANNOT);
	}
	if ((result = user_become(&user)))
		cannot("cannot become the user ", wanted, result);
	while (*own && !starts(*own, "HOME="))
		own++;
	*own = join(home, sizeof(home), "HOME=", user.home, NULL);
	while (*own)
		own++;
	*own++ = join(name, sizeof(name), "USER=", user.name, NULL);
	*own++ = join(logname, sizeof(logname), "LOGNAME=", user.name, NULL);
	parse(records, size, wish);
}

/* What a program's start does: among these are the other ends of this command's pipes and of all others'. */
static void close_others(void)
{
	if (SYS3(close_range, 3, ~0U, 0) == -ENOSYS) /* before Linux 5.9 */
		for (int fd = 3; fd < DESCRIPTORS_MAX; fd++)
			sys_close(fd);
}

/* Run by the new process, which has its descriptors: enter, find the program, become it. */
static _Noreturn void become(uint8_t *records, size_t records_size, struct wish *wish)
{
	const char *name, *path = "PATH=";
	char candidate[PATH_MAX];
	long result = 0;

	complain_to = 2;
	if (wish->root && ((result = SYS1(chroot, wish->root)) || (result = SYS1(chdir, "/"))))
		cannot("cannot make this the root: ", wish->root, result);
	if (wish->user)
		switch_user(wish->user, records, records_size, wish);
	if (wish->directory && (result = SYS1(chdir, wish->directory)))
		cannot("cannot enter ", wish->directory, result);
	if (wish->pack || wish->unpack) {
		close_others();
		sys_exit(wish->pack ? files_pack(wish->pack) : files_unpack(wish->unpack));
	}
	name = arguments[0];
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
	struct wish wish = { 0 };
	const char *wrong;
	int theirs[3], ours[3];
	uint16_t flags;

	if (size < REQUEST_RECORDS)
		return "the request is too short";
	flags = load16(request);
	command->window = load32(request + 6);
	wrong = parse(request + REQUEST_RECORDS, size - REQUEST_RECORDS, &wish);
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

			if (SYS2(pipe2, ends, O_CLOEXEC) < 0) {
				while (i--)
					sys_close(theirs[i]), sys_close(ours[i]);
				return "the guest has no descriptors left";
			}
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
		become(request + REQUEST_RECORDS, size - REQUEST_RECORDS, &wish);
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
