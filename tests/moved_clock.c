/* Moves the wall clock of the processes that preload it, while they run; clocks that only go forward stay.
 *
 * A file of eight bytes, named by MOVED_CLOCK and mapped by each of them, says by how many nanoseconds. As in a machine whose
 * clock is set, a wait until a time of the wall clock becomes shorter or longer while it lasts: such waits are cut into slices,
 * each of which ends as waits may always end, without a reason, and the caller asks again. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t SECOND = 1000000000, SLICE = 100000000;
static const time_t WALL = 1000000000; /* no clock since the machine's start shows so many seconds */

static const volatile int64_t *moved;
static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_cond)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_cond_clock)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static int (*real_semaphore)(sem_t *, const struct timespec *);
static long (*real_syscall)(long, ...);

static void resolve(void) {
    real_cond = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    real_cond_clock = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    real_semaphore = dlsym(RTLD_NEXT, "sem_timedwait");
    real_syscall = dlsym(RTLD_NEXT, "syscall");
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
}

__attribute__((constructor)) static void map(void) {
    const char *path = getenv("MOVED_CLOCK");
    if (!real_clock) resolve();
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof *moved, PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) moved = found;
    close(file);
}

static int64_t by(void) { return moved ? *moved : 0; }

static int64_t count(const struct timespec *time) { return time->tv_sec * SECOND + time->tv_nsec; }

static struct timespec spec(int64_t count) { return (struct timespec){count / SECOND, count % SECOND}; }

static int64_t unmoved(clockid_t clock) {
    struct timespec time;
    if (!real_clock) resolve();
    real_clock(clock, &time);
    return count(&time);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real_clock) resolve();
    int failed = real_clock(clock, time);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) *time = spec(count(time) + by());
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    int64_t now = unmoved(CLOCK_REALTIME) + by();
    *time = (struct timeval){now / SECOND, now % SECOND / 1000};
    return 0;
}

time_t time(time_t *place) {
    time_t now = (unmoved(CLOCK_REALTIME) + by()) / SECOND;
    if (place) *place = now;
    return now;
}

/* The end of a slice of a wait until a time of the moved clock, as the unmoved clock says it. */
static struct timespec slice(const struct timespec *until, int *last) {
    int64_t end = count(until) - by(), next = unmoved(CLOCK_REALTIME) + SLICE;
    *last = end <= next;
    return spec(*last ? (end > 0 ? end : 0) : next);
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    if (until->tv_sec < WALL) return real_cond(cond, mutex, until);
    int last;
    struct timespec end = slice(until, &last);
    int status = real_cond(cond, mutex, &end);
    return status == ETIMEDOUT && !last ? 0 : status;
}

int pthread_cond_clockwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict until) {
    if (clock != CLOCK_REALTIME) return real_cond_clock(cond, mutex, clock, until);
    int last;
    struct timespec end = slice(until, &last);
    int status = real_cond_clock(cond, mutex, clock, &end);
    return status == ETIMEDOUT && !last ? 0 : status;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    for (;;) {
        int last;
        struct timespec end = slice(until, &last);
        int failed = real_semaphore(semaphore, &end);
        if (!failed || errno != ETIMEDOUT || last) return failed;
    }
}

/* Abseil waits by futexes of its own. */
long syscall(long number, ...) {
    va_list given;
    long a[6];
    va_start(given, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(given, long);
    va_end(given);
    if (!real_syscall) resolve();
    int wall = number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && a[3];
    if (number == SYS_clock_gettime) return clock_gettime(a[0], (struct timespec *)a[1]);
    if (!wall) return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    int last;
    struct timespec end = slice((const struct timespec *)a[3], &last);
    long failed = real_syscall(number, a[0], a[1], a[2], (long)&end, a[4], a[5]);
    if (failed && errno == ETIMEDOUT && !last) errno = EINTR;
    return failed;
}
