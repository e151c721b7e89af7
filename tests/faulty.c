/* Preloaded, it lets the system call FAULT_CALL fail with FAULT_ERRNO for files whose path ends in
   FAULT_PATH; reads from the byte FAULT_FROM on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int fails(const char *call, int descriptor) {
    char link[64], path[4096];
    if (strcmp(call, getenv("FAULT_CALL"))) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    ssize_t from = length - (ssize_t)strlen(getenv("FAULT_PATH"));
    if (from < 0) return 0;
    path[length] = 0;
    if (strcmp(path + from, getenv("FAULT_PATH"))) return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

static int beyond(off_t end) { return end > atoll(getenv("FAULT_FROM")); }

#define REAL(type, name, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

int flock(int fd, int how) {
    return fails("flock", fd) ? -1 : REAL(int, "flock", int, int)(fd, how);
}

int fsync(int fd) { return fails("fsync", fd) ? -1 : REAL(int, "fsync", int)(fd); }

int fcntl64(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    int locks = command == F_SETLK || command == F_SETLKW || command == F_GETLK;
    if (locks && fails("fcntl", fd)) return -1;
    return REAL(int, "fcntl64", int, int, ...)(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return fcntl64(fd, command, argument);
}

void *mmap64(void *at, size_t size, int access, int flags, int fd, off_t offset) {
    if (fd >= 0 && fails("mmap", fd)) return MAP_FAILED;
    return REAL(void *, "mmap64", void *, size_t, int, int, int, off_t)(
        at, size, access, flags, fd, offset);
}

void *mmap(void *at, size_t size, int access, int flags, int fd, off_t offset) {
    return mmap64(at, size, access, flags, fd, offset);
}

ssize_t read(int fd, void *to, size_t size) {
    if (beyond(lseek(fd, 0, SEEK_CUR) + size) && fails("read", fd)) return -1;
    return REAL(ssize_t, "read", int, void *, size_t)(fd, to, size);
}

ssize_t pread64(int fd, void *to, size_t size, off_t at) {
    if (beyond(at + size) && fails("read", fd)) return -1;
    return REAL(ssize_t, "pread64", int, void *, size_t, off_t)(fd, to, size, at);
}
