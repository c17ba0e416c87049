/*
 * Files without a program of the guest's: cpio archives in the newc format, packed to standard output
 * and unpacked from standard input. Both return 0 or a positive errno, and say on standard error what failed.
 */
#pragma once

/* Unpack to *target*: the archive's "." is *target* itself, everything else lies below it. */
int files_unpack(const char *target);

/* Pack *path* as ".", with all that lies below it. A symbolic link given as *path* is followed. */
int files_pack(const char *path);
