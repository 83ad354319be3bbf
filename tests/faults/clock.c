/* The wall clock, off by so many seconds as stand in the file that FAULTS_CLOCK names: preloaded into the gate, since a
 * machine's clock is everybody's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;
static int (*true_clock)(clockid_t, struct timespec *);
static int (*true_day)(struct timeval *, void *);

__attribute__((constructor)) static void begin(void) {
    true_clock = dlsym(RTLD_NEXT, "clock_gettime");
    true_day = dlsym(RTLD_NEXT, "gettimeofday");
    const char *path = getenv("FAULTS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *place = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (place != MAP_FAILED)
        offset = place;
    close(file);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    if (!true_clock)
        true_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int result = true_clock(which, now);
    if (result == 0 && offset && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    if (!true_day)
        true_day = dlsym(RTLD_NEXT, "gettimeofday");
    int result = true_day(now, zone);
    if (result == 0 && offset)
        now->tv_sec += *offset;
    return result;
}

time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place)
        *place = now.tv_sec;
    return now.tv_sec;
}
