/* Between a program and the files under one folder: records what is written and when it is synced,
 * makes a chosen call fail, makes fsync slow. Built and preloaded by tests/power.py.
 *
 *   SHIM_FOLDER    only files under it are looked at (-shm and .lock files are not: no data there)
 *   SHIM_RECORD    file to append records to: op, path length u16, path, offset u64, length u32, data
 *   SHIM_ARMED     nothing fails before this file exists
 *   SHIM_FAIL_OPS  which calls are counted: W write, T truncate, S sync, R read, U unlink
 *   SHIM_FAIL_AT   the call of this number (from 1) fails with EIO; those after it do not
 *   SHIM_COUNT     file to write the number of counted calls to
 *   SHIM_SYNC_MS   each sync takes so much longer
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int ends_with(const char *path, const char *end) {
    size_t n = strlen(path), m = strlen(end);
    return n >= m && !strcmp(path + n - m, end);
}

static int is_ours(const char *path) {
    const char *folder = getenv("SHIM_FOLDER");
    return folder && !strncmp(path, folder, strlen(folder)) && !ends_with(path, "-shm") &&
           !ends_with(path, ".lock");
}

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, size - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_ours(path);
}

static void record(char op, const char *path, uint64_t offset, const void *data, uint32_t size) {
    static int file = -1;
    const char *name = getenv("SHIM_RECORD");
    if (!name) return;
    int kept = errno;
    if (file < 0)
        file = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    uint16_t length = strlen(path);
    struct iovec parts[] = {{&op, 1}, {&length, 2}, {(void *)path, length},
                            {&offset, 8}, {&size, 4}, {(void *)data, size}};
    if (syscall(SYS_writev, file, parts, 6) < 0) abort();
    errno = kept;
}

static int fails(char op) {
    static long count = 0;
    const char *ops = getenv("SHIM_FAIL_OPS"), *armed = getenv("SHIM_ARMED");
    if (!ops || !strchr(ops, op) || (armed && access(armed, F_OK))) return 0;
    count++;
    const char *counter = getenv("SHIM_COUNT"), *at = getenv("SHIM_FAIL_AT");
    if (counter) {
        char text[32];
        int n = snprintf(text, sizeof text, "%ld", count);
        int file = syscall(SYS_openat, AT_FDCWD, counter, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (syscall(SYS_write, file, text, n) != n) abort();
        syscall(SYS_close, file);
    }
    if (!at || count != atol(at)) return 0;
    errno = EIO;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static ssize_t written(char *path, const void *data, uint64_t offset, ssize_t done) {
    if (done > 0) record('W', path, offset, data, done);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return REAL(pwrite64)(fd, data, size, offset);
    if (fails('W')) return -1;
    return written(path, data, offset, REAL(pwrite64)(fd, data, size, offset));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

ssize_t write(int fd, const void *data, size_t size) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return REAL(write)(fd, data, size);
    if (fails('W')) return -1;
    off_t offset = lseek(fd, 0, SEEK_CUR);
    return written(path, data, offset, REAL(write)(fd, data, size));
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
    char path[4096];
    if (path_of(fd, path, sizeof path) && fails('R')) return -1;
    return REAL(pread64)(fd, data, size, offset);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    return pread64(fd, data, size, offset);
}

int ftruncate64(int fd, off64_t size) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return REAL(ftruncate64)(fd, size);
    if (fails('T')) return -1;
    int done = REAL(ftruncate64)(fd, size);
    if (!done) record('T', path, size, "", 0);
    return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int synced(int fd, int (*real)(int)) {
    char path[4096];
    if (!path_of(fd, path, sizeof path)) return real(fd);
    const char *slow = getenv("SHIM_SYNC_MS");
    if (slow) usleep(1000 * atol(slow));
    if (fails('S')) return -1;
    int done = real(fd);
    if (!done) record('S', path, 0, "", 0);
    return done;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

int unlink(const char *path) {
    if (!is_ours(path)) return REAL(unlink)(path);
    if (fails('U')) return -1;
    int done = REAL(unlink)(path);
    if (!done) record('U', path, 0, "", 0);
    return done;
}

int rename(const char *from, const char *to) {
    int done = REAL(rename)(from, to);
    if (!done && is_ours(to)) record('N', from, 0, to, strlen(to));
    return done;
}
