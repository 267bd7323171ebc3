/* Disk errors on request: stands between a process and the C library's calls that write files.
 *
 * Preloaded (LD_PRELOAD), it lets everything through until fault_arm is called; then, on files whose path contains a given text,
 * one write or sync fails, is cut short, or is the last thing that the process does. Single calls are counted, so that a fault
 * can be put at the n-th.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum kind {
    NONE = 0,
    WRITE_EIO = 1,   /* the n-th write fails */
    WRITE_SHORT = 2, /* the n-th write writes half, and says so */
    WRITE_TORN = 3,  /* the n-th write writes half, and the process is killed */
    FULL = 4,        /* files may grow by n bytes in all, then the disk is full */
    SYNC_EIO = 5,    /* the n-th sync fails */
    SYNC_KILL = 6,   /* the process is killed instead of the n-th sync */
    SYNCED_KILL = 7, /* the process is killed after the n-th sync */
    WRITES_EIO = 8   /* the n-th write and all later ones fail */
};

static atomic_int armed = NONE;
static atomic_long nth, writes, syncs, grown, met;
static char part[256];

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

static void find_real(void) __attribute__((constructor));
static void find_real(void)
{
    real_write = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
}

/* kind NONE counts and lets through. */
void fault_arm(int kind, const char *path_part, long n)
{
    atomic_store(&armed, NONE);
    strncpy(part, path_part, sizeof part - 1);
    part[sizeof part - 1] = 0;
    atomic_store(&nth, n);
    atomic_store(&writes, 0);
    atomic_store(&syncs, 0);
    atomic_store(&grown, 0);
    atomic_store(&met, 0);
    atomic_store(&armed, kind);
}

void fault_disarm(void) { atomic_store(&armed, NONE); }
long fault_writes(void) { return atomic_load(&writes); }
long fault_syncs(void) { return atomic_load(&syncs); }
/* How often the fault has happened since it was armed. */
long fault_met(void) { return atomic_load(&met); }

static int is_meant(int file)
{
    char link[64], path[4096];
    ssize_t length;

    if (!part[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

static void die(void) { kill(getpid(), SIGKILL); }

/* What is to be written of a write of count bytes at offset: all, less, or -1 with errno set. */
static ssize_t allowed(int file, size_t count, off_t offset, int *dies)
{
    long number = atomic_fetch_add(&writes, 1) + 1;
    int kind = atomic_load(&armed);

    *dies = 0;
    if (kind == FULL) {
        struct stat there;
        long growth, left;

        if (fstat(file, &there) != 0)
            return count;
        growth = (long)(offset + (off_t)count - there.st_size);
        if (growth <= 0)
            return count;
        left = atomic_load(&nth) - atomic_fetch_add(&grown, growth);
        if (growth <= left)
            return count;
        atomic_fetch_add(&met, 1);
        atomic_fetch_sub(&grown, growth - (left > 0 ? left : 0));
        if (left > 0 && (long)count - growth + left > 0)
            return (long)count - growth + left;
        errno = ENOSPC;
        return -1;
    }
    if (kind == WRITES_EIO ? number < atomic_load(&nth) : number != atomic_load(&nth))
        return count;
    switch (kind) {
    case WRITE_EIO:
    case WRITES_EIO:
        atomic_fetch_add(&met, 1);
        errno = EIO;
        return -1;
    case WRITE_TORN:
        *dies = 1; /* fall through */
    case WRITE_SHORT:
        atomic_fetch_add(&met, 1);
        return count > 1 ? count / 2 : count;
    default:
        return count;
    }
}

ssize_t write(int file, const void *data, size_t count)
{
    ssize_t most, done;
    int dies = 0;

    if (!is_meant(file))
        return real_write(file, data, count);
    most = allowed(file, count, lseek(file, 0, SEEK_CUR), &dies);
    if (most < 0)
        return -1;
    done = real_write(file, data, most);
    if (dies)
        die();
    return done;
}

ssize_t pwrite64(int file, const void *data, size_t count, off_t offset)
{
    ssize_t most, done;
    int dies = 0;

    if (!is_meant(file))
        return real_pwrite(file, data, count, offset);
    most = allowed(file, count, offset, &dies);
    if (most < 0)
        return -1;
    done = real_pwrite(file, data, most, offset);
    if (dies)
        die();
    return done;
}

ssize_t pwrite(int file, const void *data, size_t count, off_t offset) { return pwrite64(file, data, count, offset); }

static int synced(int file, int (*real)(int))
{
    long number;
    int kind, done;

    if (!is_meant(file))
        return real(file);
    number = atomic_fetch_add(&syncs, 1) + 1;
    kind = atomic_load(&armed);
    if (number != atomic_load(&nth) || kind < SYNC_EIO || kind == WRITES_EIO)
        return real(file);
    atomic_fetch_add(&met, 1);
    if (kind == SYNC_EIO) {
        errno = EIO;
        return -1;
    }
    if (kind == SYNC_KILL)
        die();
    done = real(file);
    die();
    return done;
}

int fsync(int file) { return synced(file, real_fsync); }
int fdatasync(int file) { return synced(file, real_fdatasync); }
