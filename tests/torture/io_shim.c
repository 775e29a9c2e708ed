/* Faults in the I/O of one folder, for a process that was started with LD_PRELOAD=io_shim.so.
 *
 * Counts the calls that change files of the watched folder: write, pwrite, writev, pwritev, ftruncate, fsync, fdatasync, open with
 * O_CREAT, unlink and rename; reads are counted apart. At the armed call it does one thing: see `enum mode`. Children inherit the
 * watch over fork, so one preloaded parent can arm each of its children.
 *
 * Not seen: stores into mapped memory. SQLite maps its -shm file, and never relies on what a crash leaves in it: the first process
 * to open the database builds it anew. Database and log are written with calls (mmap_size is 0).
 *
 * The power cut is the worst one that POSIX allows: of all that was written, cut, created, renamed or removed since the last fsync
 * of that file (for names: of the folder) nothing survives, or, with a seed, an arbitrary part of it by sectors of 512 bytes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { OFF, KILL, FAIL_EIO, FAIL_ENOSPC, SHORT, TORN, FULL, POWER, READ_EIO };
enum call { WRITE, TRUNCATE, SYNC, CREATE, REMOVE, RENAME };
static const char *CALLS[] = {"write", "truncate", "sync", "create", "remove", "rename"};
#define FILES 1024
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX], last[PATH_MAX + 32];
static size_t folder_length;
static unsigned char tracked[FILES]; /* by file descriptor: 1 a file of the folder, 2 the folder itself */
static long calls, reads, armed_at, fired;
static enum mode mode;
static unsigned seed;

/* -- the calls underneath ---------------------------------------------------------------------------- */
#define REAL(result, name, ...)                                              \
    static result (*name##_under)(__VA_ARGS__);                              \
    static result (*real_##name(void))(__VA_ARGS__) {                        \
        if (!name##_under) *(void **)&name##_under = dlsym(RTLD_NEXT, #name); \
        return name##_under;                                                 \
    }
REAL(int, open64, const char *, int, ...)
REAL(int, openat64, int, const char *, int, ...)
REAL(int, close, int)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, pwritev64, int, const struct iovec *, int, off64_t)
REAL(ssize_t, read, int, void *, size_t)
REAL(ssize_t, pread64, int, void *, size_t, off64_t)
REAL(int, ftruncate64, int, off64_t)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(int, unlink, const char *)
REAL(int, unlinkat, int, const char *, int)
REAL(int, rename, const char *, const char *)

/* -- which files ------------------------------------------------------------------------------------- */
static int kind_of(const char *path) {
    if (!folder_length || strncmp(path, folder, folder_length)) return 0;
    return path[folder_length] == '/' ? 1 : path[folder_length] == 0 ? 2 : 0;
}

static int kind_of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return kind_of(path);
}

static void absolute(int at, const char *name, char *path) { /* enough for names without symbolic links */
    char base[PATH_MAX] = "";
    if (name[0] != '/' && (at != AT_FDCWD ? !kind_of_fd(at, base) && !base[0] : !getcwd(base, sizeof base))) abort();
    snprintf(path, PATH_MAX, "%.2000s%s%.2000s", base, name[0] == '/' ? "" : "/", name);
}

static int is_tracked(int fd) { return fd >= 0 && fd < FILES && tracked[fd] == 1; }
static unsigned draw(unsigned *state) { /* xorshift */
    *state ^= *state << 13; *state ^= *state >> 17; *state ^= *state << 5;
    return *state;
}

#include "io_power.h"
/* -- the fault --------------------------------------------------------------------------------------- */
static void die(void) {
    if (mode == POWER) cut_power();
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* One more call; returns what this call is to suffer: OFF nothing, FAIL_* an errno, SHORT or TORN a part. Holds the mutex until `done`. */
static enum mode due(enum call call, const char *path) {
    pthread_mutex_lock(&mutex);
    calls++;
    if (mode == OFF || mode == READ_EIO || calls < armed_at || (calls > armed_at && mode != FULL) || (mode == SHORT && call != WRITE)) return OFF;
    if (!fired) snprintf(last, sizeof last, "%s %.4000s", CALLS[call], path + (strlen(path) > folder_length ? folder_length + 1 : 0));
    int is_first = !fired++;
    if (mode == KILL || mode == POWER) die();
    if (mode == FULL) return is_first && call == WRITE ? SHORT : call == WRITE || call == CREATE ? FAIL_ENOSPC : OFF; /* a full disk takes a part, then none */
    return mode;
}

static int refused(enum mode what) {
    if (what != FAIL_EIO && what != FAIL_ENOSPC) return 0;
    pthread_mutex_unlock(&mutex);
    errno = what == FAIL_EIO ? EIO : ENOSPC;
    return 1;
}

static void done(enum mode what) {
    if (what == TORN) die();
    int kept = errno;
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

static size_t part_of(size_t length) { /* at least a byte, never all */
    unsigned state = (unsigned)calls * 2654435761u + seed + 1;
    return length < 2 ? length : 1 + draw(&state) % (length - 1);
}

/* -- the calls above --------------------------------------------------------------------------------- */
static int opened(int fd, int is_new, const char *path, enum mode what) {
    if (fd >= 0 && fd < FILES) {
        char found[PATH_MAX];
        tracked[fd] = folder_length ? kind_of_fd(fd, found) : 0;
        if (is_new && mode == POWER) record(CREATE)->name = strdup(path);
    }
    if (is_new >= 0) done(what);
    return fd;
}

static int open_any(int at, const char *name, int flags, mode_t bits) {
    char path[PATH_MAX];
    int is_new = -1;
    enum mode what = OFF;
    if (folder_length && flags & O_CREAT) {
        absolute(at, name, path);
        if (kind_of(path) == 1) {
            what = due(CREATE, path);
            if (refused(what)) return -1;
            is_new = access(path, F_OK) != 0;
        }
    }
    return opened(real_openat64()(at, name, flags, bits), is_new, path, what);
}

#define OPEN(name, arguments, at)                                                                                          \
    int name arguments {                                                                                                   \
        mode_t bits = 0;                                                                                                   \
        if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); bits = va_arg(rest, mode_t); va_end(rest); } \
        return open_any(at, path, flags, bits);                                                                            \
    }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN(openat, (int at, const char *path, int flags, ...), at)
OPEN(openat64, (int at, const char *path, int flags, ...), at)
int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int close(int fd) {
    if (fd >= 0 && fd < FILES) tracked[fd] = 0;
    return real_close()(fd);
}

static ssize_t write_any(int fd, const struct iovec *parts, int count, off64_t at, int moves) {
    char path[PATH_MAX];
    size_t length = 0, from = 0;
    for (int i = 0; i < count; i++) length += parts[i].iov_len;
    kind_of_fd(fd, path);
    enum mode what = due(WRITE, path);
    if (refused(what)) return -1;
    if (what == SHORT || what == TORN) length = part_of(length);
    char *data = malloc(length + 1);
    for (size_t i = 0, some; from < length; i++, from += some) {
        some = parts[i].iov_len < length - from ? parts[i].iov_len : length - from;
        memcpy(data + from, parts[i].iov_base, some);
    }
    if (moves) at = lseek64(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    record_data(WRITE, fd, at, data, length);
    ssize_t written = moves ? real_write()(fd, data, length) : real_pwrite64()(fd, data, length, at);
    free(data);
    done(what);
    return written;
}

ssize_t write(int fd, const void *data, size_t length) {
    struct iovec one = {(void *)data, length};
    return is_tracked(fd) ? write_any(fd, &one, 1, 0, 1) : real_write()(fd, data, length);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
    struct iovec one = {(void *)data, length};
    return is_tracked(fd) ? write_any(fd, &one, 1, at, 0) : real_pwrite64()(fd, data, length, at);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return pwrite64(fd, data, length, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return is_tracked(fd) ? write_any(fd, parts, count, 0, 1) : real_writev()(fd, parts, count);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    return is_tracked(fd) ? write_any(fd, parts, count, at, 0) : real_pwritev64()(fd, parts, count, at);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

static int read_fails(int fd) {
    if (!is_tracked(fd)) return 0;
    pthread_mutex_lock(&mutex);
    int fails = ++reads == armed_at && mode == READ_EIO;
    if (fails) { fired++; kind_of_fd(fd, last); memmove(last, last + folder_length + 1, strlen(last + folder_length)); errno = EIO; }
    pthread_mutex_unlock(&mutex);
    return fails;
}
ssize_t read(int fd, void *data, size_t length) { return read_fails(fd) ? -1 : real_read()(fd, data, length); }
ssize_t pread64(int fd, void *data, size_t length, off64_t at) { return read_fails(fd) ? -1 : real_pread64()(fd, data, length, at); }
ssize_t pread(int fd, void *data, size_t length, off_t at) { return pread64(fd, data, length, at); }

int ftruncate64(int fd, off64_t size) {
    char path[PATH_MAX];
    if (!is_tracked(fd)) return real_ftruncate64()(fd, size);
    kind_of_fd(fd, path);
    enum mode what = due(TRUNCATE, path);
    if (refused(what)) return -1;
    record_data(TRUNCATE, fd, size, NULL, 0);
    int result = real_ftruncate64()(fd, size);
    done(what);
    return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int sync_any(int fd, int (*under)(int)) {
    char path[PATH_MAX];
    if (fd < 0 || fd >= FILES || !tracked[fd]) return under(fd);
    kind_of_fd(fd, path);
    enum mode what = due(SYNC, path);
    if (refused(what)) return -1;
    int result = under(fd);
    if (!result) durable(fd);
    done(what);
    return result;
}
int fsync(int fd) { return sync_any(fd, real_fsync()); }
int fdatasync(int fd) { return sync_any(fd, real_fdatasync()); }

static int unlink_any(int at, const char *name, int flags) {
    char path[PATH_MAX];
    if (folder_length) absolute(at, name, path);
    if (!folder_length || kind_of(path) != 1) return real_unlinkat()(at, name, flags);
    enum mode what = due(REMOVE, path);
    if (refused(what)) return -1;
    if (mode == POWER && !access(path, F_OK)) {
        char aside[PATH_MAX + 64];
        snprintf(aside, sizeof aside, "%s.removed-%ld", folder, hidden++);
        if (link(path, aside)) abort();
        struct change *c = record(REMOVE);
        c->name = strdup(path); c->other = strdup(aside);
    }
    int result = real_unlinkat()(at, name, flags);
    done(what);
    return result;
}
int unlink(const char *name) { return unlink_any(AT_FDCWD, name, 0); }
int unlinkat(int at, const char *name, int flags) { return unlink_any(at, name, flags); }

int rename(const char *from, const char *to) { /* a power cut does not undo what the new name replaced: not used on the folder */
    char path[PATH_MAX];
    if (folder_length) absolute(AT_FDCWD, to, path);
    if (!folder_length || kind_of(path) != 1) return real_rename()(from, to);
    enum mode what = due(RENAME, path);
    if (refused(what)) return -1;
    int result = real_rename()(from, to);
    if (!result && mode == POWER) { struct change *c = record(RENAME); c->name = strdup(from); c->other = strdup(path); }
    done(what);
    return result;
}

/* -- from inside the process ------------------------------------------------------------------------- */
void io_watch(const char *path) { /* an absolute path without symbolic links; "" watches nothing */
    char found[PATH_MAX];
    pthread_mutex_lock(&mutex);
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    calls = reads = fired = 0; mode = OFF; last[0] = 0;
    for (int fd = 0; fd < FILES; fd++) tracked[fd] = folder_length ? kind_of_fd(fd, found) : 0;
    pthread_mutex_unlock(&mutex);
}
void io_arm(int what, long at, unsigned with_seed) { /* at: counted from 1 since io_watch; reads are counted apart */
    pthread_mutex_lock(&mutex);
    mode = what; armed_at = at; seed = with_seed; fired = 0;
    pthread_mutex_unlock(&mutex);
}
void io_lift(void) { pthread_mutex_lock(&mutex); mode = OFF; pthread_mutex_unlock(&mutex); }
long io_calls(void) { return calls; }
long io_reads(void) { return reads; }
long io_fired(void) { return fired; }
const char *io_where(void) { return last; }
