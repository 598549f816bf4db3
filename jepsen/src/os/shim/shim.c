// Preloaded into a node (LD_PRELOAD): its clocks run as a control file says, and reads, writes and syncs of its data fail as that says.
//
// FAULT_SHIM_CONTROL names the file, which is mapped, so that a change is seen at once. FAULT_SHIM_ROOT is the directory whose files
// can fail. The layout of the file is that of `struct control`; shim.rs writes it.
//
// FAULT_SHIM_UNDO, if it is set, names a file that makes the disk one with a cache that a loss of power empties: what a direct write
// replaces is kept there until a sync of that file has succeeded. cache.rs puts it back.
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
#include <sys/stat.h>
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
  uint64_t failed, delayed, full;  // counted here, only read outside: calls that failed or lied, slow syncs, the device's own ENOSPC
};

// The file of FAULT_SHIM_UNDO: this, then records one after the other.
struct undo {
  uint64_t size;     // of the whole file
  uint64_t used;     // bytes of records
  uint64_t last_id;  // of a record, from 1 on
  uint64_t dropped;  // records that had no room any more: those writes are taken for synced
};

struct record {
  uint64_t inode, born;  // whose bytes: an inode's number is used again. 0: synced
  uint64_t id, at, len;  // len bytes follow, and zeros up to a multiple of 8
};

static struct control *control;
static struct undo *undo;
static pthread_mutex_t undo_lock = PTHREAD_MUTEX_INITIALIZER;
static char root[4096];
static size_t root_len;

// The function that the program would have called without this library.
#define REAL(type, name, ...)                             \
  static type (*real)(__VA_ARGS__);                       \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

// A node that ran without its faults would pass for one that survived them.
static void *map_or_end(const char *path, size_t size) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  struct stat stat;
  int fits = fd >= 0 && !fstat(fd, &stat) && (size_t)stat.st_size >= size;
  void *map = fits ? mmap(0, stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (map == MAP_FAILED) {
    fprintf(stderr, "shim: cannot use %s: %s\n", path, strerror(errno));
    _exit(97);
  }
  close(fd);
  return map;
}

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("FAULT_SHIM_CONTROL");
  const char *data = getenv("FAULT_SHIM_ROOT");
  const char *kept = getenv("FAULT_SHIM_UNDO");
  if (!path) return;
  if (!data || strlen(data) >= sizeof root) {
    fprintf(stderr, "shim: cannot use its root\n");
    _exit(97);
  }
  strcpy(root, data);
  root_len = strlen(root);
  if (kept) undo = map_or_end(kept, sizeof *undo);
  control = map_or_end(path, sizeof *control);
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
  if (what) __atomic_fetch_add(&control->failed, 1, __ATOMIC_RELAXED);
  return what;
}

// ---- what a loss of power takes back ----
//
// A direct write of blocks that the file system has written before reaches the device at once, so that cutting off the file system does
// not lose it. A device with a cache may lose it until the next flush.

static struct record *record_at(uint64_t offset) { return (struct record *)((char *)(undo + 1) + offset); }

static uint64_t size_of(uint64_t len) { return sizeof(struct record) + (len + 7) / 8 * 8; }

static uint64_t room(void) { return undo->size - sizeof *undo - undo->used; }

// Whose bytes are behind it. False: it is not known.
static int identify(int fd, uint64_t *inode, uint64_t *born) {
  struct statx stat;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &stat)) return 0;
  *inode = stat.stx_ino;
  *born = (uint64_t)stat.stx_btime.tv_sec * BILLION + stat.stx_btime.tv_nsec;
  return 1;
}

// Leaves out what is synced and, if that is not enough, the oldest, as a device writes it back some time. A process that is killed here
// leaves nothing, which is the same.
static void make_room(uint64_t needed) {
  uint64_t used = undo->used, keep = 0, dropped = 0, live = 0;
  for (uint64_t at = 0; at < used; at += size_of(record_at(at)->len))
    if (record_at(at)->inode) live += size_of(record_at(at)->len);
  undo->used = 0;
  for (uint64_t at = 0, size; at < used; at += size) {
    struct record *record = record_at(at);
    size = size_of(record->len);
    if (!record->inode) continue;
    if (undo->size - sizeof *undo - live < needed) {
      live -= size;
      dropped++;
      continue;
    }
    memmove(record_at(keep), record, size);
    keep += size;
  }
  undo->dropped += dropped;
  undo->used = keep;
}

// Keeps what is there now. The lock is held.
static void keep(int fd, size_t len, off64_t at) {
  REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
  char path[64];
  struct record head = {.at = at};
  if (!identify(fd, &head.inode, &head.born)) return;
  if (room() < size_of(len)) make_room(size_of(len));
  if (room() < size_of(len)) {
    undo->dropped++;
    return;
  }
  // The descriptor itself may be for writing only. Not a direct read: that would write to the device what is in the page cache.
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  int from = open(path, O_RDONLY | O_CLOEXEC);
  if (from < 0) return;
  struct record *record = record_at(undo->used);
  char *bytes = (char *)(record + 1);
  for (ssize_t got; head.len < len; head.len += got) {
    got = real(from, bytes + head.len, len - head.len, at + head.len);
    if (got <= 0) break;
  }
  close(from);
  // Behind the end of the file there was nothing.
  if (!head.len) return;
  head.id = ++undo->last_id;
  *record = head;
  __atomic_store_n(&undo->used, undo->used + size_of(head.len), __ATOMIC_RELEASE);
}

// True, with the lock held, if this write is to be one that can be lost; it is to be followed by `written`.
static int writing(int fd, size_t len, off64_t at) {
  int saved = errno;
  int is_one = control && undo && at >= 0 && fcntl(fd, F_GETFL) & O_DIRECT && is_data(fd);
  if (is_one) {
    pthread_mutex_lock(&undo_lock);
    keep(fd, len, at);
  }
  errno = saved;
  return is_one;
}

static ssize_t written(int was_kept, int fd, ssize_t result) {
  int saved = errno;
  if (was_kept) pthread_mutex_unlock(&undo_lock);
  if (control && result < 0 && saved == ENOSPC && is_data(fd)) __atomic_fetch_add(&control->full, 1, __ATOMIC_RELAXED);
  errno = saved;
  return result;
}

static uint64_t begin_sync(void) {
  if (!undo) return 0;
  pthread_mutex_lock(&undo_lock);
  uint64_t last_id = undo->last_id;
  pthread_mutex_unlock(&undo_lock);
  return last_id;
}

// What was written to the file before the sync began is kept no longer.
static void synced(int fd, uint64_t last_id) {
  uint64_t inode, born, live = 0;
  if (!undo || !identify(fd, &inode, &born)) return;
  pthread_mutex_lock(&undo_lock);
  for (uint64_t at = 0; at < undo->used; at += size_of(record_at(at)->len)) {
    struct record *record = record_at(at);
    if (record->inode == inode && record->born == born && record->id <= last_id) record->inode = 0;
    live += record->inode != 0;
  }
  if (!live) undo->used = 0;
  pthread_mutex_unlock(&undo_lock);
}

static int sync_with(int (*real)(int), int fd) {
  if (!control) return real(fd);
  uint32_t delay = __atomic_load_n(&control->sync_delay_ms, __ATOMIC_RELAXED);
  if (delay && is_data(fd)) {
    struct timespec length = {delay / 1000, delay % 1000 * 1000000L};
    __atomic_fetch_add(&control->delayed, 1, __ATOMIC_RELAXED);
    nanosleep(&length, 0);
  }
  uint32_t what = fault(&control->sync_error, fd);
  if (what == LIE) return 0;
  if (what) return errno = (int)what, -1;
  uint64_t last_id = begin_sync();
  int result = real(fd);
  if (!result) synced(fd, last_id);
  return result;
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
  int is_kept = writing(fd, len, undo ? lseek64(fd, 0, SEEK_CUR) : 0);
  return written(is_kept, fd, real(fd, from, len));
}

ssize_t pwrite(int fd, const void *from, size_t len, off_t at) {
  REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
  FAILS(write_error, fd)
  int is_kept = writing(fd, len, at);
  return written(is_kept, fd, real(fd, from, len, at));
}

ssize_t pwrite64(int fd, const void *from, size_t len, off64_t at) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
  FAILS(write_error, fd)
  int is_kept = writing(fd, len, at);
  return written(is_kept, fd, real(fd, from, len, at));
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
