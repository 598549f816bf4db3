// Preloaded into a node (LD_PRELOAD): its clocks run as a control file says, and reads, writes and syncs of its data fail as that says.
//
// FAULT_SHIM_CONTROL names the file, which is mapped, so that a change is seen at once. FAULT_SHIM_ROOT is the directory whose files
// can fail. The layout of the file is that of `struct control`; shim.rs writes it.
//
// Waits: the kernel knows nothing of this, so deadlines on a clock are converted to the kernel's. Waits of a length are not: they last
// their length in true time, and who waits looks at the clock again.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL
#define LIE 0xffffffffu

struct control {
  uint64_t sequence;  // odd while the clocks are being changed
  int64_t wall_offset, anchor, anchor_fake, rate;  // nanoseconds; the rate in billionths
  uint32_t sync_error, write_error, read_error, sync_delay_ms;  // errors are errno, or LIE
  uint64_t injected;  // counted here, only read outside
};

static struct control *control;
static char root[4096];
static size_t root_len;

// The function that the program would have called without this library.
#define REAL(type, name, ...)                             \
  static type (*real)(__VA_ARGS__);                       \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("FAULT_SHIM_CONTROL");
  const char *data = getenv("FAULT_SHIM_ROOT");
  if (!path) return;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  void *map = fd < 0 ? MAP_FAILED : mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED || !data || strlen(data) >= sizeof root) {
    // A node that ran without its faults would pass for one that survived them.
    fprintf(stderr, "shim: cannot use %s: %s\n", path, strerror(errno));
    _exit(97);
  }
  close(fd);
  strcpy(root, data);
  root_len = strlen(root);
  control = map;
}

// ---- clocks ----

struct clocks {
  int64_t wall_offset, anchor, anchor_fake, rate;
};

static int load(struct clocks *to) {
  if (!control) return 0;
  for (;;) {
    uint64_t before = __atomic_load_n(&control->sequence, __ATOMIC_ACQUIRE);
    if (before & 1) continue;
    to->wall_offset = __atomic_load_n(&control->wall_offset, __ATOMIC_RELAXED);
    to->anchor = __atomic_load_n(&control->anchor, __ATOMIC_RELAXED);
    to->anchor_fake = __atomic_load_n(&control->anchor_fake, __ATOMIC_RELAXED);
    to->rate = __atomic_load_n(&control->rate, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (__atomic_load_n(&control->sequence, __ATOMIC_RELAXED) == before) return 1;
  }
}

static int true_time(clockid_t clock, struct timespec *to) {
  REAL(int, "clock_gettime", clockid_t, struct timespec *);
  return real(clock, to);
}

static int64_t nanos(const struct timespec *t) { return t->tv_sec * BILLION + t->tv_nsec; }

static struct timespec timespec_of(int64_t nanos) {
  if (nanos < 0) nanos = 0;
  return (struct timespec){nanos / BILLION, nanos % BILLION};
}

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

static int is_steady(clockid_t clock) {
  return clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_BOOTTIME;
}

// How far a clock is ahead of the kernel's, by drift since the anchor and by the offset.
static int64_t ahead(clockid_t clock, const struct clocks *c, int64_t steady) {
  int64_t drifted = c->anchor_fake + (int64_t)((__int128)(steady - c->anchor) * c->rate / BILLION);
  return drifted - steady + (is_wall(clock) ? c->wall_offset : 0);
}

int clock_gettime(clockid_t clock, struct timespec *to) {
  struct clocks c;
  struct timespec steady;
  int result = true_time(clock, to);
  if (result || !(is_wall(clock) || is_steady(clock)) || !load(&c)) return result;
  // The clock itself must be what it is shifted by, or two readings could go backward.
  if (clock == CLOCK_MONOTONIC) steady = *to;
  else true_time(CLOCK_MONOTONIC, &steady);
  *to = timespec_of(nanos(to) + ahead(clock, &c, nanos(&steady)));
  return 0;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
  struct timespec now;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  to->tv_sec = now.tv_sec;
  to->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}

// The kernel's time at which the node's clock shows this.
static struct timespec true_deadline(clockid_t clock, const struct timespec *deadline) {
  struct clocks c;
  struct timespec now, steady;
  if (!load(&c)) return *deadline;
  true_time(clock, &now);
  true_time(CLOCK_MONOTONIC, &steady);
  int64_t left = nanos(deadline) - nanos(&now) - ahead(clock, &c, nanos(&steady));
  return timespec_of(nanos(&now) + (int64_t)((__int128)left * BILLION / c.rate));
}

// Rust's condition variables and parked threads wait with a futex for a deadline on the monotonic clock.
long shim_syscall(long number, long a, long b, long c, long d, long e, long f) __asm__("syscall");
long shim_syscall(long number, long a, long b, long c, long d, long e, long f) {
  REAL(long, "syscall", long, ...);
  if (number == SYS_futex && d && (b & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET) {
    clockid_t clock = b & FUTEX_CLOCK_REALTIME ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    struct timespec deadline = true_deadline(clock, (const struct timespec *)d);
    return real(number, a, b, c, (long)&deadline, e, f);
  }
  return real(number, a, b, c, d, e, f);
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until) {
  REAL(int, "pthread_cond_clockwait", pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
  struct timespec deadline = true_deadline(clock, until);
  return real(cond, mutex, clock, &deadline);
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
  static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  // Under its plain name an older form may be found, with another layout of the variable.
  if (!real) real = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!real) real = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  // The variable knows its clock and does not tell; the monotonic one has not run for thirty years, the other has.
  clockid_t clock = until->tv_sec < BILLION ? CLOCK_MONOTONIC : CLOCK_REALTIME;
  struct timespec deadline = true_deadline(clock, until);
  return real(cond, mutex, &deadline);
}

int sem_clockwait(sem_t *restrict sem, clockid_t clock, const struct timespec *restrict until) {
  REAL(int, "sem_clockwait", sem_t *, clockid_t, const struct timespec *);
  struct timespec deadline = true_deadline(clock, until);
  return real(sem, clock, &deadline);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left) {
  REAL(int, "clock_nanosleep", clockid_t, int, const struct timespec *, struct timespec *);
  if (!(flags & TIMER_ABSTIME)) return real(clock, flags, wanted, left);
  struct timespec deadline = true_deadline(clock, wanted);
  return real(clock, flags, &deadline, left);
}

// ---- disk ----

static int is_data(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t len = readlink(link, path, sizeof path);
  return len > (ssize_t)root_len && !memcmp(path, root, root_len) && path[root_len] == '/';
}

// What is to happen to this call instead: an errno, LIE, or 0 for nothing.
static uint32_t fault(uint32_t *which, int fd) {
  uint32_t what = __atomic_load_n(which, __ATOMIC_RELAXED);
  int saved = errno;
  if (what && !is_data(fd)) what = 0;
  errno = saved;
  if (what) __atomic_fetch_add(&control->injected, 1, __ATOMIC_RELAXED);
  return what;
}

static int sync_with(int (*real)(int), int fd) {
  if (!control) return real(fd);
  uint32_t delay = __atomic_load_n(&control->sync_delay_ms, __ATOMIC_RELAXED);
  if (delay && is_data(fd)) {
    struct timespec length = {delay / 1000, delay % 1000 * 1000000L};
    __atomic_fetch_add(&control->injected, 1, __ATOMIC_RELAXED);
    nanosleep(&length, 0);
  }
  uint32_t what = fault(&control->sync_error, fd);
  if (what == LIE) return 0;
  if (what) return errno = (int)what, -1;
  return real(fd);
}

int fsync(int fd) {
  REAL(int, "fsync", int);
  return sync_with(real, fd);
}

int fdatasync(int fd) {
  REAL(int, "fdatasync", int);
  return sync_with(real, fd);
}

#define FAILS(which, fd)                                        \
  if (control) {                                                \
    uint32_t what = fault(&control->which, fd);                 \
    if (what) return errno = (int)what, -1;                     \
  }

ssize_t write(int fd, const void *from, size_t len) {
  REAL(ssize_t, "write", int, const void *, size_t);
  FAILS(write_error, fd)
  return real(fd, from, len);
}

ssize_t pwrite(int fd, const void *from, size_t len, off_t at) {
  REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
  FAILS(write_error, fd)
  return real(fd, from, len, at);
}

ssize_t pwrite64(int fd, const void *from, size_t len, off64_t at) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  FAILS(write_error, fd)
  return real(fd, from, len, at);
}

ssize_t writev(int fd, const struct iovec *from, int count) {
  REAL(ssize_t, "writev", int, const struct iovec *, int);
  FAILS(write_error, fd)
  return real(fd, from, count);
}

ssize_t read(int fd, void *to, size_t len) {
  REAL(ssize_t, "read", int, void *, size_t);
  FAILS(read_error, fd)
  return real(fd, to, len);
}

ssize_t pread(int fd, void *to, size_t len, off_t at) {
  REAL(ssize_t, "pread", int, void *, size_t, off_t);
  FAILS(read_error, fd)
  return real(fd, to, len, at);
}

ssize_t pread64(int fd, void *to, size_t len, off64_t at) {
  REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
  FAILS(read_error, fd)
  return real(fd, to, len, at);
}
