/* Waits that are right for a process whose clock libfaketime fakes.
 *
 * Preloaded (LD_PRELOAD) before that library, it mends two things of its release 0.9.10. clock_nanosleep is refused (EINVAL) for a
 * deadline on the monotonic clock, as Python's time.sleep has one; no sleep of ours ends at a time of the clock on the wall, so sleeps
 * are left as they are. And cnd_timedwait, which the Kafka client waits by until a time of the faked clock, is not known to it, so it
 * would be off by as much as the clock is; it becomes the wait for which the library does it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *asked, struct timespec *left)
{
    int before = errno;
    int failed = syscall(SYS_clock_nanosleep, clock, flags, asked, left) ? errno : 0;
    errno = before;
    return failed;
}

int nanosleep(const struct timespec *asked, struct timespec *left)
{
    return (int)syscall(SYS_nanosleep, asked, left);
}

/* In glibc a cnd_t is a pthread_cond_t, and a mtx_t a pthread_mutex_t. */
int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until)
{
    int failed = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
    return failed == 0 ? thrd_success : failed == ETIMEDOUT ? thrd_timedout : thrd_error;
}
