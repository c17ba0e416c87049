#include "user.h"

#include <asm/stat.h>

#include "text.h"

enum { FIELDS = 7, TEXT_MAX = 16 << 20 };

/* A whole text file in memory of its own, for as long as this process lives; empty when there is none. */
static char *load(const char *path)
{
	struct stat status;
	size_t room;
	char *text;

	if (SYS4(newfstatat, AT_FDCWD, path, &status, 0) || status.st_size > TEXT_MAX)
		return "";
	room = (size_t)status.st_size + 1;
	text = sys_map(room);
	return text && read_file(path, text, room) > 0 ? text : "";
}

/* The next line's fields, ended by zero bytes in place; missing ones are empty. */
static bool next_record(char **walk, char *fields[FIELDS])
{
	char *line = next_line(walk);

	if (!line)
		return false;
	for (int i = 0; i < FIELDS; i++) {
		fields[i] = line;
		while (*line && *line != ':')
			line++;
		if (*line)
			*line++ = 0;
	}
	return true;
}

static bool has_member(char *list, const char *name)
{
	while (*list) {
		char *member = list;
		char end;

		while (*list && *list != ',')
			list++;
		end = *list;
		*list = 0;
		if (equal(member, name))
			return true;
		list += end != 0;
	}
	return false;
}

const char *user_find(const char *wanted, struct user *user)
{
	char *walk = load("/etc/passwd"), *fields[FIELDS];
	int numeric, uid, gid;
	bool by_number = number(wanted, &numeric), found = false;

	while (!found && next_record(&walk, fields)) {
		if (!number(fields[2], &uid) || !number(fields[3], &gid))
			continue;
		found = equal(fields[0], wanted) || (by_number && uid == numeric);
	}
	if (found) {
		*user = (struct user){ .uid = (uint32_t)uid, .gid = (uint32_t)gid };
		user->name = fields[0];
		user->home = fields[5][0] ? fields[5] : "/";
	} else if (by_number) {
		*user = (struct user){ .uid = (uint32_t)numeric, .gid = (uint32_t)numeric };
		user->name = wanted;
		user->home = "/";
	} else {
		return "the guest's /etc/passwd has no user ";
	}
	user->groups[user->group_count++] = user->gid;
	walk = load("/etc/group");
	while (found && user->group_count < GROUPS_MAX && next_record(&walk, fields))
		if (number(fields[2], &gid) && (uint32_t)gid != user->gid && has_member(fields[3], user->name))
			user->groups[user->group_count++] = (uint32_t)gid;
	return NULL;
}

long user_become(const struct user *user)
{
	long result;

	for (int fd = 0; fd < 3; fd++) /* so that it can open them again, as /dev/stderr or /dev/tty */
		SYS3(fchown, fd, user->uid, user->gid);
	if ((result = SYS2(setgroups, user->group_count, user->groups)) ||
	    (result = SYS3(setresgid, user->gid, user->gid, user->gid)))
		return result;
	return SYS3(setresuid, user->uid, user->uid, user->uid);
}
