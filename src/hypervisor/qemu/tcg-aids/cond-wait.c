/*
 * Cures, from outside, a deadlock of COLO under software emulation (QEMU up to 10.2; the source read was 7.2, and
 * 11 takes the big lock itself). Loaded with LD_PRELOAD, and only when the accelerator is TCG.
 *
 * The bug: COLO saves RAM on the migration thread without the big QEMU lock. Synchronizing the dirty bitmap then
 * calls run_on_cpu(), which waits on a condition variable with that lock as its mutex. pthread_cond_wait() with a
 * mutex that the caller does not hold unlocks it under the feet of whoever does, and from there on anything goes.
 *
 * The cure: a wait whose mutex belongs to somebody else is not done. Instead the mutex is taken, everybody who waits
 * with it is woken, it is released, and the wait returns after a moment as a spurious wake-up, which every caller
 * has to allow for (QEMU looks again in a loop). Waking the others is needed: a virtual CPU that looked at its work
 * queue just before the work was put in, without the lock, would sleep on, and the caller would ask for ever.
 *
 * The table of waiters needs no lock of its own. The entries of a mutex are made, read and taken out only by the
 * thread that holds this mutex; between mutexes only the claiming of a slot is shared, and that is one atomic
 * exchange. Condition variables of a mutex that is misused in this way must outlive their waiters; those of the big
 * lock live as long as QEMU.
 *
 * A full table: the wait becomes one of at most a millisecond and then a spurious wake-up, so nobody can be missed.
 *
 * pthread_cond_timedwait is left alone: it ends by itself, and QEMU does not call it without the lock.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 256 /* threads that wait at one time: virtual CPUs and a few more */
#define PAUSE_NS 20000
#define FULL_TABLE_WAIT_NS 1000000

struct waiter {
    _Atomic(pthread_mutex_t *) mutex; /* NULL: the slot is free */
    _Atomic(pthread_cond_t *) cond;   /* NULL: claimed, not filled in yet */
};

typedef int (*cond_wait_fn)(pthread_cond_t *, pthread_mutex_t *);

static struct waiter waiters[SLOTS];
static cond_wait_fn real_cond_wait;

/* glibc has two of this name on x86; plain dlsym() may give the old one, for condition variables of another layout. */
__attribute__((constructor)) static void find_real(void)
{
    real_cond_wait = (cond_wait_fn)dlvsym(RTLD_NEXT, "pthread_cond_wait", "GLIBC_2.3.2");
    if (!real_cond_wait)
        real_cond_wait = (cond_wait_fn)dlsym(RTLD_NEXT, "pthread_cond_wait");
    if (!real_cond_wait) {
        fputs("cond-wait: this C library has no pthread_cond_wait\n", stderr);
        abort();
    }
}

static struct waiter *enter(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    for (int i = 0; i < SLOTS; i++) {
        pthread_mutex_t *none = NULL;
        if (atomic_compare_exchange_strong(&waiters[i].mutex, &none, mutex)) {
            atomic_store(&waiters[i].cond, cond);
            return &waiters[i];
        }
    }
    return NULL;
}

static void leave(struct waiter *waiter)
{
    atomic_store(&waiter->cond, NULL);
    atomic_store(&waiter->mutex, NULL);
}

/* The caller holds `mutex`. */
static void wake_all(pthread_mutex_t *mutex)
{
    for (int i = 0; i < SLOTS; i++) {
        pthread_cond_t *cond;
        if (atomic_load(&waiters[i].mutex) == mutex && (cond = atomic_load(&waiters[i].cond)))
            pthread_cond_broadcast(cond);
    }
}

static void add_ns(struct timespec *time, long ns)
{
    time->tv_nsec += ns;
    if (time->tv_nsec >= 1000000000) {
        time->tv_nsec -= 1000000000;
        time->tv_sec++;
    }
}

__attribute__((visibility("default"))) int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    struct waiter *waiter;
    int result;

    if (mutex->__data.__owner != gettid()) {
        struct timespec pause = {0, PAUSE_NS};
        result = pthread_mutex_lock(mutex);
        if (result)
            return result;
        wake_all(mutex);
        pthread_mutex_unlock(mutex);
        nanosleep(&pause, NULL);
        return 0;
    }
    waiter = enter(cond, mutex);
    if (!waiter) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        add_ns(&until, FULL_TABLE_WAIT_NS);
        result = pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &until);
        return result == ETIMEDOUT ? 0 : result;
    }
    result = real_cond_wait(cond, mutex);
    leave(waiter);
    return result;
}
