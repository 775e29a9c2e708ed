/* A wall clock that a test sets, for a process that was started with LD_PRELOAD=clock_shim.so and CLOCK_SHIM=FILE.
 *
 * FILE holds one int64, seconds, mapped once: what is written there moves the clock of the running process at once. Only CLOCK_REALTIME moves,
 * as when NTP or a person sets the clock; the monotonic clocks, by which the kernel waits, do not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *offset_s;

__attribute__((constructor)) static void map_it(void) {
    const char *path = getenv("CLOCK_SHIM");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof *offset_s, PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) offset_s = found;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*under)(clockid_t, struct timespec *);
    if (!under) *(void **)&under = dlsym(RTLD_NEXT, "clock_gettime");
    int said = under(clock, at);
    if (!said && offset_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *offset_s;
    return said;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int said = clock_gettime(CLOCK_REALTIME, &now);
    if (!said) *at = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return said;
}

time_t time(time_t *at) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return (time_t)-1;
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
